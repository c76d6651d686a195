"""The image source `import`: a root file system that is already there, as ext4, qcow2, a raw disk or a tar archive."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from banger.errors import PlaybookError, Problem
from banger.hooks import hookimpl
from banger.needs import Need, program
from banger.resource import Resource
from banger.types import ImageSource, ImageSpec

from .image import BUILDER, ImportedImage
from .options import ImportOptions

__all__ = ["ImportOptions", "ImportedImage"]


@hookimpl
def register_needs() -> Sequence[Need]:
    return [program("qemu-img", "apt install qemu-utils", always=False)]  # for qcow2


@hookimpl
def register_image_source() -> ImageSource:
    return ImageSource("import", ImportOptions)


@hookimpl
def image_recipe(spec: ImageSpec, digest_of: Callable[[Path], str]) -> dict[str, Any]:
    """What the files hold decides the image, not where they lie. Raises PlaybookError when one cannot be read."""
    options = located(spec)
    files = {"path": options.path, "kernel": options.kernel, "initrd": options.initrd}
    problems: list[Problem] = []
    contents: dict[str, str | None] = {}
    for key, path in files.items():
        try:
            contents[key] = None if path is None else digest_of(Path(path))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = error.strerror if isinstance(error, OSError) else error
            written = getattr(spec.options, key)
            message = f"{written!r}, of the image '{spec.name}', cannot be read: {reason}"
            hint = "paths are relative to the playbook"
            if isinstance(error, PermissionError):
                hint = f"let this user read it: ls -l {shlex.quote(str(path))}"
            problems.append(Problem(spec.place_of(key), message, hint))
    if problems:
        raise PlaybookError(problems)
    content = contents.pop("path")
    return {"builder": BUILDER, "format": options.format, "content": content, **contents}


@hookimpl
def prepare_image(spec: ImageSpec, directory: Path) -> Sequence[Resource]:
    return [ImportedImage(f"image/{directory.name}/rootfs", directory, located(spec))]


def located(spec: ImageSpec) -> ImportOptions:
    """The options with every path absolute: in a playbook they are relative to it."""
    options: ImportOptions = spec.options
    base = Path(spec.place.file).absolute().parent if spec.place else Path.cwd()
    kernel = None if options.kernel is None else str(base / options.kernel)
    initrd = None if options.initrd is None else str(base / options.initrd)
    return replace(options, path=str(base / options.path), kernel=kernel, initrd=initrd)
