"""What is in a guest, file by file and line by line, and which plugin or task asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from banger.core import fstab, images, tasks, variables
from banger.core.cause import Cause, deduplicated, in_words, kind_word, takes_of, texts_of, variable, without_value
from banger.core.digests import Digests
from banger.core.guest_files import FSTAB
from banger.core.members import Member
from banger.core.request import ImageRequest
from banger.core.scope import Scope
from banger.core.session import Session
from banger.core.suggest import did_you_mean
from banger.core.tasks import Round, Task
from banger.errors import Place, UsageError
from banger.guestconfig import Claim, GuestConfig
from banger.imagedirectory import FACTS
from banger.types import GuestFile, Mount

_READABLE = 0o004
_HIDDEN = "not for everybody to see"


@dataclass(frozen=True)
class ExplainedGuest:
    """The files of one guest, and who asked for them.

    `table`: the fstab that the image brings along, None where it is not known yet. `keys`: who may log in, by whom.
    """

    config: GuestConfig
    tasks: Sequence[Task]
    facts: Mapping[str, Any]
    scope: Scope
    session: Session
    table: str | None
    keys: Mapping[str, Cause]

    @classmethod
    def of_image(cls, session: Session, request: ImageRequest, scope: Scope) -> ExplainedGuest:
        config = GuestConfig()
        facts = {"image": tasks.ImageFacts(request.spec.name, "")}
        tasks.contribute(config, request.tasks, facts, request.variables, session.plugins.guest_modules())
        base = images.plan_image(session.home, session.plugins, request.spec, config, Digests(session.home)).base
        built = session.view.files.status(base / FACTS) is not None
        table = images.read_facts(session.view, base).fstab or "" if built else None
        return cls(config, request.tasks, facts, scope, session, table, {})

    @classmethod
    def of_vm(cls, session: Session, member: Member, scope: Scope, keys: Iterable[tuple[str, Cause]]) -> ExplainedGuest:
        """`keys`: of the VM's own `authorized_keys`."""
        facts = {"vm": tasks.VmFacts.of(member.vm), "image": tasks.ImageFacts.of(member.image)}
        table = None if member.image.facts == images.UNBUILT else member.image.facts.fstab or ""
        owners = dict(keys)
        for key in member.vm.authorized_keys:
            owners.setdefault(key, Cause("key", None, "banger's own, for banger vm ssh"))
        return cls(member.config, member.request.tasks, facts, scope, session, table, owners)

    def all(self) -> list[Cause]:
        """Every file, and fstab and the kernel's arguments where somebody asks for some."""
        config = self.config
        found = {path: self._claimed(path, claim, None) for path, claim in config.claims("files").items()}
        if config.mounts or config.dropped_mounts:
            found[FSTAB] = Cause(FSTAB, None, "the image's own, and whoever asks for a mount")
        arguments = config.claims("kernel_arguments").items()
        return [
            *(cause for _, cause in sorted(found.items())),
            *(self._claimed("kernel argument", claim, text) for text, claim in arguments),
        ]

    def file(self, path: str) -> Cause:
        """One file, with its lines."""
        claims = self.config.claims("files")
        if path == FSTAB and (self.config.mounts or self.config.dropped_mounts):
            return Cause(path, None, "the image's own, and whoever asks for a mount", parts=tuple(self._fstab()))
        claim = claims.get(path)
        if claim is None or not isinstance(claim.value, GuestFile):
            known = [*claims, FSTAB]
            hint = did_you_mean(path, known) or "what nobody writes is as the image has it"
            raise UsageError(f"nobody writes {path!r} there", hint=hint)
        cause = self._claimed(path, claim, None)
        file = next(each for each in self.config.files() if each.path == path)
        if file.content == "".join(f"{key}\n" for key in self.config.authorized_keys).encode():
            return replace(cause, by="whoever asks for a key", place=None, overrode=(), parts=tuple(self._key_lines()))
        task = self._task(claim)
        done = self._round(task, path) if task else None
        takes = deduplicated([*self._used_by(task, done), *self._read_by(done)] if task and done else ())
        lines = self._lines(file, done)
        shown = None if lines or _is_shown(file) else _HIDDEN
        if file.no_log:
            takes = [without_value(cause) for cause in takes]
        return replace(cause, takes=tuple(takes), parts=tuple(lines), value=shown)

    def _task(self, claim: Claim) -> Task | None:
        return next((task for task in self.tasks if claim.by_task and str(task.place) == claim.origin), None)

    def _claimed(self, what: str, claim: Claim, value: str | None) -> Cause:
        """Who asked for it, and who else did before."""
        overrode = []
        before = claim.overrode
        while before:
            if before.origin != claim.origin:
                overrode.append(self._asked(what, before, _claimed_value(before)))
            before = before.overrode
        return replace(self._asked(what, claim, value), overrode=tuple(overrode))

    def _asked(self, what: str, claim: Claim, value: str | None) -> Cause:
        if task := self._task(claim):
            name = f"{task.module} '{task.name}'" if task.name != task.module else task.module
            return Cause(what, value, f"the task {name}", task.place)
        return Cause(what, value, f"the plugin {claim.origin}")

    # --- lines

    def _key_lines(self) -> Iterator[Cause]:
        for key, claim in self.config.claims("authorized_keys").items():
            asked = self._claimed("key", claim, _HIDDEN if claim.no_log else key)
            yield asked if claim.by_task or key not in self.keys else replace(self.keys[key], value=key)

    def _fstab(self) -> Iterator[Cause]:
        """Its lines as they are in the guest, then what of the image's is not in it."""
        config = self.config
        mounts, dropped = config.claims("mounts"), config.claims("dropped")
        hidden = {fstab.render_line(mount) for mount in config.no_log_mounts}
        by_line = {fstab.render_line(c.value): (t, c) for t, c in mounts.items() if isinstance(c.value, Mount)}
        own = {line: fstab.parse_line(line) for line in (self.table or "").splitlines()}
        image = Cause("line", None, "the image")
        if self.table is None:
            yield Cause("the image's own lines", None, "known once it is built")
        for line in fstab.render_fstab(self.table, dropped, config.mounts).splitlines():
            if line not in by_line:
                yield replace(image, value=line)
                continue
            target, claim = by_line[line]
            cause = self._claimed("line", claim, _HIDDEN if line in hidden else line)
            lost = [
                replace(image, value=each) for each, m in own.items() if m and _target(m) == target and each != line
            ]
            yield replace(cause, overrode=(*cause.overrode, *lost))
        for target, claim in dropped.items():
            if target not in mounts:
                cause = self._claimed("nothing on", claim, target)
                lost = [replace(image, value=line) for line, mount in own.items() if mount and _target(mount) == target]
                yield replace(cause, overrode=(*cause.overrode, *lost))

    def _lines(self, file: GuestFile, done: Round | None) -> Iterable[Cause]:
        """What anybody may read of it, and where each line of a template comes from."""
        if not _is_shown(file):
            return []
        try:
            text = file.content.decode()
        except UnicodeDecodeError:
            return []
        for name, template in (done.templates if done else {}).items():
            lines = variables.lines_of(template, name, done.context) if done else None
            if lines and [line for line, _ in lines] == text.splitlines():
                named = variables.names_in(template)
                path = str(done.files.get(name, name)) if done else name
                return [Cause("line", line, _using(number, named), Place(path, number, 1)) for line, number in lines]
        return [Cause("line", line, "") for line in text.splitlines()]

    # --- what a task uses

    def _round(self, task: Task, path: str) -> Round | None:
        """The last time of the task that wrote this file."""
        alone, found = GuestConfig(), []
        before: list[Claim | None] = [None]

        def watch(done: Round) -> None:
            claim = alone.claims("files").get(path)
            if claim is not before[0]:
                found.append(done)
                before[0] = claim

        modules = self.session.plugins.guest_modules()
        tasks.contribute(alone, [task], self.facts, self.scope.values, modules, watch)
        return found[-1] if found else None

    def _used_by(self, task: Task, done: Round) -> Iterator[Cause]:
        for condition in task.when:
            if isinstance(condition.value, str):
                names = variables.names_in(condition.value, expression=True)
                yield Cause("when", condition.text, "the task", condition.place, takes=self._taken(names, task, done))
        for text in texts_of(task.options):
            yield from self._taken(variables.names_in(text), task, done)
        for template in done.templates.values():
            yield from self._taken(variables.names_in(template), task, done)

    def _read_by(self, done: Round) -> Iterator[Cause]:
        for name, path in done.files.items():
            by = "a template" if name in done.templates else "copied as it is"
            yield Cause("read from", str(path), by, Place(str(path), 1, 1))

    def _taken(self, names: Iterable[str], task: Task, done: Round) -> tuple[Cause, ...]:
        found = []
        for name in names:
            owner, _, attribute = name.partition(".")
            if name == "item" and task.loop is not None:
                takes = takes_of(texts_of(task.loop), self.scope, None)
                found.append(Cause("item", in_words(done.context["item"]), "loop", task.loop.place, takes=takes))
            elif owner in self.facts:
                value = getattr(self.facts[owner], attribute, None) if attribute else None
                found.append(
                    Cause(name, None if value is None else in_words(value), f"a fact of the {kind_word(owner)}")
                )
            elif cause := variable(owner, self.scope):
                found.append(cause)
        return tuple(found)


def _using(number: int, named: Mapping[str, tuple[int, ...]]) -> str:
    names = [name for name, lines in named.items() if number in lines]
    return f"with {', '.join(names)}" if names else ""


def _is_shown(file: GuestFile) -> bool:
    return bool(file.mode & _READABLE) and not file.no_log


def _claimed_value(claim: Claim) -> str | None:
    """What was asked for, in one line; None for what not everybody may see."""
    if claim.no_log:
        return None
    match claim.value:
        case Mount() as mount:
            return fstab.render_line(mount)
        case GuestFile(content=content, mode=mode):
            return variables.shorten(content.decode(errors="replace")) if mode & _READABLE else None
    return None


def _target(mount: Mount) -> str:
    return fstab.normalise_target(mount.target)
