"""Reads the plays of one playbook, one after the other, and collects what they ask for and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from banger.core import options, tasks, variables, yaml_source
from banger.core.include import Reading, twice
from banger.core.request import (
    AUTO,
    AUTOMATIC,
    DEFAULT_NETWORK_KIND,
    PLAY_KEYS,
    AsWritten,
    Declared,
    ImageKeys,
    ImageRequest,
    NetworkKeys,
    VmKeys,
    VmRequest,
    implied_network,
)
from banger.core.scope import Scope, ScopeBuilder
from banger.core.suggest import did_you_mean
from banger.core.tasks import Task
from banger.core.variables import Unrendered
from banger.core.yaml_source import Node, Scalar
from banger.errors import Place, Problem
from banger.guestconfig import parse_public_key
from banger.types import ImageSource, ImageSpec, Network, NetworkKind, Size

MINIMUM_MEMORY = Size.parse("64MiB")
MINIMUM_DISK = Size.parse("16MiB")
MINIMUM_OVERLAY = Size.parse("1MiB")
MAXIMUM_DISK = Size.parse("15TiB")
"""A file of ext4, which a disk is and lies on, has at most 16 TiB; an overlay has tables beside its data."""
MAXIMUM_VCPUS = 255

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NAME_HINT = "a to z, 0 to 9 and '-', at most 63 of them, beginning and ending with a letter or digit"


class PlayReader:
    """Collects `images`, `networks`, `vms` and `problems` over all plays of the playbook at `path`.

    `todos` are each play's tasks with the variables they may use, `scopes` all about these; `written` is how each
    image, network and VM stands in its play.
    """

    def __init__(self, path: Path, declared: Declared) -> None:
        self.path = path
        self.images: list[ImageRequest] = []
        self.networks: list[Network] = []
        self.vms: list[VmRequest] = []
        self.problems: list[Problem] = []
        self.todos: list[tuple[tuple[Task, ...], Mapping[str, Any]]] = []
        self.scopes: list[tuple[Place, Scope]] = []
        self.written: dict[tuple[str, str], AsWritten] = {}
        self._modules, self._sources, self._kinds, self._roles = (
            declared.modules,
            declared.image_sources,
            declared.network_kinds,
            declared.roles,
        )
        self._reading = Reading(path)
        self._named: dict[str, dict[str, tuple[Place, Reading]]] = {"image": {}, "network": {}, "VM": {}}
        self._unnamed: set[str] = set()
        self._references: list[tuple[str, str, Place]] = []

    def read(self, play: Node, reading: Reading) -> None:
        """One play of a file: its variables first, because all else may use them."""
        self._reading = reading
        if not isinstance(play, yaml_source.Mapping):
            self._problem(play.place, "a play is a mapping", "- name: …")
            return
        for key, entry in play.entries.items():
            if key not in PLAY_KEYS:
                self._problem(entry.key_place, f"unknown key '{key}' in a play", self._hint(key))
        name = play.get("name")
        if name is not None and not (isinstance(name, Scalar) and isinstance(name.value, str)):
            self._problem(name.place, "the name of a play is text", "write it in quotes")
        scope = self._scope(play)
        context = scope.values
        self.scopes.append((play.place, scope))
        todo = tasks.parse(self._list(play, "tasks"), self._modules, self.problems)
        self.todos.append((todo, context))
        images, vms = self._list(play, "images"), self._list(play, "vms")
        if self._list(play, "tasks") and not images and not vms:
            self._problem(
                play.entries["tasks"].key_place, "tasks apply to the images or VMs of their play: it has none"
            )
        for node in images:
            self._image(node, scope, () if vms else todo)
        for node in self._list(play, "networks"):
            self._network(node, scope)
        self._vms(vms, self._defaults(play), scope, todo)

    def check_references(self, images: Collection[str] = (), networks: Collection[str] = ()) -> None:
        """Once all plays are read: each image and network that a VM names is there, or is among these."""
        known = {"image": images, "network": networks}
        used = dict.fromkeys(name for kind, name, _ in self._references if kind == "network")
        for name in used.keys() - self._named["network"].keys() - set(networks):
            if implied := implied_network(name, self._kinds):
                self._named["network"][name] = Place(str(self.path), 1, 1), self._reading
                self.networks.append(implied)
        for kind, name, place in self._references:
            if name not in {*self._named[kind], *known[kind]} and kind not in self._unnamed:
                hint = did_you_mean(name, self._named[kind]) or f"declare it under {kind}s:"
                self._problem(place, f"no {kind} is named '{name}'", hint)

    # --- variables

    def _scope(self, play: yaml_source.Mapping) -> Scope:
        """`vars`, then `vars_files`, then those of the include and of the command line; each may use those before."""
        builder = ScopeBuilder(self._reading.scope, self.problems)
        builder.add(play.get("vars"), "vars")
        builder.add_files(self._list(play, "vars_files"), self._reading.path.parent)
        return builder.scope()

    # --- images and networks

    def _image(self, node: Node, scope: Scope, todo: tuple[Task, ...]) -> None:
        entry = self._entry(node, scope.values, "image")
        if entry is None:
            return
        what = _what("image", entry)
        declared = self._declared(entry, "source", self._sources, "image source")
        given = self._options(entry, ImageKeys, declared, what, "source", self._sources)
        keys = options.check(_only(entry, ImageKeys), ImageKeys, what, self.problems)
        if not self._name("image", entry) or keys is None:
            return
        self._at_least(entry, "work_seed", keys.work_seed, MINIMUM_DISK, what)
        if given is not None:
            self._remember("image", keys.name, node, scope)
            spec = ImageSpec(keys.name, keys.source, given, keys.work_seed, entry.place, _places(entry))
            self.images.append(ImageRequest(spec, todo, scope.values))

    def _network(self, node: Node, scope: Scope) -> None:
        entry = self._entry(node, scope.values, "network")
        if entry is None:
            return
        what = _what("network", entry)
        declared = self._declared(entry, "plugin", self._kinds, "network plugin", DEFAULT_NETWORK_KIND)
        given = self._options(entry, NetworkKeys, declared, what, "plugin", self._kinds)
        keys = options.check(_only(entry, NetworkKeys), NetworkKeys, what, self.problems)
        if self._name("network", entry) and keys is not None and given is not None:
            self._remember("network", keys.name, node, scope)
            self.networks.append(Network(keys.name, keys.plugin, given, entry.place))

    def _declared(
        self,
        entry: yaml_source.Mapping,
        key: str,
        known: Mapping[str, ImageSource] | Mapping[str, NetworkKind],
        kind: str,
        default: str | None = None,
    ) -> ImageSource | NetworkKind | None:
        """The plugin's declaration that an entry names; None with a problem, or when the name itself is amiss."""
        node = entry.get(key)
        name = node.value if isinstance(node, Scalar) else default if node is None else None
        if not isinstance(name, str) or isinstance(name, Unrendered):
            return None
        if name not in known:
            hint = did_you_mean(name, known) or "no plugin has one: see banger plugins list"
            self._problem(options.place_of(entry, key), f"no {kind} is named '{name}'", hint)
        return known.get(name)

    def _options(
        self,
        entry: yaml_source.Mapping,
        keys: type,
        declared: ImageSource | NetworkKind | None,
        what: str,
        word: str,
        others: Mapping[str, ImageSource] | Mapping[str, NetworkKind],
    ) -> Any:
        """The keys of an entry that are its plugin's own, as an object of the plugin's dataclass.

        A key that only another plugin takes is told with the `word` that names that plugin.
        """
        if declared is None:
            return None
        common = options.keys_of(keys)
        own = options.without(entry, common)
        strangers = {
            key: each.name
            for each in others.values()
            for key in own.entries
            if key in options.keys_of(each.options) and key not in options.keys_of(declared.options)
        }
        for key, name in strangers.items():
            self._problem(own.entries[key].key_place, f"unknown key '{key}' in {what}", f"{word}: {name} takes it")
        rest = options.without(own, strangers)
        value = options.check(rest, declared.options, what, self.problems, also=common)
        return None if strangers else value

    # --- VMs

    def _defaults(self, play: yaml_source.Mapping) -> yaml_source.Mapping | None:
        """What the VMs of a play share; keys that no VM has are told here, once."""
        node = play.get("defaults")
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        if not isinstance(node, yaml_source.Mapping):
            self._problem(node.place, "'defaults' is a mapping of what VMs share", "defaults: {memory: 512MiB}")
            unread = Scalar(Unrendered(""), node.place, "")  # so that no VM is told to lack what may be in it
            return yaml_source.Mapping({"image": yaml_source.Entry(node.place, unread)}, node.place)
        known = [key for key in options.keys_of(VmKeys) if key != "name"]
        strangers = {key for key in node.entries if key not in known}
        for key in sorted(strangers):
            self._problem(node.entries[key].key_place, f"unknown key '{key}' in defaults", did_you_mean(key, known))
        return options.without(node, strangers)

    def _vms(
        self,
        nodes: tuple[Node, ...],
        defaults: yaml_source.Mapping | None,
        scope: Scope,
        todo: tuple[Task, ...],
    ) -> None:
        """All VMs of a play. What is wrong in its defaults or in a loop is told of the first VM it is wrong in."""
        told: set[Place | None] = set()
        for node in nodes:
            for entry, written in self._vm_entries(node, defaults, scope):
                before = len(self.problems)
                self._vm(entry, written, todo)
                news = [problem for problem in self.problems[before:] if problem.place not in told]
                self.problems[before:] = news
                told.update(problem.place for problem in news)

    def _vm_entries(
        self, node: Node, defaults: yaml_source.Mapping | None, scope: Scope
    ) -> Iterator[tuple[yaml_source.Mapping, AsWritten]]:
        """A VM entry once, or once for each item of its loop, with the defaults filled in and rendered."""
        if not isinstance(node, yaml_source.Mapping):
            self._problem(node.place, "a VM is a mapping", "- {name: web-1, image: …}")
            return
        entries = {**(defaults.entries if defaults else {}), **options.without(node, {"loop"}).entries}
        whole = yaml_source.Mapping(entries, node.place)
        loop = node.get("loop")
        contexts = [scope.values]
        if loop is not None:
            items = tasks.loop_items(loop, scope.values, self.problems)
            contexts = [{**scope.values, "item": item} for item in items]
        for each in contexts:
            entry = variables.render(whole, each, self.problems)
            assert isinstance(entry, yaml_source.Mapping), "rendering keeps a mapping a mapping"
            entry = _none_as_null(_none_as_null(entry, "work_disk"), "overlay")
            yield entry, AsWritten(node, scope, defaults, loop, each.get("item"))

    def _vm(self, entry: yaml_source.Mapping, written: AsWritten, todo: tuple[Task, ...]) -> None:
        what = _what("VM", entry)
        named = self._name("VM", entry)
        keys, whole = options.check_what_can_be(entry, VmKeys, what, self.problems, also=("loop",))
        if keys is None:
            return
        self._limits(keys, entry, what)
        if keys.image:
            self._references.append(("image", keys.image, options.place_of(entry, "image")))
        elif keys.state != "absent" and "image" not in entry.entries:
            self._problem(entry.place, f"{what} needs 'image'")
        elif keys.state != "absent" and _is_empty(entry.get("image")):
            self._problem(options.place_of(entry, "image"), f"'image' of {what} is empty", "name one of 'images'")
        if keys.state != "absent":
            self._plugins(keys, entry, what)
        if keys.network != AUTO:
            self._references.append(("network", keys.network, options.place_of(entry, "network")))
        if not whole or not named:
            return
        self.written["vm", keys.name] = written
        self.vms.append(
            VmRequest(
                name=keys.name,
                image=keys.image,
                vcpus=keys.vcpus,
                memory_bytes=keys.memory,
                root_disk_bytes=keys.root_disk,
                work_disk_bytes=keys.work_disk,
                overlay_bytes=keys.overlay,
                network=keys.network,
                storage=keys.storage,
                workdisk=keys.workdisk,
                vmm=keys.vmm,
                jailed=keys.jailed,
                state=keys.state,
                tags=keys.tags,
                authorized_keys=tuple(key.strip() for key in keys.authorized_keys),
                tasks=todo,
                variables=written.scope.values,
                place=entry.place,
                places=_places(entry),
            )
        )

    def _plugins(self, keys: VmKeys, entry: yaml_source.Mapping, what: str) -> None:
        """Each plugin that a VM names is in use; which one `auto` is, the host decides."""
        for role, there in self._roles.items():
            name = getattr(keys, role)
            if name in there or (role in AUTOMATIC and name == AUTO):
                continue
            message = f"no plugin {role}_{name} is in use, for the {role} of {what}"
            self._problem(options.place_of(entry, role), message, did_you_mean(name, there))

    def _limits(self, keys: VmKeys, entry: yaml_source.Mapping, what: str) -> None:
        if not 1 <= keys.vcpus <= MAXIMUM_VCPUS:
            place = options.place_of(entry, "vcpus")
            self._problem(place, f"'vcpus' of {what} is {keys.vcpus}", f"from 1 to {MAXIMUM_VCPUS}")
        self._at_least(entry, "memory", keys.memory, MINIMUM_MEMORY, what)
        self._at_least(entry, "root_disk", keys.root_disk, MINIMUM_DISK, what)
        self._at_least(entry, "work_disk", keys.work_disk, MINIMUM_DISK, what)
        self._at_least(entry, "overlay", keys.overlay, MINIMUM_OVERLAY, what)
        for key in ("root_disk", "work_disk", "overlay"):
            self._at_most(entry, key, getattr(keys, key), MAXIMUM_DISK, what)
        listed = entry.get("authorized_keys")
        for node in listed.items if isinstance(listed, yaml_source.Sequence) else ():
            try:
                parse_public_key(str(yaml_source.plain(node)))
            except ValueError as error:
                message, _, hint = str(error).partition("; ")
                self._problem(node.place, f"'authorized_keys' of {what}: {message}", hint or None)

    # --- small things

    def _problem(self, place: Place, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(place, message, hint))

    def _list(self, play: yaml_source.Mapping, key: str) -> tuple[Node, ...]:
        node = play.get(key)
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return ()
        if isinstance(node, yaml_source.Sequence):
            return node.items
        self._problem(node.place, f"'{key}' is a list", "begin each item with '- '")
        return ()

    def _entry(self, node: Node, context: Mapping[str, Any], kind: str) -> yaml_source.Mapping | None:
        if isinstance(node, yaml_source.Mapping):
            rendered = variables.render(node, context, self.problems)
            assert isinstance(rendered, yaml_source.Mapping), "rendering keeps a mapping a mapping"
            return rendered
        self._problem(node.place, f"each {kind} is a mapping", "- {name: …}")
        return None

    def _name(self, kind: str, entry: yaml_source.Mapping) -> bool:
        """Whether the entry's name will do and is not taken. One that is no text at all is told elsewhere."""
        node = entry.get("name")
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or isinstance(node.value, Unrendered):
            self._unnamed.add(kind)
            return False
        if not NAME.fullmatch(node.value):
            self._problem(node.place, f"{variables.shorten(node.value)} cannot be the name of any {kind}", NAME_HINT)
            return False
        found = self._named[kind].get(node.value)
        if found is None:
            self._named[kind][node.value] = node.place, self._reading
            return True
        first, reading = found
        message, advice = f"two {kind}s are named '{node.value}'; the first is at {first}", None
        if first == node.place and (ways := twice(reading, self._reading)):
            message = f"two {kind}s are named '{node.value}': this is included at {ways[0]} and at {ways[1]}"
            advice = "name it by a variable, and give that in the vars of each include"
        elif first == node.place:
            advice = "use {{ item }} in the name of what has a loop"
        self._problem(node.place, message, advice)
        return False

    def _remember(self, kind: str, name: str, node: Node, scope: Scope) -> None:
        if isinstance(node, yaml_source.Mapping):
            self.written[kind, name] = AsWritten(node, scope)

    def _hint(self, key: str) -> str | None:
        """What was meant by a key that no play has."""
        if key == "import_playbook":
            return "- include: FILE"
        if key in self._modules:
            return "it is a module: a task, below the 'tasks:' of a play"
        return did_you_mean(key, (*PLAY_KEYS, "include"))

    def _at_least(self, entry: yaml_source.Mapping, key: str, size: Size | None, least: Size, what: str) -> None:
        if size is not None and size < least:
            message = f"'{key}' of {what} is {size}, which is less than {least}"
            node = entry.get(key)
            no_unit = isinstance(node, Scalar) and node.text.isdecimal() and least <= size * 2**20 < 2**40
            self._problem(options.place_of(entry, key), message, f"did you mean {int(size)}MiB?" if no_unit else None)

    def _at_most(self, entry: yaml_source.Mapping, key: str, size: Size | None, most: Size, what: str) -> None:
        if size is not None and size > most:
            self._problem(options.place_of(entry, key), f"'{key}' of {what} is {size}, which is more than {most}")


def _what(kind: str, entry: yaml_source.Mapping) -> str:
    """How messages call it: by its name when it has one."""
    name = entry.get("name")
    if isinstance(name, Scalar) and isinstance(name.value, str) and not isinstance(name.value, Unrendered):
        return f"the {kind} '{name.value}'"
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _places(entry: yaml_source.Mapping) -> dict[str, Place]:
    return {key: each.node.place for key, each in entry.entries.items()}


def _only(entry: yaml_source.Mapping, keys: type) -> yaml_source.Mapping:
    return options.without(entry, set(entry.entries) - set(options.keys_of(keys)))


def _is_empty(node: Node | None) -> bool:
    """An empty text that was read as one; what could not be read has been told."""
    return isinstance(node, Scalar) and node.value == "" and not isinstance(node.value, Unrendered)


def _none_as_null(entry: yaml_source.Mapping, key: str) -> yaml_source.Mapping:
    """`work_disk: none` overrides a default as `null` does."""
    node = entry.get(key)
    if not isinstance(node, Scalar) or node.value != "none":
        return entry
    null = yaml_source.Entry(entry.entries[key].key_place, Scalar(None, node.place, node.text))
    return yaml_source.Mapping({**entry.entries, key: null}, entry.place)
