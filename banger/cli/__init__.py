"""The command line: parse, call the core, render. A command's file is imported when the command is run."""

from __future__ import annotations

import gc as cycles  # the package has a gc of its own, the command
import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from banger.cli.screen import say
from banger.cli.streams import guarded
from banger.errors import BangerError, UsageError

COMMANDS = {
    "apply": ("banger.cli.apply:apply", "Make this host as a playbook says."),
    "destroy": ("banger.cli.destroy:destroy", "Remove the VMs a playbook names, and all they left on this host."),
    "doctor": ("banger.cli.doctor:doctor", "Whether this host has what each plugin needs, and how to mend it."),
    "plan": ("banger.cli.plan:plan", "Say what an apply would do; keep that, to do exactly that later."),
    "export": ("banger.cli.export:export", "What there is on this host, as a playbook."),
    "explain": ("banger.cli.explain:explain", "Why a value or a guest file is as it is: who said so, and where."),
    "gc": ("banger.cli.gc:gc", "What on this host belongs to nothing any more; and its removal."),
    "graph": ("banger.cli.graph:graph", "What a playbook asks for as a graph, in Mermaid or SVG."),
    "inventory": ("banger.cli.inventory:inventory", "The running VMs as an inventory for Ansible."),
    "plugins": ("banger.cli.plugins:plugins", "The plugins that are installed."),
    "recover": ("banger.cli.recover:recover", "Find VMs again that the store has lost."),
    "schema": ("banger.cli.schema:schema", "Playbooks as a JSON Schema, for editors."),
    "validate": (
        "banger.cli.validate:validate",
        "Whether a playbook is right, as far as that can be told without a host.",
    ),
    "vm": ("banger.cli.vm:vm", "List VMs, get into one, start, stop, delete them."),
}


class LazyGroup(click.Group):
    """Knows its commands by a table, so that `--help` imports none of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"banger {version('banger')}")
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("-v", "--verbose", is_flag=True, help="Log every program that is run, as a command you can paste.")
def cli(verbose: bool) -> None:
    """Converge this host's microVMs from a YAML playbook.

    State is kept in $BANGER_HOME, by default /var/lib/banger for root and ~/.local/state/banger for others.
    """
    if verbose:
        import logging  # warnings reach stderr without it

        logging.basicConfig(level=logging.DEBUG, format="%(message)s")


def main() -> NoReturn:
    """The `banger` command. A known failure is a paragraph and an exit code; an unknown one a traceback."""
    cycles.disable()  # a run is short, and what it makes it keeps: looking for cycles is a tenth of it
    guarded(_run)


def _run() -> NoReturn:
    try:
        # Not standalone, click returns the code of a command that ended by `Exit`, and what others returned: None.
        code = cli.main(prog_name="banger", standalone_mode=False)
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # of click 8.2
            error.show()
            sys.exit(error.exit_code)
        fail(UsageError(error.format_message(), hint=f"{error.ctx.command_path} --help" if error.ctx else None))
    except click.ClickException as error:
        fail(UsageError(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        _leave(130)
    except BangerError as error:
        fail(error)
    except Exception as error:
        error.add_note("This is a bug in banger: please report it, with the command and all of the above.")
        raise
    sys.exit(code or 0)


def _leave(code: int) -> NoReturn:
    """End now, even where threads are still at work; an ordinary exit would wait for them."""
    import threading

    if any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def fail(error: BangerError) -> NoReturn:
    """Print a known error as the user should see it, and end with its exit code."""
    from banger.errors import PlaybookError

    if isinstance(error, PlaybookError):
        for problem in error.problems:
            where = f"{problem.place}: " if problem.place else ""
            say(f"{where}error: {problem.message}", err=True)
            if problem.hint:
                say(f"    {problem.hint}", err=True)
        count = len(error.problems)
        click.echo(f"{count} problem{'s' if count != 1 else ''}; nothing was changed", err=True)
    else:
        say(f"error: {error.message}", err=True)
        if error.hint:
            say(f"    {error.hint}", err=True)
        for note in getattr(error, "__notes__", []):
            say(f"    {note}", err=True)
    sys.exit(error.exit_code)
