"""Importing: the root file system copied or made, its kernel found or given, an initrd made for it."""

from __future__ import annotations

import json
from pathlib import Path

from banger.errors import CommandError, DiskError, HostError
from banger.host import Host, HostView
from banger.linux.debugfs import listings, statuses
from banger.linux.fsck import preen
from banger.linux.image import (
    BootFiles,
    build_image,
    building_directory,
    most_bytes,
    write_boot_files,
    write_facts,
)
from banger.linux.pipe import reading
from banger.linux.run import run
from banger.linux.staging import StagedRoot, read_archive
from banger.resource import Stage
from banger.types import GuestFile, ImageFacts

from .detect import detect_format, find_ext4_partition
from .options import Format, ImportOptions

__all__ = ["build"]

_CONVERT_S = 3600.0
_ZSTD = b"\x28\xb5\x2f\xfd"


def build(host: Host, options: ImportOptions, directory: Path, stage: Stage) -> None:
    """Make the image's directory. Raises HostError, CommandError, DiskError; there is none then."""
    source = Path(options.path)
    found: Format = detect_format(source) if options.format == "auto" else options.format
    given = BootFiles(_given(options.kernel), _given(options.initrd))
    with building_directory(directory) as building:
        if found == "tar":
            _from_tar(source, building, given, stage)
        else:
            _from_disk(host, source, found, building, given, stage)


def _given(path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from error


def _from_tar(source: Path, building: Path, given: BootFiles, stage: Stage) -> None:
    stage(f"unpacking {source.name}")
    with StagedRoot(building / "staging") as root, source.open("rb") as stream:
        if stream.read(len(_ZSTD)) == _ZSTD:
            with reading(["zstd", "-dcq", str(source)]) as unpacked:
                read_archive(unpacked, root)
        else:
            stream.seek(0)
            read_archive(stream, root)
        build_image(root, building, stage, given=given)


def _from_disk(host: Host, source: Path, found: Format, building: Path, given: BootFiles, stage: Stage) -> None:
    rootfs = building / "rootfs.ext4"
    stage(f"copying {source.name}")
    if found == "ext4":
        host.files.clone(source, rootfs)
    elif found == "disk":
        _extract(source, rootfs)
    else:
        _check_qcow2(source)
        whole = building / "disk"
        _convert(["-f", "qcow2", str(source)], whole)
        _extract(whole, rootfs)
        whole.unlink(missing_ok=True)
    preen(rootfs, force=True)

    def read(path: str) -> bytes | None:
        file = host.ext4.read(rootfs, [path], most_bytes=most_bytes(path))[path]
        return None if file is None else file.content

    release = write_boot_files(building, read, lambda path: _names(host, rootfs, path), stage, given)
    if read("/etc/machine-id"):
        host.ext4.patch(rootfs, [GuestFile("/etc/machine-id", b"", 0o444)])  # each guest makes its own, machine-id(5)
    fstab = read("/etc/fstab")
    text = None if fstab is None else fstab.decode("utf-8", "replace")
    write_facts(building, ImageFacts(text, release, rootfs.stat().st_size))


def _names(host: HostView, disk: Path, path: str) -> list[str]:
    """The names in a directory of the image; none when it is not there."""
    real = host.ext4.resolve(disk, f"{path}/x").removesuffix("/x")  # a symlink at its end is followed, too
    status = statuses(disk, [real])[real]
    if status is None or status.inode.type != "directory":
        return []
    return [entry.name for entry in listings(disk, [status.number])[status.number]]


def _extract(disk: Path, rootfs: Path) -> None:
    """The file system alone: the disk itself, or what is in its one ext4 partition. Takes the disk when it can."""
    partition = find_ext4_partition(disk)
    if partition is None:
        disk.rename(rootfs) if disk.parent == rootfs.parent else _convert(["-f", "raw", str(disk)], rootfs)
        return
    offset, size = partition
    file = str(disk).replace(",", ",,")
    options = f"driver=raw,offset={offset},size={size},file.driver=file,file.filename={file}"
    _convert(["--image-opts", options], rootfs)


def _convert(source: list[str], destination: Path) -> None:
    try:
        run(["qemu-img", "convert", "-O", "raw", *source, str(destination)], timeout_s=_CONVERT_S)
    except CommandError as error:
        raise DiskError(f"the disk image cannot be read: {error}") from error
    destination.chmod(0o600)


def _check_qcow2(path: Path) -> None:
    """Refuse an image that would pull in other files of the host: a backing file, or one with its data."""
    try:
        said = run(["qemu-img", "info", "-f", "qcow2", "--output=json", str(path)], timeout_s=60).stdout
    except CommandError as error:
        raise DiskError(f"{path} is no qcow2 image that can be read: {error}") from error
    info = json.loads(said)
    other = info.get("backing-filename") or info.get("format-specific", {}).get("data", {}).get("data-file")
    if other:
        raise DiskError(
            f"{path} stands on another file, {other}, which an imported image must not",
            hint=f"make it whole first: qemu-img convert -O qcow2 {path} WHOLE.qcow2",
        )
