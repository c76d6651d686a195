"""The one door to plugins: loads them, asks them, and names the one that answers wrongly.

pluggy keeps the registry. Calls go through here instead of `pm.hook`, because that stops at the first implementation
that raises, orders by registration, and is untyped. Every implementation is asked, what it returns is materialised,
and any error names the plugin and its version.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from banger import hooks
from banger.core.request import ROLES, Declared
from banger.errors import BangerError, PluginError
from banger.guestconfig import GuestConfig
from banger.host import HostView, Node
from banger.needs import Need
from banger.resource import Handle, Leftover, Resource
from banger.types import (
    Disk,
    GuestFile,
    GuestModule,
    Image,
    ImageSource,
    ImageSpec,
    Network,
    NetworkKind,
    NetworkSetup,
    Nic,
    Problem,
    RootDisk,
    TapAttachment,
    UserAttachment,
    Vm,
    WorkDisk,
)

BUILT_IN = (
    "guestconfig_base",
    "guestconfig_net",
    "guestconfig_sshd",
    "image_debootstrap",
    "image_import",
    "network_tap",
    "network_user",
    "storage_dm",
    "storage_file",
    "storage_overlay",
    "vmm_firecracker",
    "vmm_qemu",
    "workdisk_ext4",
)
ENTRY_POINT_GROUP = "banger"
_log = logging.getLogger(__name__)
T = TypeVar("T")
Declaration = TypeVar("Declaration", GuestModule, ImageSource, NetworkKind)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One line of `banger plugins list`. `status` is `active`, `blocked`, or `failed: why`."""

    name: str
    version: str
    source: str
    hooks: tuple[str, ...]
    status: str

    def __str__(self) -> str:
        return f"{self.name} ({self.source} {self.version})"


