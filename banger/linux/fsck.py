"""e2fsck(8): replaying a journal, and proving a file system clean. Its exit statuses are told apart here.

0 clean, 1 mended, 4 not mended, 8 could not be used: mounted, held by another, or no ext4 at all.
"""

from __future__ import annotations

from pathlib import Path

from banger.errors import Busy, DiskError
from banger.linux import blockdevice
from banger.linux.run import Result, run, tail

_TIMEOUT_S = 3600.0
_IN_USE = ("is mounted", "is in use", "busy")


def preen(disk: Path, *, force: bool = False) -> None:
    """Replay the journal and mend what is safe to mend (`-p`); `force` checks even what says it is clean.

    debugfs(8) would change a disk whose journal is not replayed, and lose the change at the next mount; it would
    change a mounted one as well. Raises Busy for a disk in use, DiskError for one that is damaged or no ext4.
    """
    blockdevice.refuse_open(disk)
    result = _e2fsck("-fp" if force else "-p", disk)
    if result.returncode in (0, 1):
        return
    if result.returncode == 8 and any(words in result.output for words in _IN_USE):
        raise Busy(f"{disk} is in use: {tail(result.output, 3)}", hint="stop the VM or unmount the disk")
    hint = f"mend it: e2fsck -f {disk}" if result.returncode == 4 else None
    raise DiskError(f"{disk} cannot be used (e2fsck status {result.returncode}): {tail(result.output)}", hint=hint)


def mend(disk: Path) -> None:
    """Answer yes to everything (`-fy`): only where all that can be wrong is what we did to a sound file system."""
    blockdevice.refuse_open(disk)
    result = _e2fsck("-fy", disk)
    if result.returncode not in (0, 1):
        raise DiskError(f"{disk} could not be mended (e2fsck status {result.returncode}): {tail(result.output)}")


def verify(disk: Path, after: str) -> None:
    """Prove a file system clean (`-fn`), changing nothing. Raises DiskError that names the step it follows."""
    result = _e2fsck("-fn", disk)
    if result.returncode != 0:
        raise DiskError(
            f"{disk} is not clean after {after} (e2fsck status {result.returncode}): {tail(result.output)}",
            hint=f"mend it: e2fsck -f {disk}",
        )


def _e2fsck(flag: str, disk: Path) -> Result:
    return run(["e2fsck", flag, disk], timeout_s=_TIMEOUT_S, accept=None, merge=True)
