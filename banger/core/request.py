"""What a playbook asks for: the keys as people write them, and the requests that come of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from banger.core import yaml_source
from banger.core.scope import Scope
from banger.core.tasks import Task
from banger.types import GuestModule, ImageSource, ImageSpec, Network, NetworkKind, Place, Size

PLAY_KEYS = ("name", "vars", "vars_files", "defaults", "images", "networks", "vms", "tasks")
DEFAULT_NETWORK_KIND = "user"
AUTO = "auto"
"""For a VM's storage, network and VMM: what this host can do best."""
_DEFAULT_MEMORY = Size.parse("512MiB")
_DEFAULT_ROOT_DISK = Size.parse("4GiB")


@dataclass(frozen=True, slots=True)
class Declared:
    """What plugins add to the language of playbooks, each by name."""

    modules: Mapping[str, GuestModule] = field(default_factory=dict)
    image_sources: Mapping[str, ImageSource] = field(default_factory=dict)
    network_kinds: Mapping[str, NetworkKind] = field(default_factory=dict)


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
    held_tasks: tuple[Task, ...] = ()
    """Those that this run is not about: what they last wrote stays, what they never wrote is not written."""


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
