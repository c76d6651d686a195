"""Guests of a few bytes that a real Firecracker boots in milliseconds, for tests that need no Linux in theirs.

Each is an ELF file with one piece of 64-bit code, entered as the Linux/x86 boot protocol has it, with no stack and no
interrupts. Port 0x64 is the keyboard controller: bit 0 of it says that keys wait, and writing 0xfe resets the machine,
which ends Firecracker; port 0x3f8 is the serial port.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import tempfile
from pathlib import Path

from tests.capabilities import firecracker
from tests.firecracker import firecracker_binaries

_LOAD_ADDRESS = 0x100000
_PAGE_BYTES = 0x1000
_PAUSE = "b900000100 f390 e2fc"  # mov ecx, 0x10000; 1: pause; loop 1b
_RESET = "b0fe e664 ebfa"  # 1: mov al, 0xfe; out 0x64, al; jmp 1b
_PROBE_S = 30.0

DEAF = bytes.fromhex(f"{_PAUSE} ebf5")
"""It waits for ever."""
POLITE = bytes.fromhex(f"{_PAUSE} e464 a801 74f1 {_RESET}")
"""It ends as soon as a key is pressed: in al, 0x64; test al, 1; jz to the pause."""
SHORT_LIVED = bytes.fromhex(_RESET)
"""It ends at once."""
TALKER = bytes.fromhex("66baf803 b30a b078 b150 ee fec9 75fb 88d8 ee ebf2")
"""It says lines of 80 x without end: mov dx, 0x3f8; mov bl, 10; 1: mov al, 'x'; mov cl, 80; 2: out dx, al; dec cl;
jnz 2b; mov al, bl; out dx, al; jmp 1b."""


def elf(code: bytes) -> bytes:
    """An ELF file for x86-64 that is loaded at 1 MiB and entered at its first byte (elf(5))."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _LOAD_ADDRESS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, _PAGE_BYTES, *[_LOAD_ADDRESS] * 2, *[len(code)] * 2, _PAGE_BYTES)
    return (header + load).ljust(_PAGE_BYTES, b"\0") + code


@functools.cache
def tiny_guests() -> str | None:
    """Whether Firecracker runs these here; None, or the reason why not. That takes less than a Linux guest does."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no access to /dev/kvm"
    if reason := firecracker():
        return reason
    with tempfile.TemporaryDirectory(prefix="tiny-") as directory:
        kernel, configuration = Path(directory, "vmlinux"), Path(directory, "machine.json")
        kernel.write_bytes(elf(SHORT_LIVED))
        machine = {
            "boot-source": {"kernel_image_path": str(kernel)},
            "drives": [],
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        }
        configuration.write_text(json.dumps(machine))
        try:
            done = subprocess.run(
                [firecracker_binaries() / "firecracker", "--no-api", "--config-file", configuration],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PROBE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "KVM here does not run even the smallest guest"
    return None if done.returncode == 0 else f"Firecracker runs no guest here: {done.stderr.strip()}"