class Plugins:
    """All loaded plugins, behind typed questions."""

    def __init__(self, manager: pluggy.PluginManager, infos: Iterable[PluginInfo]) -> None:
        self._manager = manager
        self._infos = {info.name: info for info in infos}
        self._by_hook: dict[str, list[tuple[str, pluggy.HookImpl]]] = {}

    @classmethod
    def load(cls, blocked: frozenset[str] = frozenset(), *, third_party: bool = True) -> Plugins:
        """Built-ins by name, then the entry points of group `banger`. One that cannot load is reported, not fatal."""
        manager = pluggy.PluginManager("banger")
        manager.add_hookspecs(hooks)
        infos = [_load(manager, name, "built-in", _own_version(), _built_in(name), blocked) for name in BUILT_IN]
        if third_party:
            for distribution, point in _entry_points():
                source = distribution.name if distribution else "unknown"
                version = distribution.version if distribution else "?"
                infos.append(_load(manager, point.name, source, version, point.load, blocked))
        plugins = cls(manager, infos)
        for told in plugins.failures():
            _log.warning("warning: %s", told)
        return plugins

    @classmethod
    def of(cls, **modules: object) -> Plugins:
        """Just these plugins, by name; for tests of plugins and of the core."""
        manager = pluggy.PluginManager("banger")
        manager.add_hookspecs(hooks)
        infos = [_load(manager, name, "given", "0", _given(module), frozenset()) for name, module in modules.items()]
        for info in infos:
            if info.status != "active":
                raise PluginError(f"plugin {info}: {info.status}")
        return cls(manager, infos)

    def infos(self) -> list[PluginInfo]:
        return sorted(self._infos.values(), key=lambda info: info.name)

    def failures(self) -> list[str]:
        """Of each plugin that is installed and not blocked, and could not be loaded: which, and why."""
        return [f"plugin {info} is not in use: {info.status}" for info in self._failed]

    def refuse_failed(self) -> None:
        """Raises PluginError where one could not be loaded: what it wrote into guests would be taken out of them."""
        if failed := self._failed:
            names = ",".join(info.name for info in failed)
            raise PluginError(
                "; ".join(self.failures()) + "; nothing was changed, for what it is there for would be taken away",
                hint=f"mend it, or go on without it: BANGER_BLOCK_PLUGINS={names}",
            )

    @property
    def _failed(self) -> list[PluginInfo]:
        return [info for info in self.infos() if info.status.startswith("failed")]

    # --- declare

    def guest_modules(self) -> dict[str, GuestModule]:
        answers = self._ask("register_guest_modules")
        return self._declared([(n, each) for n, a in answers for each in self._several(n, a, GuestModule)], "module")

    def image_sources(self) -> dict[str, ImageSource]:
        return self._declared(self._each("register_image_source", ImageSource), "image source")

    def network_kinds(self) -> dict[str, NetworkKind]:
        return self._declared(self._each("register_network_kind", NetworkKind), "network plugin")

    def declared(self) -> Declared:
        """All that plugins add to the language of playbooks, and themselves to judge what is written in it."""
        names = [info.name for info in self._infos.values() if info.status == "active"]
        roles = {
            role: sorted(name.removeprefix(f"{role}_") for name in names if name.startswith(f"{role}_"))
            for role in ROLES
        }
        return Declared(self.guest_modules(), self.image_sources(), self.network_kinds(), roles, self)

    def needs(self) -> dict[str, list[Need]]:
        """What each plugin needs of its host, by plugin; plugins that need nothing are not there."""
        return {name: list(answer) for name, answer in self._ask("register_needs")}

    # --- check, guest, end: everyone is asked

    def validate_vm(self, vm: Vm, image: Image) -> list[Problem]:
        answers = self._ask("validate_vm", vm=vm, image=image)
        return [problem for name, answer in answers for problem in self._several(name, answer, Problem)]

    def contribute_guest_config(self, builder: GuestConfig, vm: Vm, image: Image) -> None:
        for name, implementation in self._implementations("contribute_guest_config"):
            with builder.contributed_by(name):
                self._call(
                    name, "contribute_guest_config", implementation, {"builder": builder, "vm": vm, "image": image}
                )

    def teardown_handles(self, vm: Vm, handles: dict[str, Handle]) -> list[Resource]:
        answers = self._ask("teardown_handles", vm=vm, handles=handles)
        return [resource for name, answer in answers for resource in self._resources(name, answer)]

    def find_leftovers(self, vms: Path, known: Collection[str], host: HostView) -> list[Leftover]:
        answers = self._ask("find_leftovers", vms=vms, known=known, host=host)
        return [leftover for name, answer in answers for leftover in self._several(name, answer, Leftover)]

    # --- where one plugin answers, by name

    def allocate_nic(self, network: Network, vm_id: str, taken: Sequence[Nic], host: HostView) -> Nic:
        plugin = f"network_{network.plugin}"
        return self._one(plugin, "allocate_nic", Nic, network=network, vm_id=vm_id, taken=taken, host=host)

    def image_recipe(self, spec: ImageSpec, digest_of: Callable[[Path], str]) -> dict[str, Any]:
        return self._one(f"image_{spec.source}", "image_recipe", dict, spec=spec, digest_of=digest_of)

    def prepare_image(self, spec: ImageSpec, directory: Path) -> list[Resource]:
        plugin = f"image_{spec.source}"
        return self._resources(plugin, self._one(plugin, "prepare_image", object, spec=spec, directory=directory))

    def setup_network(self, vm: Vm) -> NetworkSetup:
        return self._one(f"network_{vm.nic.plugin}", "setup_network", NetworkSetup, vm=vm)

    def prepare_root_disk(
        self, vm: Vm, image: Image, files: Sequence[GuestFile], directories: Sequence[Node]
    ) -> RootDisk:
        plugin, asked = f"storage_{vm.storage}", "prepare_root_disk"
        return self._one(plugin, asked, RootDisk, vm=vm, image=image, files=files, directories=directories)

    def prepare_work_disk(self, vm: Vm, image: Image, files: Sequence[GuestFile]) -> WorkDisk:
        return self._one(f"workdisk_{vm.workdisk}", "prepare_work_disk", WorkDisk, vm=vm, image=image, files=files)

    def launch_vmm(
        self,
        vm: Vm,
        image: Image,
        disks: Sequence[Disk],
        attachment: UserAttachment | TapAttachment,
        kernel_arguments: Sequence[str],
        needs: tuple[str, ...],
    ) -> list[Resource]:
        plugin = f"vmm_{vm.vmm}"
        question: dict[str, Any] = {
            "vm": vm,
            "image": image,
            "disks": disks,
            "attachment": attachment,
            "kernel_arguments": kernel_arguments,
            "needs": needs,
        }
        resources = self._resources(plugin, self._one(plugin, "launch_vmm", object, **question))
        if vm.vmm_key not in {resource.key for resource in resources}:
            raise PluginError(f"plugin {self._infos[plugin]}: launch_vmm returned no resource {vm.vmm_key!r}")
        return resources

    # --- how

    def _implementations(self, hook: str) -> list[tuple[str, pluggy.HookImpl]]:
        """By plugin: built-ins in their own order first, then the others by name."""
        if hook not in self._by_hook:
            caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
            rank = {name: index for index, name in enumerate(BUILT_IN)}
            found = [(str(impl.plugin_name), impl) for impl in caller.get_hookimpls()]
            self._by_hook[hook] = sorted(found, key=lambda item: (rank.get(item[0], len(rank)), item[0]))
        return self._by_hook[hook]

    def _ask(self, hook: str, **question: object) -> list[tuple[str, Any]]:
        answers = []
        for name, implementation in self._implementations(hook):
            answer = self._call(name, hook, implementation, question)
            if answer is not None:
                answers.append((name, answer))
        return answers

    def _one(self, plugin: str, hook: str, kind: type[T], **question: object) -> T:
        implementations = dict(self._implementations(hook))
        if plugin not in implementations:
            there = ", ".join(sorted(implementations)) or "none"
            status = self._infos[plugin].status if plugin in self._infos else "not installed"
            raise PluginError(f"no plugin {plugin} answers {hook} ({status})", hint=f"those that do: {there}")
        answer: object = self._call(plugin, hook, implementations[plugin], question)
        if not isinstance(answer, kind):
            raise PluginError(
                f"plugin {self._infos[plugin]}: {hook} returned {type(answer).__name__}, not {kind.__name__}"
            )
        return answer

    def _call(self, name: str, hook: str, implementation: pluggy.HookImpl, question: dict[str, Any]) -> Any:
        try:
            answer: Any = implementation.function(*(question[argument] for argument in implementation.argnames))
            # A generator runs only when it is read, so it is read here, where an error can still be put to its plugin.
            return list(answer) if hasattr(answer, "__next__") else answer
        except BangerError:
            raise
        except (Exception, SystemExit) as error:  # who calls sys.exit() has failed as well, and ends nobody else
            info = self._infos[name]
            raise PluginError(f"plugin {info} failed in {hook}: {type(error).__name__}: {error}") from error

    def _each(self, hook: str, kind: type[T]) -> list[tuple[str, T]]:
        return [(name, self._several(name, [answer], kind)[0]) for name, answer in self._ask(hook)]

    def _resources(self, plugin: str, answer: Any) -> list[Resource]:
        return self._several(plugin, answer, Resource)  # type: ignore[type-abstract]  # asked only whether it is one

    def _several(self, plugin: str, answer: Any, kind: type[T]) -> list[T]:
        """The answer as a list of these. Raises PluginError when it is none."""
        if isinstance(answer, kind) or not isinstance(answer, Iterable):
            given = type(answer).__name__
            raise PluginError(f"plugin {self._infos[plugin]} returned {given}, not a list of {kind.__name__}s")
        found = list(answer)
        for each in found:
            if not isinstance(each, kind):
                raise PluginError(f"plugin {self._infos[plugin]} returned {each!r}, which is not a {kind.__name__}")
        return found

    def _declared(self, answers: Iterable[tuple[str, Declaration]], what: str) -> dict[str, Declaration]:
        owners: dict[str, str] = {}
        declared: dict[str, Declaration] = {}
        for plugin, declaration in answers:
            name = declaration.name
            if name in owners:
                raise PluginError(
                    f"{what} {name!r} is declared by two plugins: {self._infos[owners[name]]}, {self._infos[plugin]}",
                    hint=f"block one of them: BANGER_BLOCK_PLUGINS={plugin}",
                )
            owners[name], declared[name] = plugin, declaration
        return declared


