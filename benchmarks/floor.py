"""The bare work: the tool runs, system calls and synced writes that a command stands for, and nothing around them.

    python -m benchmarks.floor first COUNT DIRECTORY SAMPLE IMAGE [EXTRA]
    python -m benchmarks.floor noop DIRECTORY PLAYBOOK
    python -m benchmarks.floor destroy DIRECTORY
    python -m benchmarks.floor parse PLAYBOOK

`SAMPLE`: the directory of a VM that banger made, whose files are written again; `EXTRA`: a JSON object with how many
more runs of a tool each VM takes, as `{"debugfs -f": 3}`. The bare work keeps banger's promises: every file whole or
not at all and synced, every disk checked, nobody else at the same VM.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

NEEDED = ("ssh-keygen -q", "mke2fs -q", "debugfs -w", "e2fsck -fn")
"""What one VM takes; besides, one `debugfs -f` looks at the image, for all of them."""
_DISK_BYTES = 128 * 2**20
_EXTENDED = "lazy_itable_init=0,lazy_journal_init=1,discard,root_owner=0:0"
_SMALL = ("known_hosts", "guest.json", "record.json", "teardown.sh", "root.image", "guest-files-root.json")
_KEPT = (*_SMALL, "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub")


def first(count: int, directory: Path, sample: Path, image: Path, extra: Mapping[str, int]) -> None:
    """The disks of so many VMs, as many at a time as there are processors, with their keys, notes and records."""
    guest = json.loads((sample / "guest.json").read_bytes())
    files = {f["path"]: (base64.b64decode(f["content"]), f["mode"]) for f in guest["files"]}
    small = {name: (sample / name).read_bytes() for name in _SMALL}
    folders = sorted({str(parent) for path in files for parent in PurePosixPath(path).parents} - {"/"})
    _run(["debugfs", "-f", "-", str(image)], _lines(f"stat {folder}" for folder in folders))
    records = json.loads((sample.parents[1] / "state.json").read_bytes())
    records["vms"] = dict.fromkeys(range(count), next(iter(records["vms"].values())))
    state = json.dumps(records, indent=1).encode()
    (directory / "locks").mkdir(parents=True)
    _publish(directory / "state.json", state)
    names = [f"vm-{number}" for number in range(count)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: _make(directory, name, files, folders, small, extra), names))
    _publish(directory / "state.json", state)


def _make(
    home: Path,
    name: str,
    files: Mapping[str, tuple[bytes, int]],
    folders: Sequence[str],
    small: Mapping[str, bytes],
    extra: Mapping[str, int],
) -> None:
    directory = home / "vms" / name
    directory.mkdir(parents=True)
    (home / "locks" / name).touch()
    with tempfile.TemporaryDirectory(dir=directory) as unfinished:
        key = Path(unfinished) / "ssh_host_ed25519_key"
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)])
        for half in (key.with_suffix(".pub"), key):
            _sync(half)
            half.rename(directory / half.name)
    for file, content in small.items():
        _publish(directory / file, content)
    disk = directory / "root.ext4"
    with tempfile.TemporaryDirectory(dir=directory) as stage:
        for folder in ("/upper", "/work", *(f"/upper{folder}" for folder in folders)):
            Path(stage + folder).mkdir(exist_ok=True)
        for path, (content, _) in files.items():
            Path(f"{stage}/upper{path}").write_bytes(content)
        unfinished_disk = disk.with_suffix(".tmp")
        unfinished_disk.touch(0o600)
        os.truncate(unfinished_disk, _DISK_BYTES)
        options = ["-q", "-F", "-t", "ext4", "-L", "banger-upper", "-E", _EXTENDED, "-d", stage]
        _run(["mke2fs", *options, str(unfinished_disk)])
    modes = {f"/upper{path}": 0o100000 | mode for path, (_, mode) in files.items()}
    modes |= {f"/upper{folder}": 0o40755 for folder in folders} | {"/upper": 0o40755, "/work": 0o40700}
    owners = [f"sif {path} {field} 0" for path in modes for field in ("uid", "gid")]
    _run(
        ["debugfs", "-w", "-f", "-", str(unfinished_disk)],
        _lines([*owners, *(f"sif {path} mode 0{mode:o}" for path, mode in modes.items())]),
    )
    _run(["e2fsck", "-fn", str(unfinished_disk)])
    _sync(unfinished_disk)
    unfinished_disk.rename(disk)
    _sync(directory)
    _more(disk, modes, extra)


def _more(disk: Path, paths: Sequence[str] | Mapping[str, int], extra: Mapping[str, int]) -> None:
    """Further runs of the tools on a disk that is made, each as cheap as a useful one can be."""
    looking, changing = _lines(f"stat {path}" for path in paths), _lines(["sif /upper uid 0"])
    for tool, count in extra.items():
        program, flag = tool.split()
        argv = [program, flag, *(["-f"] if flag == "-w" else []), *(["-"] if program == "debugfs" else []), str(disk)]
        for _ in range(count):
            _run(argv, changing if flag == "-w" else looking)


def noop(directory: Path, playbook: Path) -> None:
    """Read the playbook and the records; of every VM take the lock and look at each file that could have changed."""
    _parse(playbook)
    json.loads((directory / "state.json").read_bytes())
    for vm in (directory / "vms").iterdir():
        descriptor = os.open(directory / "locks" / vm.name, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with socket.socket() as port:
            port.bind(("127.0.0.1", 0))
        os.lstat(vm)
        os.lstat(vm / "root.ext4")
        kept = {name: (vm / name).read_bytes() for name in _KEPT}
        json.loads(kept["guest-files-root.json"])
        for f in json.loads(kept["guest.json"])["files"]:
            hashlib.sha256(base64.b64decode(f["content"])).hexdigest()
        os.close(descriptor)


def destroy(directory: Path) -> None:
    """Remove each VM's files, then the records."""
    records: dict[str, Any] = json.loads((directory / "state.json").read_bytes())
    for vm in (directory / "vms").iterdir():
        shutil.rmtree(vm)
        (directory / "locks" / vm.name).unlink()
    records["vms"] = {}
    _publish(directory / "state.json", json.dumps(records, indent=1).encode())


def _parse(playbook: Path) -> None:
    import yaml

    yaml.load(playbook.read_bytes(), yaml.CSafeLoader)


def _run(argv: Sequence[str], said: bytes = b"") -> None:
    done = subprocess.run(argv, input=said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout.decode('utf-8', 'replace')}")


def _lines(commands: Any) -> bytes:
    return "".join(f"{command}\n" for command in commands).encode()


def _publish(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(content)
    _sync(unfinished)
    unfinished.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _main(command: str, *arguments: str) -> None:
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    os.environ |= {"LC_ALL": "C", "DEBUGFS_PAGER": "__none__"}
    if command == "first":
        count, directory, sample, image, *extra = arguments
        first(int(count), Path(directory), Path(sample), Path(image), json.loads(extra[0]) if extra else {})
    elif command == "noop":
        noop(*map(Path, arguments))
    elif command == "destroy":
        destroy(*map(Path, arguments))
    else:
        _parse(*map(Path, arguments))


if __name__ == "__main__":
    _main(*sys.argv[1:])
