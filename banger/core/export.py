"""What is recorded on this host, as a playbook: images, networks, VMs, and what tasks wrote into guests.

Applied on the same home it changes nothing; on another it makes the same, with ids and addresses of its own. A play
holds the VMs that have files in common: what all of them have is there once, the rest with `when`.
"""

from __future__ import annotations

import base64
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any

from banger.core import recipe, saved_guest, yaml_text
from banger.core.lifecycle import recorded
from banger.core.recipe import Recipe
from banger.core.request import VmKeys, implied_network
from banger.core.session import Session
from banger.core.state import VmRecord
from banger.errors import StateError
from banger.guestconfig import GuestConfig
from banger.types import GuestFile, Mount, Size

_HEAD = "# What banger had on this host. An apply of it changes nothing here, and makes the same elsewhere.\n"
_MODULES = ("unmount", "mount", "directory", "file", "authorized_key")
"""In this order: what unmounts takes away what was to be mounted before it."""
_CURE = "apply its playbook once, then export again"


@dataclass(frozen=True, slots=True)
class Export:
    """A playbook, and what of this host is not in it, with the cure."""

    text: str
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """A task of the export; those of a play are sorted. `text` is all of it, so equal tasks are equal in it."""

    rank: int
    path: str
    text: str
    options: Mapping[str, Any] = field(compare=False)


@dataclass(slots=True)
class _Play:
    """VMs, each as the playbook has it by its keys, and the names of those that each task is for."""

    vms: list[dict[str, Any]]
    tasks: dict[_Task, list[str]]


def export(session: Session, names: Sequence[str]) -> Export:
    """A playbook of these VMs with their images and networks; of everything when none is named.

    Raises UsageError for a name that no VM has.
    """
    return _Exporter(session, names).export()


def is_export(head: str) -> bool:
    """Whether a playbook with this beginning is one that `export` wrote."""
    return head.startswith(_HEAD.partition(".")[0])