def _built_in(name: str) -> Callable[[], ModuleType]:
    return lambda: importlib.import_module(f"banger_{name}")


def _given(module: object) -> Callable[[], object]:
    return lambda: module


@cache
def _own_version() -> str:
    try:
        return importlib.metadata.version("banger")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _entry_points() -> list[tuple[importlib.metadata.Distribution | None, importlib.metadata.EntryPoint]]:
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    return sorted(((point.dist, point) for point in points), key=lambda pair: pair[1].name)


def _load(
    manager: pluggy.PluginManager,
    name: str,
    source: str,
    version: str,
    load: Callable[[], object],
    blocked: frozenset[str],
) -> PluginInfo:
    if name in blocked:
        manager.set_blocked(name)
        return PluginInfo(name, version, source, (), "blocked")
    try:
        if manager.has_plugin(name):
            raise PluginError(f"the name {name!r} is taken by another plugin")
        plugin = load()
        manager.register(plugin, name=name)
        _refuse_unknown_hooks(manager, plugin)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever third-party code raises, it does not stop the rest
        if manager.has_plugin(name):
            manager.unregister(name=name)
        return PluginInfo(name, version, source, (), f"failed: {type(error).__name__}: {error}")
    callers = manager.get_hookcallers(plugin) or []
    return PluginInfo(name, version, source, tuple(sorted(caller.name for caller in callers)), "active")


def _refuse_unknown_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """pluggy loads a misspelt hook without a word, and it is then never called."""
    import difflib

    known = [name for name in vars(hooks) if hasattr(getattr(hooks, name), "banger_spec")]
    for caller in manager.get_hookcallers(plugin) or []:
        if not caller.has_spec():
            near = difflib.get_close_matches(caller.name, known, n=1)
            raise PluginError(f"there is no hook {caller.name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin and (implementation.hookwrapper or implementation.wrapper):
                raise PluginError(f"{caller.name!r} is a wrapper; banger asks each plugin by itself")
