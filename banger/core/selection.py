"""Which VMs of a playbook a run is about, and which of their tasks: `--limit`, `--tags`, `--skip-tags`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from banger.core.playbook import Playbook
from banger.core.request import VmRequest
from banger.core.suggest import did_you_mean
from banger.core.tasks import Task
from banger.errors import UsageError

ALWAYS, NEVER = "always", "never"
"""Tags of tasks: selected whatever is asked for, unless skipped; selected only when asked for by one of its tags."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`limit`: patterns of VM names, `!` before one takes its VMs out again; no patterns, or no tags: all.

    A VM is in by a tag of its own, with all its tasks, or by a tag of one of its tasks, with those that are selected.
    """

    limit: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()

    @property
    def chooses(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.limit or self.tags or self.skip_tags)

    def of(self, playbook: Playbook) -> Playbook:
        """The playbook with what is selected. Raises UsageError for a pattern or a tag that nothing has."""
        self._refuse_unknown(playbook)
        vms = tuple(chosen for vm in playbook.vms if self._is_within_limit(vm.name) and (chosen := self._chosen(vm)))
        if not self.chooses:
            return replace(playbook, vms=vms)
        used = {vm.image for vm in vms}
        return replace(playbook, vms=vms, images=tuple(image for image in playbook.images if image.spec.name in used))

    def _is_within_limit(self, name: str) -> bool:
        wanted = [pattern for pattern in self.limit if not pattern.startswith("!")]
        unwanted = [pattern[1:] for pattern in self.limit if pattern.startswith("!")]
        return (not wanted or _matches(name, wanted)) and not _matches(name, unwanted)

    def _chosen(self, vm: VmRequest) -> VmRequest | None:
        if _common(vm.tags, self.skip_tags):
            return None
        whole = not self.tags or _common(vm.tags, self.tags)
        chosen = tuple(task for task in vm.tasks if self._is_chosen(task, whole=whole))
        if not whole and not any(_common(task.tags, self.tags) for task in chosen):
            return None
        if len(chosen) == len(vm.tasks):
            return vm
        return replace(vm, tasks=chosen, held_tasks=tuple(task for task in vm.tasks if task not in chosen))

    def _is_chosen(self, task: Task, *, whole: bool) -> bool:
        if _common(task.tags, self.skip_tags):
            return False
        if _common(task.tags, self.tags) or ALWAYS in task.tags:
            return True
        return whole and NEVER not in task.tags

    def _refuse_unknown(self, playbook: Playbook) -> None:
        names = [vm.name for vm in playbook.vms]
        for pattern in self.limit:
            if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
                raise UsageError(f"no VM of {playbook.path} is called {pattern!r}", hint=did_you_mean(pattern, names))
        if names and not any(map(self._is_within_limit, names)):
            raise UsageError(f"--limit {','.join(self.limit)} leaves no VM of {playbook.path}")
        known = {tag for vm in playbook.vms for tag in (*vm.tags, *(each for task in vm.tasks for each in task.tags))}
        for tag in (*self.tags, *self.skip_tags):
            if tag not in known:
                hint = did_you_mean(tag, known) or "no VM and no task in it has tags"
                raise UsageError(f"nothing in {playbook.path} has the tag {tag!r}", hint=hint)


def words(text: str | None, option: str) -> tuple[str, ...]:
    """A list with commas, as on a command line. Raises UsageError for an empty one: it was to choose something."""
    found = tuple(word.strip() for word in (text or "").split(",") if word.strip())
    if text is not None and not found:
        raise UsageError(f"{option} is empty, so it chooses nothing", hint=f"without {option} it is everything")
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _common(some: Sequence[str], others: Sequence[str]) -> bool:
    return not set(some).isdisjoint(others)
