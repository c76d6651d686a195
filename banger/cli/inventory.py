"""`banger inventory`, and the program `banger-inventory` that `ansible-playbook -i` takes. No plugin is loaded."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from banger.core.handles import HandleCache, vmm_process
from banger.core.home import Home
from banger.core.inventory import host_variables
from banger.core.inventory import inventory as inventory_of
from banger.core.state import Store, VmRecord
from banger.errors import UsageError
from banger.linux.process import LinuxProcesses

_ANSWERS_WITHIN_S = 1.0
_CONNECT_S = 10

# A ProxyCommand that hands its connection to ssh and ends (ProxyUseFdpass, ssh_config(5)).
_CONNECT = (
    "import socket, sys; "
    f"connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), {_CONNECT_S}); "
    "connection.settimeout(None); "
    "socket.send_fds(socket.socket(fileno=1), [bytes(1)], [connection.fileno()])"
)


@click.command()
@click.option("--list", "all_of_them", is_flag=True, help="All running VMs and their groups, as without options.")
@click.option("--host", "name", metavar="NAME", help="Only the variables of this VM.")
def inventory(all_of_them: bool, name: str | None) -> None:
    """The running VMs as an inventory for Ansible: ansible-playbook -i "$(command -v banger-inventory)" site.yml.

    Groups: image_NAME, network_NAME, and tag_NAME for each of a VM's tags. A VM that does not run is not in it.
    """
    if all_of_them and name is not None:
        raise UsageError("--list and --host exclude each other")
    home = Home.from_environment()
    records = Store(home.state, home.lock("state")).snapshot().vms()
    running = _running(records)
    if name is None:
        document = inventory_of(list(zip(running, _ways(running), strict=True)), home.ssh_key)
    else:
        record = _of_name(name, records, running)
        document = host_variables(record, home.ssh_key, _way(record))
    click.echo(json.dumps(document, indent=2))


def main() -> NoReturn:
    """The program `banger-inventory`: Ansible calls it with `--list` or `--host NAME`, and with nothing before."""
    from banger.cli import main as banger

    sys.argv[1:1] = ["inventory"]
    banger()


def _running(records: Sequence[VmRecord]) -> list[VmRecord]:
    processes, handles = LinuxProcesses(), HandleCache("")
    return [record for record in records if vmm_process(processes, record, handles.of(record.directory))]


def _of_name(name: str, records: Sequence[VmRecord], running: Sequence[VmRecord]) -> VmRecord:
    for record in running:
        if record.name == name:
            return record
    if any(record.name == name for record in records):
        raise UsageError(f"{name} does not run", hint=f"banger vm start {name}")
    raise UsageError(f"there is no VM {name!r}", hint="banger vm list shows them all")


def _ways(records: Sequence[VmRecord]) -> list[str]:
    """The ways into all of them, found at once where guests must be asked."""
    if not any(map(_vsock_of, records)):
        return [_way(record) for record in records]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=32) as pool:
        return list(pool.map(_way, records))


def _way(record: VmRecord) -> str:
    """The ProxyCommand into a guest; empty where it is reached as it is. As `banger vm ssh` goes.

    By the VMM's vsock socket where there is one and the guest does not answer on its network; else through the network
    namespace it is in, if it is in one.
    """
    ssh = record.nic.ssh
    if socket := _vsock_of(record):
        from banger.linux.network import LinuxNetwork
        from banger.linux.vsock import proxy_command

        if LinuxNetwork().ssh_banner(ssh, _ANSWERS_WITHIN_S) is None:
            return proxy_command(socket)
    return _through(ssh.netns, ssh.host, ssh.port) if ssh.netns else ""


def _vsock_of(record: VmRecord) -> Path | None:
    socket = Path(record.runtime.vsock_path)
    return socket if record.runtime.vsock_path and socket.exists() else None


def _through(netns: str, host: str, port: int) -> str:
    """nsenter(1), because Debian has it everywhere, and all that is wanted is the network's namespace."""
    from banger.linux.netns import NAMED

    python = [sys.executable, "-I", "-S", "-c", _CONNECT, host, str(port)]
    return shlex.join(["nsenter", f"--net={NAMED / netns}", "--", *python]).replace("%", "%%")
