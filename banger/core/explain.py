"""Why something is as it is: for each value and guest file of a playbook, who said so, where, and what that overrode.

It is made of the drafts that `apply --check` plans with, so the host is only looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from banger.core import fstab, images, tasks, variables, yaml_source
from banger.core.choice import settle
from banger.core.converge import ApplyOptions, Run
from banger.core.digests import Digests
from banger.core.guest_files import FSTAB
from banger.core.members import Member
from banger.core.options import keys_of
from banger.core.playbook import Playbook, load
from banger.core.request import AUTO, AsWritten, ImageKeys, ImageRequest, NetworkKeys, VmKeys, VmRequest
from banger.core.scope import Scope
from banger.core.session import Session
from banger.core.suggest import did_you_mean
from banger.core.tasks import Round, Task
from banger.core.variables import Setting
from banger.core.yaml_source import Node, Scalar
from banger.errors import Place, UsageError
from banger.guestconfig import Claim, GuestConfig
from banger.imagedirectory import FACTS
from banger.types import GuestFile, Mount, Size

KINDS = ("image", "network", "vm", "var")
BUILT_IN = "built in"
_SUBJECT = re.compile(r"(?P<kind>[a-z]+)\.(?P<name>[A-Za-z0-9_-]+)(?:\.(?P<key>[A-Za-z0-9_]+)|:?(?P<path>/.*))?")
_FIELDS = {"memory": "memory_bytes"} | {
    key: f"{key}_bytes" for key in ("root_disk", "work_disk", "work_seed", "overlay")
}
_READABLE = 0o004
_HIDDEN = "not for everybody to see"


@dataclass(frozen=True, slots=True)
class Cause:
    """What something is, and why: `by` whom, at which place. `overrode`: what lost to it, the nearest first.

    `takes`: what its templates use. `parts`: what it consists of, a file of lines. `value` is None where it is shown
    by its parts, or not for everybody to see.
    """

    what: str
    value: str | None
    by: str
    place: Place | None = None
    overrode: tuple[Cause, ...] = ()
    takes: tuple[Cause, ...] = ()
    parts: tuple[Cause, ...] = ()


def explain(session: Session, path: Path, subject: str, extra: Mapping[str, tuple[Setting, ...]]) -> Cause:
    """Why the subject is as it is: `vm.web`, `vm.web.memory`, `vm.web:/etc/motd`, the same of images, and `var.team`.

    `extra`: the variables of the command line. Raises PlaybookError, and UsageError for what is not there.
    """
    found = _SUBJECT.fullmatch(subject)
    if found is None or found["kind"] not in KINDS or (found["kind"] == "var" and (found["key"] or found["path"])):
        near = did_you_mean(found["kind"], KINDS) if found and found["kind"] not in KINDS else None
        hint = near or "such as vm.web, vm.web.memory, vm.web:/etc/motd or var.team"
        raise UsageError(f"{subject!r} is nothing that can be explained", hint=hint)
    kind, name, key, path_in_guest = found.groups()
    values = {each: settings[-1].value for each, settings in extra.items()}
    playbook = load(path, session.plugins.declared(), values, extra)
    if kind == "var":
        return _variable_of_plays(playbook, name)
    if kind == "network":
        playbook, _ = settle(playbook, session.store.snapshot().by_name(), session.plugins, session.view)
    known = _names(playbook, kind)
    if name not in known:
        raise UsageError(f"no {_WORDS.get(kind, kind)} of {path} is named {name!r}", hint=did_you_mean(name, known))
    thing = _thing(session, playbook, kind, name, values)
    if key:
        return thing.key(key)
    return thing.file(path_in_guest) if path_in_guest else thing.whole()


def _names(playbook: Playbook, kind: str) -> list[str]:
    match kind:
        case "vm":
            return [vm.name for vm in playbook.vms]
        case "image":
            return [image.spec.name for image in playbook.images]
        case "network":
            return [network.name for network in playbook.networks]
    return list(dict.fromkeys(name for _, scope in playbook.scopes for name in scope.settings))


def _thing(session: Session, playbook: Playbook, kind: str, name: str, values: Mapping[str, Any]) -> _Thing:
    written = playbook.written.get((kind, name))
    if kind == "network":
        network = next(each for each in playbook.networks if each.name == name)
        return _Thing(session, f"network.{name}", written, network, NetworkKeys, f"network_{network.plugin}")
    if kind == "image":
        image = next(each for each in playbook.images if each.spec.name == name)
        return _Image(session, f"image.{name}", written, image.spec, ImageKeys, f"image_{image.spec.source}", image)
    request = next(each for each in playbook.vms if each.name == name)
    run = Run(session, playbook, ApplyOptions(check=True, extra_vars=values), {})
    run.check()
    member = next((each for each in run.drafts if each.request.name == name), None)
    settled = member.request if member else request
    return _Vm(session, f"vm.{name}", written, settled, VmKeys, "", request, member)


# --- keys ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thing:
    """An image, a network or a VM. `value` has what its keys came to; `plugin` names whose defaults it has besides."""

    session: Session
    subject: str
    written: AsWritten | None
    value: Any
    common: type
    plugin: str

    @property
    def guest(self) -> _Guest | None:
        """What is in its guest, where it has one."""
        return None

    def whole(self) -> Cause:
        """All of it; of its files only whose they are."""
        parts = [*(self._key(key) for key in self.keys), *(self.guest.all() if self.guest else ())]
        place = self.written.own.place if self.written else None
        by = "the playbook" if place else "implied: it is called as its kind, and has all of that one's defaults"
        return Cause(self.subject, None, by, place, parts=tuple(parts))

    def key(self, key: str) -> Cause:
        """One key."""
        if key not in self.keys:
            raise UsageError(f"{self.subject} has no {key!r}", hint=did_you_mean(key, self.keys))
        return replace(self._key(key), what=f"{self.subject}.{key}")

    def file(self, path: str) -> Cause:
        """One file of its guest, or raise UsageError."""
        if self.guest is None:
            raise UsageError(f"{self.subject} has no files", hint=f"known: {', '.join(self.keys)}")
        found = self.guest.file(path)
        return replace(found, what=f"{self.subject}:{found.what}")

    @property
    def keys(self) -> list[str]:
        options = getattr(self.value, "options", None)
        own = keys_of(type(options)) if is_dataclass(options) else []
        return [*keys_of(self.common), *(key for key in own if key not in keys_of(self.common))]

    def _key(self, key: str) -> Cause:
        """A key without its subject, for lists."""
        ways = list(self._ways(key))
        return replace(ways[0], what=key, value=self._value(key), overrode=tuple(ways[1:]))

    def _value(self, key: str) -> str:
        name = _FIELDS.get(key, key)
        options = getattr(self.value, "options", None)
        value = getattr(self.value if key in keys_of(self.common) else options, name)
        return _shown(Size(value) if key in _FIELDS and value is not None else value)

    def _ways(self, key: str) -> Iterator[Cause]:
        """What says what the key is, the strongest first."""
        written, said = self.written, False
        if written:
            for node, by in ((written.own, "the entry itself"), (written.defaults, "defaults of the play")):
                if node and (found := node.get(key)) is not None:
                    shown, said = _as_written(found), True
                    yield Cause(key, shown, by, found.place, takes=_takes_of(_texts(found), written.scope, written))
        options = getattr(self.value, "options", None)
        kind = self.common if key in keys_of(self.common) else type(options)
        default = next((each for each in fields(kind) if each.name == key), None)
        if default and default.default is not MISSING and (not said or default.default not in ("", ())):
            by = BUILT_IN if kind is self.common else f"default of the plugin {self.plugin}"
            yield Cause(key, _shown(default.default), by)
        elif not said:
            yield Cause(key, None, BUILT_IN)


@dataclass(frozen=True)
class _Image(_Thing):
    request: ImageRequest

    @cached_property
    def guest(self) -> _Guest:
        return _Guest.of_image(self)


@dataclass(frozen=True)
class _Vm(_Thing):
    """`request` is as it was before anything was chosen for `auto`; an absent VM is no `member` of a run."""

    request: VmRequest
    member: Member | None

    @cached_property
    def guest(self) -> _Guest | None:
        return _Guest.of_vm(self, self.member) if self.member else None

    @property
    def keys(self) -> list[str]:
        return [*super().keys, *(["ip"] if self.member else [])]

    def file(self, path: str) -> Cause:
        if self.member is None:
            raise UsageError(f"{self.subject} is to be absent, so there are no files in it")
        return super().file(path)

    def _value(self, key: str) -> str:
        return self.member.vm.nic.ip if self.member and key == "ip" else super()._value(key)

    def _ways(self, key: str) -> Iterator[Cause]:
        if key == "ip":
            assert self.member, "only those have it"
            kept = " when the VM was made, and kept" if self._recorded else ""
            yield Cause(key, None, f"given by the plugin network_{self.member.vm.nic.plugin}{kept}")
            return
        if getattr(self.request, key, None) == AUTO and self.member:
            when = "when the VM was made" if self._recorded else "on this host: see banger doctor"
            yield Cause(key, None, f"chosen for {AUTO} {when}")
        yield from super()._ways(key)

    @property
    def _recorded(self) -> bool:
        return self.request.name in self.session.store.snapshot().by_name()


# --- what is in a guest ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Guest:
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
    def of_image(cls, image: _Image) -> _Guest:
        request, config, session = image.request, GuestConfig(), image.session
        facts = {"image": tasks.ImageFacts(request.spec.name, "")}
        tasks.contribute(config, request.tasks, facts, request.variables, session.plugins.guest_modules())
        base = images.plan_image(session.home, session.plugins, request.spec, config, Digests(session.home)).base
        built = session.view.files.status(base / FACTS) is not None
        table = images.read_facts(session.view, base).fstab or "" if built else None
        scope = image.written.scope if image.written else Scope()
        return cls(config, request.tasks, facts, scope, session, table, {})

    @classmethod
    def of_vm(cls, vm: _Vm, member: Member) -> _Guest:
        facts = {"vm": tasks.VmFacts.of(member.vm), "image": tasks.ImageFacts.of(member.image)}
        table = None if member.image.facts == images.UNBUILT else member.image.facts.fstab or ""
        scope = vm.written.scope if vm.written else Scope()
        keys = dict(_written_keys(vm))
        for key in member.vm.authorized_keys:
            keys.setdefault(key, Cause("key", None, "banger's own, for banger vm ssh"))
        return cls(member.config, member.request.tasks, facts, scope, vm.session, table, keys)

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
        takes = _deduplicated([*self._used_by(task, done), *self._read_by(done)] if task and done else ())
        lines = self._lines(file, done)
        shown = None if lines or _is_shown(file) else _HIDDEN
        if file.no_log:
            takes = [_without_value(cause) for cause in takes]
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
        for text in _texts(task.options):
            yield from self._taken(variables.names_in(text), task, done)
        for template in done.templates.values():
            yield from self._taken(variables.names_in(template), task, done)

    def _read_by(self, done: Round) -> Iterator[Cause]:
        for name, path in done.files.items():
            by = "a template" if name in done.templates else "copied as it is"
            yield Cause("source", str(path), by, Place(str(path), 1, 1))

    def _taken(self, names: Iterable[str], task: Task, done: Round) -> tuple[Cause, ...]:
        found = []
        for name in names:
            owner, _, attribute = name.partition(".")
            if name == "item" and task.loop is not None:
                takes = _takes_of(_texts(task.loop), self.scope, None)
                found.append(Cause("item", _shown(done.context["item"]), "loop", task.loop.place, takes=takes))
            elif owner in self.facts:
                value = getattr(self.facts[owner], attribute, None) if attribute else None
                found.append(
                    Cause(name, None if value is None else _shown(value), f"a fact of the {_WORDS.get(owner, owner)}")
                )
            elif cause := _variable(owner, self.scope):
                found.append(cause)
        return tuple(found)


_WORDS = {"vm": "VM"}


def _written_keys(vm: _Vm) -> Iterator[tuple[str, Cause]]:
    """The keys of the entry's own `authorized_keys`, or of the defaults'."""
    cause = vm._key("authorized_keys")
    for key in vm.request.authorized_keys:
        yield key, replace(cause, what="key", value=key, by=f"authorized_keys, {cause.by}")


def _using(number: int, named: Mapping[str, tuple[int, ...]]) -> str:
    names = [name for name, lines in named.items() if number in lines]
    return f"with {', '.join(names)}" if names else ""


def _is_shown(file: GuestFile) -> bool:
    return bool(file.mode & _READABLE) and not file.no_log


def _without_value(cause: Cause) -> Cause:
    """Whose it is and where, not what it is."""
    takes, overrode = (tuple(map(_without_value, causes)) for causes in (cause.takes, cause.overrode))
    return replace(cause, value=None, takes=takes, overrode=overrode)


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


# --- variables -------------------------------------------------------------------------------------------------------


def _variable_of_plays(playbook: Playbook, name: str) -> Cause:
    """A variable in each play that has it; plays may have it of different values."""
    known = _names(playbook, "var")
    if name not in known:
        raise UsageError(f"no play of {playbook.path} has a variable {name!r}", hint=did_you_mean(name, known))
    parts = []
    for place, scope in playbook.scopes:
        if cause := _variable(name, scope):
            parts.append(replace(cause, what=f"in the play at {place}"))
    return Cause(f"var.{name}", None, "each play that has it", parts=tuple(parts))


def _variable(name: str, scope: Scope, seen_by: Setting | None = None) -> Cause | None:
    setting = scope.setting(name, seen_by)
    if setting is None:
        return None
    all_of_it = scope.settings[name]
    lost = all_of_it[: all_of_it.index(setting)]
    return Cause(
        name,
        _shown(setting.value),
        setting.source,
        setting.place,
        overrode=tuple(Cause(name, _as_written(each.node), each.source, each.place) for each in reversed(lost)),
        takes=_takes_of(_texts(setting.node), scope, None, setting) if setting.place else (),
    )


def _takes_of(
    texts: Iterable[str], scope: Scope, written: AsWritten | None, seen_by: Setting | None = None
) -> tuple[Cause, ...]:
    """The variables that these templates use."""
    found = []
    for name in dict.fromkeys(name for text in texts for name in variables.names_in(text)):
        if name == "item" and written and written.loop:
            takes = _takes_of(_texts(written.loop), scope, None)
            found.append(Cause("item", _shown(written.item), "loop", written.loop.place, takes=takes))
        elif cause := _variable(name.partition(".")[0], scope, seen_by):
            found.append(cause)
    return tuple(found)


def _texts(node: Node) -> list[str]:
    return [scalar.value for scalar in yaml_source.scalars(node) if isinstance(scalar.value, str)]


def _deduplicated(causes: Iterable[Cause]) -> list[Cause]:
    return list(dict.fromkeys(causes))


def _as_written(node: Node) -> str:
    return node.text if isinstance(node, Scalar) and node.text else _shown(yaml_source.plain(node))


def _shown(value: Any) -> str:
    """A value in a playbook's words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_shown(each)}' for key, each in value.items())}}}"
    if is_dataclass(value):
        return f"{{{', '.join(f'{key}: {_shown(getattr(value, key))}' for key in keys_of(type(value)))}}}"
    return str(value) if value != "" else '""'