class _Exporter:
    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self._session = session
        self._current = session.store.snapshot().images()
        self._all = not names
        chosen = recorded(session, names) if names else session.store.snapshot().vms()
        self._records = sorted(chosen, key=attrgetter("name"))
        self._lacking: list[str] = []

    def export(self) -> Export:
        guests = {record.name: guest for record in self._records if (guest := self._guest(record))}
        records = [record for record in self._records if record.name in guests]
        plays = self._images(records) + self._networks(records) + self._vms(records, guests)
        text = _HEAD + "".join(f"# Not in it: {each}\n" for each in self._lacking)
        for play in plays:
            text += ("" if text.endswith("\n\n") else "\n") + yaml_text.sequence([play])
        return Export(text if plays else f"{text}\n[]\n", tuple(self._lacking))

    # --- images

    def _images(self, records: Sequence[VmRecord]) -> list[dict[str, Any]]:
        """One play for those with the same tasks, since tasks are of all images of a play."""
        wanted = {self._image_name(record): record.image_digest for record in records}
        if self._all:
            home, view = self._session.home, self._session.view
            wanted |= {n: d for n, d in self._current.items() if view.files.status(home.image_directory(d))}
        plays: dict[tuple[_Task, ...], list[dict[str, Any]]] = {}
        for name, digest in sorted(wanted.items()):
            known = self._recipe(name, digest)
            if known:
                plays.setdefault(tuple(_tasks(known.guest)), []).append(self._image(name, known))
        return [
            {"images": images} | ({"tasks": [task.options for task in tasks]} if tasks else {})
            for tasks, images in plays.items()
        ]

    def _image_name(self, record: VmRecord) -> str:
        """Its own; where that stands for another image by now, one that tells them apart."""
        current = self._current.get(record.image, record.image_digest)
        return record.image if current == record.image_digest else f"{record.image[:54]}-{record.image_digest[:8]}"

    def _recipe(self, name: str, digest: str) -> Recipe | None:
        try:
            known = recipe.load(self._session.view, self._session.home.image_directory(digest))
        except StateError as error:
            self._lack(f"the image '{name}': {error.message}; {_CURE}")
            return None
        if known is None:
            self._lack(f"the image '{name}': what it was made of is not known; {_CURE}, or declare it here")
        return known

    def _image(self, name: str, known: Recipe) -> dict[str, Any]:
        source = self._session.plugins.declared().image_sources.get(known.source)
        entry = {"name": name, "source": known.source} | _differing(known.options, source.options if source else None)
        return entry | ({"work_seed": str(Size(known.work_seed_bytes))} if known.work_seed_bytes is not None else {})

    # --- networks

    def _networks(self, records: Sequence[VmRecord]) -> list[dict[str, Any]]:
        """Those that must be declared. A running VM's wins where one has changed and a VM has not followed yet."""
        kinds = self._session.plugins.network_kinds()
        chosen: dict[str, VmRecord] = {}
        for record in sorted(records, key=lambda each: each.runtime.state != "running"):
            first = chosen.setdefault(record.nic.network, record)
            if _network(first) != _network(record):
                self._lack(
                    f"the network '{record.nic.network}' as the VM '{record.name}' has it: "
                    f"the VM '{first.name}' has it otherwise"
                )
        declared = []
        for name, record in sorted(chosen.items()):
            implied = implied_network(name, kinds)
            if implied and _network(record) == (implied.plugin, recipe.plain(implied.options)):
                continue
            kind = kinds.get(record.nic.plugin)
            options = _differing(record.network_options, kind.options if kind else None)
            declared.append({"name": name, "plugin": record.nic.plugin} | options)
        return [{"networks": declared}] if declared else []

    # --- VMs

    def _guest(self, record: VmRecord) -> GuestConfig | None:
        try:
            config = saved_guest.load_marked(self._session.view, record.directory)
        except StateError as error:
            self._lack(f"the VM '{record.name}': {error.message}; {_CURE}")
            return None
        if config is None:
            self._lack(f"the VM '{record.name}': which of its files come from tasks is not known; {_CURE}")
        elif arguments := config.of_tasks().kernel_arguments:
            self._lack(f"kernel arguments of the VM '{record.name}', which its own tasks add: {' '.join(arguments)}")
        return config

    def _vms(self, records: Sequence[VmRecord], guests: Mapping[str, GuestConfig]) -> list[dict[str, Any]]:
        plays: list[_Play] = []
        for record in records:
            guest = guests[record.name]
            shown, hidden = _task_keys(guest.of_tasks())
            tasks = [*_tasks(guest.of_tasks(), guest.authorized_keys), *hidden]
            entry = self._vm(record, tuple(dict.fromkeys((*record.authorized_keys, *shown))))
            near = [play for play in plays if any(task in play.tasks for task in tasks) or not (play.tasks or tasks)]
            plays = [play for play in plays if play not in near]
            plays.append(_joined([*near, _Play([entry], {task: [record.name] for task in tasks})]))
        return [_play_of(play) for play in sorted(plays, key=lambda each: str(each.vms[0]["name"]))]

    def _vm(self, record: VmRecord, authorized_keys: tuple[str, ...]) -> dict[str, Any]:
        keys = VmKeys(
            name=record.name,
            image=self._image_name(record),
            vcpus=record.vcpus,
            memory=Size(record.memory_bytes),
            root_disk=Size(record.root_disk_bytes),
            work_disk=_size(record.work_disk_bytes),
            overlay=_size(record.overlay_bytes),
            network=record.nic.network,
            storage=record.storage,
            workdisk=record.workdisk,
            vmm=record.vmm,
            jailed=record.jailed,
            state=record.runtime.state,
            tags=record.tags,
            authorized_keys=authorized_keys,
        )
        return _differing(recipe.plain(keys), VmKeys)

    def _lack(self, what: str) -> None:
        self._lacking.append(what)


def _network(record: VmRecord) -> tuple[str, dict[str, Any]]:
    return record.nic.plugin, record.network_options


def _size(size_bytes: int | None) -> Size | None:
    return None if size_bytes is None else Size(size_bytes)


def _differing(options: Mapping[str, Any], kind: type | None) -> dict[str, Any]:
    """These options without those that are as they are by default; all of them where that is not known."""
    defaults: dict[str, Any] = {}
    for each in fields(kind) if kind else ():
        value = each.default_factory() if each.default_factory is not MISSING else each.default
        if value is not MISSING:
            defaults[each.name] = recipe.plain_value(value)
    return {key: value for key, value in options.items() if key not in defaults or defaults[key] != value}


