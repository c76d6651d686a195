"""An image's kernel as the ELF file that Firecracker loads; older ones than 1.17 load nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from banger.host import Host, HostView
from banger.resource import Absent, Handle, Needs, Observation, Present, Resource, Stage
from banger.types import Image

__all__ = ["KernelElf"]


@dataclass(frozen=True)
class KernelElf(Resource):
    """`vmlinux` in an image's directory: made by the first VM that needs it, and the image's from then on."""

    image: Image
    stage = "unpack_kernel"

    @property
    def key(self) -> str:  # type: ignore[override]  # derived: it belongs to the image
        return f"image/{self.image.digest}/vmlinux"

    @property
    def path(self) -> Path:
        return self.image.directory / "vmlinux"

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Absent() if host.files.status(self.path) is None else Present()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        with host.locked(f"vmlinux-{self.image.digest}"):
            if host.files.status(self.path) is None:
                self._sweep(host)
                stage("unpacking the kernel")
                host.tools.unpack_kernel(self.image.kernel, self.path)
        return {}

    def _sweep(self, host: Host) -> None:
        """Clear away what was killed while it made this file; whoever makes it now holds the lock."""
        for path in host.files.list(self.image.directory):
            if path.name.startswith(f".{self.path.name}.") and path.name.endswith(".tmp"):
                host.files.remove(path)

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """It goes with its image, not with a VM."""
