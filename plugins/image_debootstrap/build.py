"""Building the image: mmdebstrap's tar, unpacked as it comes, made quick to boot, written as an ext4 image."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Sequence
from pathlib import Path

from banger.errors import HostError
from banger.host import Host, HostView
from banger.linux.image import build_image, building_directory
from banger.linux.pipe import reading
from banger.linux.staging import LATEST_S, StagedRoot, read_archive
from banger.resource import Stage

from .options import ARCHITECTURE, DebootstrapOptions, all_packages
from .sources import host_sources

__all__ = ["MASKED_UNITS", "build", "command", "prepare_root"]

MASKED_UNITS = (
    "apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "man-db.timer",
    "e2scrub_all.timer", "e2scrub_reap.service",  # for file systems on LVM; 5 s of Perl on every boot under emulation
    "getty-static.service", "getty.target",  # nobody sits at this console: it is a log file
    "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "systemd-pstore.service", "systemd-repart.service",  # each pulls in kernel modules only to find nothing to do
    "systemd-update-utmp-runlevel.service", "systemd-update-utmp.service",
)  # fmt: skip
"""What costs a guest seconds of its boot, above all under software emulation, and gives it nothing."""
_JOURNAL = b"# In memory: waiting for the disk would delay the first ssh login.\n[Journal]\nStorage=volatile\n"
_NEVER_OUTDATED_S = LATEST_S
"""systemd.unit(5), ConditionNeedsUpdate: a newer /usr would start services that have nothing to do in a fresh root."""
_SUBORDINATE_IDS = 65536


def build(host: Host, options: DebootstrapOptions, directory: Path, stage: Stage) -> None:
    """Make the image's directory. Raises HostError, CommandError, DiskError; there is none then."""
    mode = _mode(host)
    argv = command(options, mode, host_sources(options.suite, ARCHITECTURE), scratch_directory(mode))
    with building_directory(directory) as building, StagedRoot(building / "staging") as root:
        with reading(argv, on_line=lambda line: _tell(line, stage)) as archive:
            read_archive(archive, root)
        prepare_root(root)
        build_image(root, building, stage, size_bytes=options.size)


def scratch_directory(mode: str, candidates: Sequence[str] = ("", "/tmp", "/var/tmp")) -> str:
    """Where mmdebstrap unpacks; "" leaves that to it.

    In `unshare` mode it does so as subordinate users of ours, who must get there: a private TMPDIR will not do.
    """
    if mode != "unshare":
        return ""
    for name in candidates:
        path = Path(name or tempfile.gettempdir()).resolve()
        if all(above.stat().st_mode & 0o001 for above in (path, *path.parents)) and os.access(path, os.W_OK):
            return str(path)
    raise HostError(
        f"no temporary directory that other users can enter: {', '.join(filter(None, candidates))}",
        hint="set TMPDIR to one, or chmod o+x it",
    )


def command(options: DebootstrapOptions, mode: str, sources: list[str], scratch: str = "") -> list[str]:
    """mmdebstrap's command line: no recommended packages, a tar on its stdout. Pure.

    `sources` are one-line apt entries, used when the options name no mirror.
    """
    argv = ["env", "INITRD=No", *([f"TMPDIR={scratch}"] if scratch else []), "mmdebstrap"]
    argv += [f"--mode={mode}", "--variant=minbase", f"--architectures={ARCHITECTURE}"]
    argv += [f"--include={','.join(all_packages(options))}", "--format=tar", options.suite, "-"]
    return [*argv, *([options.mirror] if options.mirror else sources)]


def prepare_root(root: StagedRoot) -> None:
    """Make a fresh Debian root quick to boot, and forget the machine it was built on."""
    for unit in MASKED_UNITS:
        root.symlink(f"/etc/systemd/system/{unit}", "/dev/null")
    root.write("/etc/systemd/journald.conf.d/banger.conf", _JOURNAL)
    root.write("/etc/hostname", b"localhost\n")
    root.write("/etc/resolv.conf", b"")
    for directory in ("/etc", "/var"):
        root.write(f"{directory}/.updated", b"", mtime_s=_NEVER_OUTDATED_S)


def _mode(host: HostView) -> str:
    """How mmdebstrap gets to act as root. Raises HostError when there is no way."""
    if host.tools.which("mmdebstrap") is None:
        raise HostError("building a Debian image needs mmdebstrap", hint="apt-get install mmdebstrap")
    if os.geteuid() == 0:
        return "root"
    if host.tools.which("newuidmap") and _has_subordinate_ids():
        return "unshare"
    if host.tools.which("fakechroot") and host.tools.which("fakeroot"):
        return "fakechroot"
    raise HostError(
        "building a Debian image without root needs subordinate user ids (newuidmap and a range in /etc/subuid)",
        hint="apt-get install uidmap, and usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
    )


def _has_subordinate_ids() -> bool:
    """Whether subuid(5) and subgid(5) give us a whole range of ids."""
    try:
        names = {pwd.getpwuid(os.geteuid()).pw_name, str(os.geteuid())}
    except KeyError:
        names = {str(os.geteuid())}
    return all(_owns_range(Path(path), names) for path in ("/etc/subuid", "/etc/subgid"))


def _owns_range(path: Path, names: set[str]) -> bool:
    try:
        lines = [line.split(":") for line in path.read_text().splitlines()]
    except OSError:
        return False
    return any(
        len(line) == 3 and line[0] in names and line[2].isdigit() and int(line[2]) >= _SUBORDINATE_IDS for line in lines
    )


def _tell(line: str, stage: Stage) -> None:
    """mmdebstrap announces each of its phases as `I: installing essential packages...`."""
    if line.startswith("I: ") and line.endswith("..."):
        stage(line[3:-3])
