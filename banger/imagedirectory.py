"""What the images of all sources have in common: a directory that is whole when its facts are there."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from banger.host import Host, HostView
from banger.resource import Absent, Handle, Observation, Present, Resource, Stage

FACTS = "facts.json"
"""The JSON of `banger.types.ImageFacts`, written last."""


BUILDING = ".building-"
"""In the name of the directory beside it in which a builder makes an image; its process id follows."""
CUSTOMISING = ".new"
"""After the name of the directory beside it in which an image is made of its base."""
UNFINISHED = re.compile(rf"{re.escape(BUILDING)}\d+$|{re.escape(CUSTOMISING)}$")
"""What such a directory has after the image's digest."""


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
