"""What a command works with: the home, the records, the plugins, the host, and someone to tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from banger.core import access, assemble
from banger.core.handles import HandleCache
from banger.core.home import Home
from banger.core.locks import locked
from banger.core.plan import Plan, Verb
from banger.core.plugins import Plugins
from banger.core.report import Report
from banger.core.state import Store, VmRecord
from banger.host import Host, HostView
from banger.resource import Handle
from banger.types import Vm


@dataclass(frozen=True, slots=True)
class Session:
    """`view` is the host as planning sees it: it has no way to write."""

    home: Home
    store: Store
    plugins: Plugins
    host: Host
    view: HostView
    handles: HandleCache
    report: Report

    def announce(self, todo: Plan, *, dry: bool = False, diff: bool = False) -> None:
        """Tell what is going to be done; in a dry run, also how one would do it by hand."""
        actions: list[dict[str, object]] = [
            {"verb": action.verb.value, "resource": action.resource.key, "reason": action.reason}
            for action in todo.actions
        ]
        for told, action in zip(actions, todo.actions, strict=True):
            if action.needs:
                told["needs"] = action.needs
            if dry and action.verb is Verb.CREATE and (commands := list(action.resource.by_hand(self.view))):
                told["by_hand"] = commands
            differs = diff and action.verb not in (Verb.KEEP, Verb.REMOVE)
            if differs and (lines := list(action.resource.diff(self.view))):
                told["diff"] = lines
        self.report({"type": "plan", "subject": todo.subject, "actions": actions})

    @contextmanager
    def locked(self, names: list[str], purpose: str) -> Iterator[None]:
        """Hold the locks of these VMs, always taken in the same order. Busy when another command holds one."""
        with ExitStack() as stack:
            for name in sorted(set(names)):
                stack.enter_context(locked(self.home.lock(f"vm-{name}"), wait=False, purpose=purpose))
            self.view.processes.refresh()  # what whoever held them has started is to be found
            self.store.sweep()
            yield

    def vm(self, record: VmRecord, *, running: bool = True, keys: bool = True) -> Vm:
        """The VM a record stands for, with what its keys are now, or what stands for those that are to be made.

        Without `keys`: to look after what it consists of, for which keys that are spoilt do not matter.
        """
        ours = (access.public_ssh_key(self.view, self.home) or access.TO_BE_MADE) if keys else ""
        return assemble.vm_of(
            record,
            self.plugins,
            running=running,
            host_key=access.host_key(self.view, record.directory) if keys else access.UNMADE,
            authorized_keys=tuple(key for key in (ours, *record.authorized_keys) if key),
        )


@dataclass(frozen=True, slots=True)
class VmJournal:
    """One VM's handles, announced before and recorded after each effect."""

    handles: HandleCache
    record_of: VmRecord

    def announce(self, key: str) -> None:
        self.handles.announce(self.record_of.directory, key)

    def record(self, key: str, handle: Handle) -> None:
        if self.handles.of(self.record_of.directory).get(key) != handle:
            self.handles.record(self.record_of.directory, key, handle)

    def forget(self, key: str) -> None:
        self.handles.forget(self.record_of.directory, key)
