"""What the images of all sources have in common: a directory that is whole when its facts are there."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from banger.host import Host, HostView
from banger.resource import Absent, Handle, Observation, Present, Resource, Stage

FACTS = "facts.json"
"""The JSON of `banger.types.ImageFacts`, written last."""


def new_build() -> str:
    """For `ImageFacts.build`."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class ImageDirectory(Resource):
    """An image in its directory. A source says how it is made."""

    key: str
    directory: Path
    stage = "build_image"

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Absent() if host.files.status(self.directory / FACTS) is None else Present()

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove_tree(self.directory)
