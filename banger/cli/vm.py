"""`banger vm`: what is recorded, what of it is alive, the way in; start, stop, delete, run.

`list` and `ssh` load no plugin.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import click

from banger.cli.options import (
    EventCommand,
    forks_option,
    format_option,
    number_of,
    output_options,
    yes_option,
)
from banger.cli.screen import say
from banger.cli.table import aligned
from banger.core.handles import HandleCache, described, state_word, vmm_process
from banger.core.home import Home
from banger.core.state import Store, VmRecord
from banger.errors import UsageError
from banger.linux.process import LinuxProcesses

if TYPE_CHECKING:
    from banger.cli.render import Output

_FALLBACK_AFTER_S = 3.0
names_argument = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@click.group()
def vm() -> None:
    """List VMs, get into one, start, stop and delete them."""


@vm.command("list")
@format_option
def list_(form: str) -> None:
    """Every recorded VM, and whether it runs right now."""
    found = _states(Home.from_environment())
    if form == "json":
        click.echo(json.dumps([described(record, alive=state == "running") for record, state in found]))
    elif found:
        rows = [_row(record, state) for record, state in found]
        say(aligned([name.upper() for name in rows[0]], [list(row.values()) for row in rows]))
    else:
        say("no VMs; banger apply PLAYBOOK makes some")


@vm.command("ssh", context_settings={"ignore_unknown_options": True})
@click.option("--vsock", is_flag=True, help="Go by the VMM's vsock socket, not by the network.")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...], vsock: bool) -> None:
    """Log in to the VM NAME, or run COMMAND there: banger vm ssh NAME -- COMMAND. Its exit code passes through.

    Where the guest does not answer on its network and its VMM has a vsock socket, that is the way taken.
    """
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
        raise UsageError(f"{name} is {state}", hint=f"banger vm start {name}")
    _enter(home, record, command, vsock=vsock)


@vm.command("start", cls=EventCommand)
@names_argument
@forks_option
@output_options
def start(names: tuple[str, ...], forks: int | None, output: Output) -> None:
    """Start these VMs as their playbook last asked for them."""
    from banger.cli.perform import perform
    from banger.core import lifecycle

    perform(output, lambda session: lifecycle.start(session, names, number_of(forks)), makes=True)


@vm.command("stop", cls=EventCommand)
@names_argument
@forks_option
@output_options
def stop(names: tuple[str, ...], forks: int | None, output: Output) -> None:
    """Stop these VMs: the guest writes out and shuts down, else its VMM is ended. Disks stay."""
    from banger.cli.perform import perform
    from banger.core import lifecycle

    perform(output, lambda session: lifecycle.stop(session, names, number_of(forks)))


@vm.command("delete", cls=EventCommand)
@names_argument
@yes_option
@forks_option
@output_options
def delete(names: tuple[str, ...], yes: bool, forks: int | None, output: Output) -> None:
    """Take these VMs away, with their disks and all they left on this host."""
    from functools import partial

    from banger.cli.perform import confirmed, perform
    from banger.core import lifecycle

    confirm = partial(confirmed, "This removes all disks of", yes=yes)
    perform(output, lambda session: lifecycle.delete(session, names, number_of(forks), confirm))


@vm.command("show")
@click.argument("name")
@format_option
def show(name: str, form: str) -> None:
    """Everything about the VM NAME: its record, what of it is on this host, how full its overlay is."""
    from banger.cli.compose import open_session
    from banger.cli.streams import only_ours
    from banger.core import lifecycle
    from banger.core.report import silent

    with only_ours():
        shown = lifecycle.show(open_session(silent), name)
    if form == "json":
        click.echo(json.dumps(shown, default=str))
        return
    resources: dict[str, dict[str, Any]] = shown.pop("resources")
    rows = [[key, str(value)] for key, value in shown.items() if value not in (None, "")]
    rows += [
        [key, " ".join(f"{name}={value}" for name, value in details.items()) or "there"]
        for key, details in resources.items()
    ]
    say(aligned(["WHAT", "VALUE"], rows))


@vm.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--name", required=True, help="The VM; it is made when there is none of this name.")
@click.option("--image", help="An image that a playbook made. By default the only one there is.")
@click.option("--vcpus", type=click.IntRange(1), help="For a new VM.")
@click.option("--memory", metavar="SIZE", help="For a new VM: 512MiB.")
@click.option("--root-disk", metavar="SIZE", help="For a new VM: 4GiB.")
@click.option("--work-disk", metavar="SIZE", help="For a new VM: a disk that lasts, on /root.")
@click.option("--network", help="For a new VM: a network that other VMs are on, or `user` or `tap`.")
@click.option("--storage", help="For a new VM: the storage plugin.")
@click.option("--vmm", help="For a new VM: the VMM plugin.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(name: str, command: tuple[str, ...], **wish: Any) -> None:
    """Run COMMAND in the VM, started for it if need be: banger vm run --name N -- COMMAND.

    Its exit code passes through.

    The VM stays as it is afterwards. What is said on the way goes to stderr.
    """
    from banger.cli.perform import perform
    from banger.cli.render import Output
    from banger.core import lifecycle

    given = {key: value for key, value in wish.items() if value}
    perform(Output(stderr=True), lambda session: lifecycle.ensure_running(session, name, given), makes=True)
    home = Home.from_environment()
    (record,) = [record for record in Store(home.state, home.lock("state")).snapshot().vms() if record.name == name]
    _enter(home, record, command, vsock=False)


def _enter(home: Home, record: VmRecord, command: tuple[str, ...], *, vsock: bool) -> NoReturn:
    """Become ssh(1) into the guest, from the network namespace it is reached from."""
    from pathlib import Path

    from banger.core.access import ssh_command
    from banger.linux.run import become

    socket = Path(record.runtime.vsock_path)
    if vsock and not socket.exists():
        raise UsageError(f"{record.name} has no vsock socket", hint="only VMs of vmm: firecracker have one")
    if vsock or (socket.exists() and not _answers(record)):
        from banger.linux.vsock import proxy_command

        become(ssh_command(home.ssh_key, record, command, proxy=proxy_command(socket)))
    if record.nic.ssh.netns:
        from banger.linux.netns import enter

        enter(record.nic.ssh.netns)
    become(ssh_command(home.ssh_key, record, command))


def _answers(record: VmRecord) -> bool:
    from banger.linux.network import LinuxNetwork

    return LinuxNetwork().ssh_banner(record.nic.ssh, _FALLBACK_AFTER_S) is not None


def _states(home: Home) -> list[tuple[VmRecord, str]]:
    processes = LinuxProcesses()
    cache = HandleCache("")
    return [
        (record, state_word(record, alive=vmm_process(processes, record, cache.of(record.directory)) is not None))
        for record in Store(home.state, home.lock("state")).snapshot().vms()
    ]


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
