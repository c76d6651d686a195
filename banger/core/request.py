"""What a playbook asks for: the keys as people write them, and the requests that come of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from banger.core import yaml_source
from banger.core.scope import Scope
from banger.core.tasks import Task
from banger.errors import Problem
from banger.guestconfig import GuestConfig
from banger.types import GuestModule, Image, ImageSource, ImageSpec, Network, NetworkKind, Place, Size, Vm

PLAY_KEYS = ("name", "vars", "vars_files", "defaults", "images", "networks", "vms", "tasks")
KEPT_PLAN = "banger_plan"
"""The first key of a plan that was kept, which is no playbook."""
DEFAULT_NETWORK_KIND = "user"
AUTO = "auto"
AUTOMATIC = ("storage", "network", "vmm")
"""The keys of a VM that may be `auto`: what this host can do best."""
_DEFAULT_MEMORY = Size.parse("512MiB")
_DEFAULT_ROOT_DISK = Size.parse("4GiB")


class Judge(Protocol):
    """What plugins say of a playbook's VMs and images that needs no host; the hooks of these names."""

    def validate_vm(self, vm: Vm, image: Image) -> Sequence[Problem]: ...
    def contribute_guest_config(self, builder: GuestConfig, vm: Vm, image: Image) -> None: ...
    def image_recipe(self, spec: ImageSpec, digest_of: Callable[[Path], str]) -> Mapping[str, Any]: ...


ROLES = ("storage", "workdisk", "vmm")
"""The keys of a VM that name a plugin: `storage: dm` is the plugin `storage_dm`."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What plugins add to the language of playbooks, each by name; and what they say of what is written in it.

    `roles`: of each of `ROLES` the names in use; one that is not there may be anything.
    """

    modules: Mapping[str, GuestModule] = field(default_factory=dict)
    image_sources: Mapping[str, ImageSource] = field(default_factory=dict)
    network_kinds: Mapping[str, NetworkKind] = field(default_factory=dict)
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    judge: Judge | None = None

    @property
    def for_removal(self) -> Declared:
        """What is asked of a playbook whose VMs are only to go: perhaps after a plugin they were made by."""
        return replace(self, roles={}, judge=None)


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """What an image takes beside the keys of its source."""

    name: str
    source: str
    work_seed: Size | None = None


@dataclass(frozen=True, slots=True)
class NetworkKeys:
    """What a network takes beside the keys of its kind."""

    name: str
    plugin: str = DEFAULT_NETWORK_KIND


def implied_network(name: str, kinds: Mapping[str, NetworkKind]) -> Network | None:
    """The network that goes by its kind's own name, with all its defaults; None where one must be declared."""
    try:
        return Network(name, name, kinds[name].options())
    except (KeyError, TypeError):  # no such kind, or it has an option without a default
        return None


@dataclass(frozen=True, slots=True)
class VmKeys:
    """What a VM takes, and what it gets when nothing is said. Only an absent one may be without an image."""

    name: str
    image: str = ""
    vcpus: int = 1
    memory: Size = _DEFAULT_MEMORY
    root_disk: Size = _DEFAULT_ROOT_DISK
    work_disk: Size | None = None
    overlay: Size | None = None
    network: str = AUTO
    storage: str = AUTO
    workdisk: str = "ext4"
    vmm: str = AUTO
    jailed: bool = False
    state: Literal["running", "stopped", "absent"] = "running"
    tags: tuple[str, ...] = ()
    authorized_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image, the tasks to bake into it, and the variables these may use."""

    spec: ImageSpec
    tasks: tuple[Task, ...]
    variables: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class VmRequest:
    """A VM as the playbook asks for it; nothing is allocated yet. An absent one may be without an image (`""`)."""

    name: str
    image: str
    vcpus: int
    memory_bytes: int
    root_disk_bytes: int
    work_disk_bytes: int | None
    overlay_bytes: int | None
    network: str
    storage: str
    workdisk: str
    vmm: str
    jailed: bool
    state: Literal["running", "stopped", "absent"]
    tags: tuple[str, ...]
    authorized_keys: tuple[str, ...]
    tasks: tuple[Task, ...]
    variables: Mapping[str, Any] = field(hash=False)
    place: Place
    places: Mapping[str, Place] = field(default_factory=dict, compare=False, repr=False)
    """Where the value of each key stands, in the entry itself or in `defaults`."""
    held_tasks: tuple[Task, ...] = ()
    """Those that this run is not about: what they last wrote stays, what they never wrote is not written."""

    def place_of(self, key: str) -> Place:
        """Where a key's value stands; the VM's own place where it is not written."""
        return self.places.get(key, self.place)


@dataclass(frozen=True, slots=True)
class AsWritten:
    """An image, a network or a VM as it stands in a playbook: `own` and the `defaults` of its play, nothing rendered.

    `scope` is what its templates may use besides `item`, which is there when it comes of a `loop`.
    """

    own: yaml_source.Mapping
    scope: Scope
    defaults: yaml_source.Mapping | None = None
    loop: yaml_source.Node | None = None
    item: Any = None
