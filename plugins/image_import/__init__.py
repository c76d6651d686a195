"""The image source `import`: a root file system that is already there, as ext4, qcow2, a raw disk or a tar archive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from banger.errors import HostError
from banger.hooks import hookimpl
from banger.resource import Resource
from banger.types import ImageSource, ImageSpec

from .build import BUILDER, ImportedImage
from .options import ImportOptions

__all__ = ["ImportOptions", "ImportedImage"]


@hookimpl
def register_image_source() -> ImageSource:
    return ImageSource("import", ImportOptions)


@hookimpl
def image_recipe(spec: ImageSpec) -> dict[str, Any]:
    """What the files hold decides the image, not where they lie. Raises HostError for one that cannot be read."""
    options: ImportOptions = spec.options
    return {
        "builder": BUILDER,
        "format": options.format,
        "content": _sha256(options.path),
        "kernel": None if options.kernel is None else _sha256(options.kernel),
        "initrd": None if options.initrd is None else _sha256(options.initrd),
    }


@hookimpl
def prepare_image(spec: ImageSpec, directory: Path) -> Sequence[Resource]:
    return [ImportedImage(f"image/{directory.name}/rootfs", directory, spec.options)]


def _sha256(path: str) -> str:
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise HostError(f"the image file {path} cannot be read: {error.strerror}") from error
