"""A small initrd: busybox, the few modules a virtual machine needs, and our own /init. Written without root or cpio(1).

It is left uncompressed: a few megabytes that the VMM puts straight into memory cost less than unpacking them.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from banger.errors import CommandError, DiskError, HostError
from banger.linux.compressed import by_program, whole
from banger.scalars import human

__all__ = ["MODULES", "CpioEntry", "build_initrd", "cpio", "module_order"]

MOST_MODULE_BYTES = 64 * 2**20
MOST_MODULES_BYTES = 512 * 2**20
"""Of all together; more than a guest has memory to unpack them into."""

Reader = Callable[[str], bytes | None]
"""Reads a regular file of the guest by its absolute path, symlinks followed; None when there is none."""

MODULES = ("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "overlay", "ext4")
_APPLETS = ("cat", "insmod", "ls", "mkdir", "mount", "poweroff", "sh", "sleep", "switch_root", "umount")
_HOST_BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_DIRECTORY, _FILE, _LINK, _CHARACTER = 0o040000, 0o100000, 0o120000, 0o020000


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """One entry of the archive. `path` has no leading slash; `mode` has the type bits too; `device` is major, minor."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def cpio(entries: Iterable[CpioEntry]) -> bytes:
    """The archive in "newc" format (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

    Everything belongs to root and dates from 1970, so that the same entries give the same bytes.
    """
    archive = bytearray()
    for number, entry in enumerate((*entries, CpioEntry("TRAILER!!!", 0)), start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if entry.mode & 0o170000 == _DIRECTORY else 1
        fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + entry.content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def build_initrd(read: Reader, kernel_release: str) -> bytes:
    """The initrd for the guest whose files `read` gives.

    Raises HostError when neither the guest nor the host has a static busybox, DiskError when the guest's modules are
    not as depmod(8) leaves them.
    """
    entries = [CpioEntry(name, _DIRECTORY | 0o755) for name in ("bin", "dev", "lib", "lower", "new", "proc", "sys")]
    entries += [CpioEntry(name, _DIRECTORY | 0o755) for name in ("lib/modules", "upper")]
    entries.append(CpioEntry("dev/console", _CHARACTER | 0o600, device=(5, 1)))
    entries.append(CpioEntry("bin/busybox", _FILE | 0o755, _static_busybox(read)))
    entries += [CpioEntry(f"bin/{applet}", _LINK | 0o777, b"busybox") for applet in _APPLETS]
    entries.append(CpioEntry("init", _FILE | 0o755, Path(__file__).with_name("initrd_init.sh").read_bytes()))

    modules = _modules(read, f"/lib/modules/{kernel_release}")
    entries += [CpioEntry(f"lib/modules/{name}", _FILE | 0o644, content) for name, content in modules]
    order = "".join(f"{name}\n" for name, _ in modules).encode()
    entries.append(CpioEntry("lib/modules/order", _FILE | 0o644, order))
    return cpio(entries)


def _modules(read: Reader, base: str) -> list[tuple[str, bytes]]:
    """The modules to load, by name, in that order."""
    found = []
    left_bytes = MOST_MODULES_BYTES
    for path in module_order(read, base, MODULES):
        content = read(f"{base}/{path}")
        if content is None:
            raise DiskError(f"the image's {base}/modules.dep names {path}, which is not there")
        content = _decompressed(f"{base}/{path}", content)
        left_bytes -= len(content)
        if left_bytes < 0:
            raise DiskError(
                f"the modules that the image's {base}/modules.dep names have more than {human(MOST_MODULES_BYTES)}"
            )
        found.append((PurePosixPath(path).name.partition(".ko")[0] + ".ko", content))
    return found


def module_order(read: Reader, base: str, names: Sequence[str]) -> list[str]:
    """The modules to load, each after those it needs, as paths relative to `base` (`/lib/modules/RELEASE`).

    Follows modules.dep(5) and the `pre:` of modules.softdep. What is built in, or was not built at all, is left out.
    """
    depends = {line.partition(":")[0]: line.partition(":")[2].split() for line in _lines(read, f"{base}/modules.dep")}
    paths = {_module_name(path): path for path in depends}
    aliases = _aliases(_lines(read, f"{base}/modules.alias"))
    soft = _soft_dependencies(_lines(read, f"{base}/modules.softdep"))
    ordered: list[str] = []
    reached: set[str] = set()

    def add(path: str) -> None:
        if path in reached:  # also while its own needs are being added: soft dependencies may go in circles
            return
        reached.add(path)
        for name in soft.get(_module_name(path), ()):
            found = paths.get(name) or paths.get(aliases.get(name, ""))
            if found is not None:
                add(found)
        for needed in reversed(depends.get(path, [])):
            add(needed)
        ordered.append(path)

    for name in names:
        if name in paths:
            add(paths[name])
    return ordered


def _lines(read: Reader, path: str) -> list[str]:
    content = read(path)
    if content is None:
        if path.endswith("modules.dep"):
            raise DiskError(f"the image has no {path}", hint="install a kernel package and run depmod in the image")
        return []
    return [line for line in content.decode("utf-8", "replace").splitlines() if line and not line.startswith("#")]


def _module_name(path: str) -> str:
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def _aliases(lines: Iterable[str]) -> dict[str, str]:
    words = (line.split() for line in lines if "*" not in line)
    return {word[1].replace("-", "_"): word[2] for word in words if len(word) == 3 and word[0] == "alias"}


def _soft_dependencies(lines: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        _, _, rest = line.partition("softdep ")
        name, *words = rest.split()
        before = True  # words before any "pre:" or "post:" are taken as "pre:"
        for word in words:
            if word in ("pre:", "post:"):
                before = word == "pre:"
            elif before:
                found.setdefault(name.replace("-", "_"), []).append(word.replace("-", "_"))
    return found


def _decompressed(path: str, content: bytes) -> bytes:
    name = f"the image's {path}"
    try:
        if path.endswith(".xz"):
            return whole(lzma.open(io.BytesIO(content)), name, MOST_MODULE_BYTES)
        if path.endswith(".gz"):
            return whole(gzip.open(io.BytesIO(content)), name, MOST_MODULE_BYTES)
        if path.endswith(".zst"):
            return by_program(["zstd", "-dcq"], content, name, MOST_MODULE_BYTES)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, CommandError) as error:
        raise DiskError(f"{name} is damaged: {error}") from error
    return content


def _static_busybox(read: Reader) -> bytes:
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        content = read(path)
        if content is not None and _is_static(content):
            return content
    for host_path in _HOST_BUSYBOX:
        if host_path.is_file() and _is_static(ours := host_path.read_bytes()):
            return ours
    raise HostError(
        "an initrd needs a statically linked busybox, and neither the image nor this host has one",
        hint="apt-get install busybox-static",
    )


def _is_static(elf: bytes) -> bool:
    """Whether this 64-bit ELF file has no interpreter (elf(5): no program header of type PT_INTERP, 3)."""
    if elf[:5] != b"\x7fELF\x02":
        return False
    start, size, count = (int.from_bytes(elf[at : at + width], "little") for at, width in ((32, 8), (54, 2), (56, 2)))
    headers = (elf[start + index * size : start + index * size + 4] for index in range(count))
    return not any(int.from_bytes(header, "little") == 3 for header in headers)
