"""Why something is as it is: for each value and guest file of a playbook, who said so, where, and what that overrode.

It is made of the drafts that `apply --check` plans with, so the host is only looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from banger.core.cause import Cause, as_written, in_words, kind_word, takes_of, texts_of, variable
from banger.core.choice import settle
from banger.core.converge import ApplyOptions, Run
from banger.core.explain_guest import ExplainedGuest
from banger.core.members import Member
from banger.core.options import keys_of
from banger.core.playbook import Playbook, load
from banger.core.request import AUTO, AsWritten, ImageKeys, ImageRequest, NetworkKeys, VmKeys, VmRequest
from banger.core.scope import Scope
from banger.core.session import Session
from banger.core.suggest import did_you_mean
from banger.core.variables import Setting
from banger.errors import UsageError
from banger.types import Size

KINDS = ("image", "network", "vm", "var")
BUILT_IN = "built in"
_SUBJECT = re.compile(r"(?P<kind>[a-z]+)\.(?P<name>[A-Za-z0-9_-]+)(?:\.(?P<key>[A-Za-z0-9_]+)|:?(?P<path>/.*))?")
_FIELDS = {"memory": "memory_bytes"} | {
    key: f"{key}_bytes" for key in ("root_disk", "work_disk", "work_seed", "overlay")
}


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
        raise UsageError(f"no {kind_word(kind)} of {path} is named {name!r}", hint=did_you_mean(name, known))
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
    def guest(self) -> ExplainedGuest | None:
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
    def scope(self) -> Scope:
        """The variables it is written with."""
        return self.written.scope if self.written else Scope()

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
        return in_words(Size(value) if key in _FIELDS and value is not None else value)

    def _ways(self, key: str) -> Iterator[Cause]:
        """What says what the key is, the strongest first."""
        written, said = self.written, False
        if written:
            for node, by in ((written.own, "the entry itself"), (written.defaults, "defaults of the play")):
                if node and (found := node.get(key)) is not None:
                    shown, said = as_written(found), True
                    yield Cause(key, shown, by, found.place, takes=takes_of(texts_of(found), written.scope, written))
        options = getattr(self.value, "options", None)
        kind = self.common if key in keys_of(self.common) else type(options)
        default = next((each for each in fields(kind) if each.name == key), None)
        if default and default.default is not MISSING and (not said or default.default not in ("", ())):
            by = BUILT_IN if kind is self.common else f"default of the plugin {self.plugin}"
            yield Cause(key, in_words(default.default), by)
        elif not said:
            yield Cause(key, None, BUILT_IN)


@dataclass(frozen=True)
class _Image(_Thing):
    request: ImageRequest

    @cached_property
    def guest(self) -> ExplainedGuest:
        return ExplainedGuest.of_image(self.session, self.request, self.scope)


@dataclass(frozen=True)
class _Vm(_Thing):
    """`request` is as it was before anything was chosen for `auto`; an absent VM is no `member` of a run."""

    request: VmRequest
    member: Member | None

    @cached_property
    def guest(self) -> ExplainedGuest | None:
        if self.member is None:
            return None
        return ExplainedGuest.of_vm(self.session, self.member, self.scope, self._written_keys())

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

    def _written_keys(self) -> Iterator[tuple[str, Cause]]:
        """The keys of the entry's own `authorized_keys`, or of the defaults'."""
        cause = self._key("authorized_keys")
        for key in self.request.authorized_keys:
            yield key, replace(cause, what="key", value=key, by=f"authorized_keys, {cause.by}")

    @property
    def _recorded(self) -> bool:
        return self.request.name in self.session.store.snapshot().by_name()


# --- variables -------------------------------------------------------------------------------------------------------


def _variable_of_plays(playbook: Playbook, name: str) -> Cause:
    """A variable in each play that has it; plays may have it of different values."""
    known = _names(playbook, "var")
    if name not in known:
        raise UsageError(f"no play of {playbook.path} has a variable {name!r}", hint=did_you_mean(name, known))
    parts = []
    for place, scope in playbook.scopes:
        if cause := variable(name, scope):
            parts.append(replace(cause, what=f"in the play at {place}"))
    return Cause(f"var.{name}", None, "each play that has it", parts=tuple(parts))
