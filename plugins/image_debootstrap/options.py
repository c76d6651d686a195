"""What a playbook may say of a Debian image. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from banger.types import Size

__all__ = ["ARCHITECTURE", "DebootstrapOptions", "all_packages"]

ARCHITECTURE = "amd64"

_ALWAYS = (
    "busybox-static",  # what our initrd is made of
    "iproute2",  # guests bring up their network with ip(8)
    "linux-image-cloud-amd64",
    "openssh-server",
    "systemd-sysv",
    "udev",  # fstab lines by label or device wait for it
)
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")  # deb-src-control(5), Source


@dataclass(frozen=True)
class DebootstrapOptions:
    """`packages` come on top of those without which a guest would not boot and answer ssh."""

    suite: str = "bookworm"
    packages: tuple[str, ...] = ()
    mirror: str | None = None
    """A mirror's URL. None: the host's own Debian mirrors if it runs this suite, else mmdebstrap's own choice."""
    size: Size | None = None
    """Size of the root file system. None: its content and room to spare."""

    def __post_init__(self) -> None:
        """Raises ValueError for what is no suite, package or URL, before it gets near a command line."""
        if not _SUITE.fullmatch(self.suite):
            raise ValueError(f"{self.suite!r} is not the name of a Debian suite, such as bookworm")
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise ValueError(f"{package!r} is not the name of a Debian package")
        if self.mirror is not None and not re.fullmatch(r"(https?|file|copy)://?\S+", self.mirror):
            raise ValueError(f"{self.mirror!r} is not a mirror's URL, such as http://mirror.example/debian")


def all_packages(options: DebootstrapOptions) -> tuple[str, ...]:
    """Sorted, each once."""
    return tuple(sorted({*_ALWAYS, *options.packages}))