# --- plays


def _joined(plays: Sequence[_Play]) -> _Play:
    joined = _Play([], {})
    for play in plays:
        joined.vms += play.vms
        for task, names in play.tasks.items():
            joined.tasks.setdefault(task, []).extend(names)
    joined.vms.sort(key=lambda vm: str(vm["name"]))
    return joined


def _play_of(play: _Play) -> dict[str, Any]:
    """What all VMs have in common stands in `defaults`, and what only some have is theirs."""
    first, *others = play.vms
    shared = {k: v for k, v in first.items() if others and all(k in vm and vm[k] == v for vm in others)}
    made: dict[str, Any] = {"defaults": shared} if shared else {}
    made["vms"] = [{key: value for key, value in vm.items() if key not in shared} for vm in play.vms]
    if play.tasks:
        made["tasks"] = [
            {**task.options} | ({} if len(names) == len(play.vms) else {"when": _condition(names)})
            for task, names in sorted(play.tasks.items(), key=lambda item: (item[0].rank, item[0].path, item[1]))
        ]
    return made


def _condition(names: Iterable[str]) -> str:
    words = [f"'{name}'" for name in sorted(names)]
    return f"vm.name == {words[0]}" if len(words) == 1 else f"vm.name in [{', '.join(words)}]"


# --- tasks


def _tasks(guest: GuestConfig, keys: Sequence[str] = ()) -> list[_Task]:
    """What makes a guest like this one. The file that only lists the VM's `keys` is left to whoever lists them."""
    listing = "".join(f"{key}\n" for key in keys).encode()
    listed = [f.path for f in guest.files() if keys and f.content == listing]
    above = {path.rpartition("/")[0] for path in listed}
    files, hidden = guest.claims("files"), guest.no_log_mounts
    made = [
        *(("unmount", target, {"target": target}, False) for target in guest.dropped_mounts),
        *(("mount", mount.target, _mount(mount), mount in hidden) for mount in guest.mounts),
        *(
            ("directory", node.path, {"dest": node.path} | _owned(node.mode, 0o755, node.uid, node.gid), False)
            for node in guest.directories()
            if node.path not in above
        ),
        *(("file", f.path, _file(f), files[f.path].no_log) for f in guest.files() if f.path not in listed),
    ]
    return [
        _task(module, path, {module: options} | ({"no_log": True} if no_log else {}))
        for module, path, options, no_log in made
    ]


def _task_keys(guest: GuestConfig) -> tuple[list[str], list[_Task]]:
    """Keys that can stand at the VM, and tasks for the others: from the first of `no_log` on, to keep their order."""
    claims = guest.claims("authorized_keys")
    shown = list(itertools.takewhile(lambda key: not claims[key].no_log, claims))
    others = [key for key in claims if key not in shown]
    marked = [{"authorized_key": {"key": key}} | ({"no_log": True} if claims[key].no_log else {}) for key in others]
    return shown, [_task("authorized_key", f"{number:09}", options) for number, options in enumerate(marked)]


def _task(module: str, path: str, options: Mapping[str, Any]) -> _Task:
    return _Task(_MODULES.index(module), path, yaml_text.mapping(options), options)


def _mount(mount: Mount) -> dict[str, Any]:
    options: dict[str, Any] = {"source": mount.source, "target": mount.target, "fstype": mount.fstype}
    options |= {"options": list(mount.options)} if mount.options != ("defaults",) else {}
    options |= {"dump": mount.dump} if mount.dump else {}
    return options | ({"passno": mount.pass_number} if mount.pass_number else {})


def _file(f: GuestFile) -> dict[str, Any]:
    options = {"dest": f.path} | _owned(f.mode, 0o644, f.uid, f.gid)
    try:
        text = f.content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        return options | {"content": text}
    lines = textwrap.wrap(base64.b64encode(f.content).decode(), 76)
    return options | {"encoding": "base64", "content": "\n".join(lines)}


def _owned(mode: int, usual: int, uid: int, gid: int) -> dict[str, Any]:
    owned: dict[str, Any] = {"mode": f"0{mode:03o}"} if mode != usual else {}
    return owned | ({"uid": uid} if uid else {}) | ({"gid": gid} if gid else {})
