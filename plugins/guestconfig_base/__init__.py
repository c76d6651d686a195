"""What every guest needs to be itself: hostname, hosts, resolv.conf and tmpfs mounts.

Also brings the guest modules `file`, `copy`, `template`, `directory`, `mount` and `unmount`.
"""

from __future__ import annotations

from collections.abc import Sequence

from banger.guestconfig import GuestConfig
from banger.hooks import hookimpl
from banger.types import GuestModule, Mount, Vm

from .modules import MODULES

RUN = Mount("tmpfs", "/run", "tmpfs", ("defaults", "nodev", "nosuid", "mode=0755"))
TMP = Mount("tmpfs", "/tmp", "tmpfs", ("defaults", "nodev", "nosuid", "mode=1777"))


@hookimpl
def register_guest_modules() -> Sequence[GuestModule]:
    return MODULES


@hookimpl
def contribute_guest_config(builder: GuestConfig, vm: Vm) -> None:
    """The files and mounts of seed row S9 that are no one else's."""
    builder.write_file("/etc/hostname", f"{vm.name}\n")
    builder.write_file("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {vm.name}\n")
    builder.write_file("/etc/resolv.conf", f"nameserver {vm.nic.dns}\n")
    builder.drop_mount("/home")
    builder.drop_mount("/var")
    builder.add_mount(RUN)
    builder.add_mount(TMP)
