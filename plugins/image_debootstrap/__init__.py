"""The image source `debootstrap`: a small Debian from its packages, by mmdebstrap(1), by root or an ordinary user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from banger.hooks import hookimpl
from banger.needs import Need, programs
from banger.resource import Resource
from banger.types import ImageSource, ImageSpec

from .image import BUILDER, DebootstrapImage
from .options import ARCHITECTURE, DebootstrapOptions, all_packages

__all__ = ["DebootstrapImage", "DebootstrapOptions"]


@hookimpl
def register_needs() -> Sequence[Need]:
    return [*programs(["mmdebstrap"], "mmdebstrap"), *programs(["mke2fs"], "e2fsprogs")]


@hookimpl
def register_image_source() -> ImageSource:
    return ImageSource("debootstrap", DebootstrapOptions)


@hookimpl
def image_recipe(spec: ImageSpec) -> dict[str, Any]:
    """What decides the image. The packages' versions do not: an image is built once, from what the mirror has then."""
    options: DebootstrapOptions = spec.options
    return {
        "builder": BUILDER,
        "architecture": ARCHITECTURE,
        "suite": options.suite,
        "packages": list(all_packages(options)),
        "mirror": options.mirror,
        "size_bytes": options.size,
    }


@hookimpl
def prepare_image(spec: ImageSpec, directory: Path) -> Sequence[Resource]:
    return [DebootstrapImage(f"image/{directory.name}/rootfs", directory, spec.options)]
