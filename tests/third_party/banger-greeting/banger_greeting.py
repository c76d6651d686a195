"""The smallest useful plugin: one file in every guest, and one verb for playbooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from banger.guestconfig import GuestConfig
from banger.hooks import hookimpl
from banger.types import GuestModule, ModuleContext, Vm


@dataclass(frozen=True)
class GreetOptions:
    """`greet`: leave a greeting for `whom` in /etc/greetings."""

    whom: str


def greet(builder: GuestConfig, options: GreetOptions, context: ModuleContext) -> None:
    builder.write_file("/etc/greetings", f"hello {options.whom}\n")


@hookimpl
def register_guest_modules() -> Sequence[GuestModule]:
    return [GuestModule("greet", GreetOptions, greet)]


@hookimpl
def contribute_guest_config(builder: GuestConfig, vm: Vm) -> None:
    builder.write_file("/etc/banger/greeting", f"hello from a third party, {vm.name}\n")
