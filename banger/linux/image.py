"""An image's directory: built beside its place, complete or not there at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from banger.errors import DiskError
from banger.host import MOST_READ_BYTES
from banger.imagedirectory import BUILDING, FACTS, new_build
from banger.linux.initrd import Reader, build_initrd
from banger.linux.kernel import MOST_KERNEL_BYTES
from banger.linux.publish import sync
from banger.linux.rootfs import make_rootfs
from banger.linux.staging import StagedRoot
from banger.types import ImageFacts

__all__ = [
    "BootFiles", "build_image", "building_directory", "most_bytes", "newest_release", "write_boot_files", "write_facts",
]  # fmt: skip

Stage = Callable[[str], None]

_LABEL = "banger-root"
_MOST_FSTAB_BYTES = 2**20
_KERNEL = re.compile(r"vmlinuz-(.+)")


@dataclass(frozen=True, slots=True)
class BootFiles:
    """A kernel and an initrd from outside the image; what is None is taken from the image or made for it."""

    kernel: bytes | None = None
    initrd: bytes | None = None


def build_image(
    root: StagedRoot, directory: Path, stage: Stage, *, size_bytes: int | None = None, given: BootFiles = BootFiles()
) -> None:
    """Write all files of an image (`rootfs.ext4`, `vmlinuz`, `initrd.img`, `facts.json`) of a staged root.

    Raises DiskError, HostError.
    """
    release = write_boot_files(directory, lambda path: root.read(path, most_bytes(path)), root.names, stage, given)
    if root.read("/etc/machine-id") is not None:
        root.write("/etc/machine-id", b"", 0o444)  # machine-id(5): empty, so each guest makes its own
    stage("making the root file system")
    identity = str(uuid5(NAMESPACE_OID, directory.name.partition(BUILDING)[0]))
    made_bytes = make_rootfs(root, directory / "rootfs.ext4", size_bytes=size_bytes, label=_LABEL, uuid=identity)
    fstab = root.read("/etc/fstab", most_bytes("/etc/fstab"))
    write_facts(directory, ImageFacts(None if fstab is None else fstab.decode("utf-8", "replace"), release, made_bytes))


def write_boot_files(
    directory: Path, read: Reader, names: Callable[[str], Sequence[str]], stage: Stage, given: BootFiles
) -> str | None:
    """Write `vmlinuz` and `initrd.img`; the kernel's release, None for a kernel from outside.

    `read` gives the guest's files, `names` the names in one of its directories. Raises DiskError, HostError.
    """
    stage("making the initrd" if given.initrd is None else "copying kernel and initrd")
    release, kernel, initrd = None, given.kernel, given.initrd
    if kernel is None:
        release = newest_release(names("/boot"), names("/lib/modules"))
        kernel = read(f"/boot/vmlinuz-{release}")
        if kernel is None:
            raise DiskError(f"/boot/vmlinuz-{release} in the image is no regular file")
    if initrd is None:
        if release is None:
            raise DiskError(
                "no initrd can be made for a kernel that is not the image's own", hint="name an initrd, too"
            )
        initrd = build_initrd(read, release)
    (directory / "vmlinuz").write_bytes(kernel)
    (directory / "initrd.img").write_bytes(initrd)
    return release


def most_bytes(path: str) -> int:
    """How much a file of an image may have to be read. Its fstab(5) is among the facts, which every command reads."""
    if path == "/etc/fstab":
        return _MOST_FSTAB_BYTES
    return MOST_KERNEL_BYTES if path.startswith("/boot/") else MOST_READ_BYTES


def write_facts(directory: Path, facts: ImageFacts) -> None:
    """The last file of an image: it is there when this is. They are of a new build."""
    facts = replace(facts, build=new_build())
    (directory / FACTS).write_text(json.dumps(asdict(facts), indent=1) + "\n")


def newest_release(boot: Sequence[str], modules: Sequence[str]) -> str:
    """The newest kernel release among the names in /boot that is also among those in /lib/modules.

    Raises DiskError when there is none.
    """
    usable = [match[1] for name in boot if (match := _KERNEL.fullmatch(name)) and match[1] in modules]
    if not usable:
        raise DiskError(
            "the image has no kernel in /boot with its modules in /lib/modules",
            hint="install linux-image-cloud-amd64 in it, or name a kernel and an initrd",
        )
    return max(usable, key=_version)


def _version(release: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", release)]


@contextmanager
def building_directory(directory: Path) -> Iterator[Path]:
    """A directory beside `directory` that takes its place when the block ends well, and is removed when it does not.

    What builders that have died left behind is cleared away first; the caller holds the image's lock.
    """
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in directory.parent.glob(f"{directory.name}{BUILDING}*"):
        shutil.rmtree(stale, ignore_errors=True)
    building = directory.with_name(f"{directory.name}{BUILDING}{os.getpid()}")
    building.mkdir(mode=0o700)
    try:
        yield building
        for path in sorted(building.iterdir()):
            sync(path)
        sync(building)
        if directory.exists():
            shutil.rmtree(directory)
        building.rename(directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
