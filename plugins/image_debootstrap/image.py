"""The image as a resource: what every apply looks for. What builds it is imported only where it is built."""

from __future__ import annotations

from dataclasses import dataclass

from banger.host import Host
from banger.imagedirectory import ImageDirectory
from banger.resource import Handle, Needs, Stage

from .options import DebootstrapOptions

__all__ = ["BUILDER", "DebootstrapImage"]

BUILDER = 1
"""Raised when the same options come to give another image."""


@dataclass(frozen=True)
class DebootstrapImage(ImageDirectory):
    """A Debian image in its directory; it is there when its facts are."""

    options: DebootstrapOptions

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        from .build import build

        build(host, self.options, self.directory, stage)
        return {}
