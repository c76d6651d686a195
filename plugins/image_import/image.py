"""The image as a resource: what every apply looks for. What builds it is imported only where it is built."""

from __future__ import annotations

from dataclasses import dataclass

from banger.host import Host
from banger.imagedirectory import ImageDirectory
from banger.resource import Handle, Needs, Stage

from .options import ImportOptions

__all__ = ["BUILDER", "ImportedImage"]

BUILDER = 1
"""Raised when the same files come to give another image."""


@dataclass(frozen=True)
class ImportedImage(ImageDirectory):
    """An image made of a file; it is there when its facts are."""

    options: ImportOptions

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        from .build import build

        build(host, self.options, self.directory, stage)
        return {}
