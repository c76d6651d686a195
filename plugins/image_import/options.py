"""What a playbook may say of an imported image. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from banger.scalars import HostPath

__all__ = ["Format", "ImportOptions"]

Format = Literal["ext4", "qcow2", "disk", "tar"]


@dataclass(frozen=True)
class ImportOptions:
    """`kernel` and `initrd` are files on the host; without them the image's own kernel is used and an initrd made."""

    path: HostPath
    format: Literal["auto", "ext4", "qcow2", "disk", "tar"] = "auto"
    """`disk` is a raw disk with a partition table; `tar` may be compressed with gzip, bzip2, xz or zstd."""
    kernel: HostPath | None = None
    initrd: HostPath | None = None
