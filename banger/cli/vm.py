"""`banger vm`: what is recorded, what of it is alive, and the way in. Loads no plugin."""

from __future__ import annotations

import json

import click

from banger.cli.options import format_option
from banger.cli.table import aligned
from banger.core.handles import HandleCache, vm_alive
from banger.core.home import Home
from banger.core.state import Store, VmRecord
from banger.errors import UsageError
from banger.linux.process import LinuxProcesses


@click.group()
def vm() -> None:
    """List VMs, get into one."""


@vm.command("list")
@format_option
def list_(form: str) -> None:
    """Every recorded VM, and whether it runs right now."""
    rows = [_row(record, state) for record, state in _states(Home.from_environment())]
    if form == "json":
        click.echo(json.dumps(rows))
    elif rows:
        click.echo(aligned([name.upper() for name in rows[0]], [list(row.values()) for row in rows]))
    else:
        click.echo("no VMs; banger apply PLAYBOOK makes some")


@vm.command("ssh", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Log in to the VM NAME, or run COMMAND there: banger vm ssh NAME -- COMMAND. Its exit code passes through."""
    from banger.core.access import ssh_command
    from banger.linux.run import become

    home = Home.from_environment()
    states = {record.name: (record, state) for record, state in _states(home)}
    if name not in states:
        import difflib

        near = difflib.get_close_matches(name, states, n=1)
        raise UsageError(
            f"there is no VM {name!r}", hint=f"did you mean {near[0]!r}?" if near else "banger vm list shows them all"
        )
    record, state = states[name]
    if state != "running":
        raise UsageError(f"{name} is {state}", hint="banger apply its playbook to start it")
    become(ssh_command(home, record, command))


def _states(home: Home) -> list[tuple[VmRecord, str]]:
    processes = LinuxProcesses()
    cache = HandleCache("")
    return [
        (record, "running" if vm_alive(processes, record, cache.of(record.directory)) else _stopped(record))
        for record in Store(home.state, home.lock("state")).snapshot().vms()
    ]


def _stopped(record: VmRecord) -> str:
    return "failed" if record.runtime.last_error else "stopped"


def _row(record: VmRecord, state: str) -> dict[str, str]:
    return {
        "name": record.name,
        "state": state,
        "image": record.image,
        "vcpus": str(record.vcpus),
        "memory": f"{record.memory_bytes // 2**20}MiB",
        "address": record.runtime.guest_ip,
        "ssh": f"banger vm ssh {record.name}" if state == "running" else "",
    }
