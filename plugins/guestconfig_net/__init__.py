"""Brings the guest's network up from a file, with no help from kernel `ip=`, systemd-networkd or ifupdown (seed S10).

A configuration, a POSIX shell script that applies it, and a systemd unit that runs the script early. The unit is
pulled in by a drop-in of sysinit.target, because an enabling symlink is no regular file.
"""

from __future__ import annotations

from pathlib import Path

from banger.guestconfig import GuestConfig
from banger.hooks import hookimpl
from banger.types import Vm

CONFIGURATION = "/etc/banger/network.conf"
SCRIPT = "/usr/local/lib/banger/network-up"
UNIT = "/etc/systemd/system/banger-network.service"
DROP_IN = "/etc/systemd/system/sysinit.target.d/10-banger-network.conf"

# DefaultDependencies=no: a unit that sysinit.target pulls in must not be ordered after sysinit.target.
SERVICE = f"""\
[Unit]
Description=Bring the network up from {CONFIGURATION}
DefaultDependencies=no
ConditionPathExists={CONFIGURATION}
Wants=network.target
Before=network.target network-online.target ssh.service sshd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={SCRIPT}
TimeoutStartSec=120
"""

PULL_IN = """\
[Unit]
Wants=banger-network.service
"""


@hookimpl
def contribute_guest_config(builder: GuestConfig, vm: Vm) -> None:
    """The address with its prefix length, the way out (the bridge, or the VMM), and the name server."""
    lines = (f"GUEST_ADDRESS={vm.nic.address}", f"GATEWAY={vm.nic.gateway}", f"DNS={vm.nic.dns}")
    builder.write_file(CONFIGURATION, "".join(f"{line}\n" for line in lines))
    builder.write_file(SCRIPT, Path(__file__).with_name("network-up.sh").read_bytes(), mode=0o755)
    builder.write_file(UNIT, SERVICE)
    builder.write_file(DROP_IN, PULL_IN)
