"""The one idea: a resource knows how to look for itself on a host, come into being, and go away.

Plugins return resources; the core decides when to call them. What the core assumes, and a contract test checks:

- `observe` changes nothing and tells the truth of this moment, whatever was recorded before.
- `create` may find its own half-made remains (a crash) and must still end in the same state.
- `remove` of something already gone is success. "In use" is `Busy`, which the core tries again.
- A handle is what the kernel answered (a pid, a loop number): plain JSON values, never needed to find the thing again.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from banger.host import Host, HostView

Handle = dict[str, Any]
Needs = Mapping[str, Handle]
"""The handles of what a resource stands on, by key."""
Stage = Callable[[str], None]
"""Tells the progress display what is being done right now, in a few words.

It is also where an interrupt is noticed: whoever waits calls it each time round, and lets what it raises pass.
"""


class Lifetime(Enum):
    """How long a thing lives by itself: until the host reboots, or as long as the disk it is on."""

    BOOT = "boot"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Absent:
    """It is not there."""


@dataclass(frozen=True, slots=True)
class Present:
    """It is there as it should be.

    `verified=False`: it was so when last looked into, but its user may have changed it since; worth a look (an
    update) before it is used again, and no news while it is in use.
    """

    handle: Handle = field(default_factory=dict)
    verified: bool = True


@dataclass(frozen=True, slots=True)
class Drifted:
    """It is there, but differs: `differences` in the user's words.

    `in_place=False`: it can be mended only by making it anew. `usable=False`: until then nothing may be started on it.
    `live=True`: it may be mended in place under a running VM.
    """

    handle: Handle
    differences: tuple[str, ...]
    in_place: bool = True
    usable: bool = True
    live: bool = False


Observation = Absent | Present | Drifted


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that carries banger's mark and that no known VM needs; `what` it is, in the user's words.

    `resource` takes it away. None: it cannot be proven to be this home's, or not be taken away from here, and `why`
    says so. `vm_id`: the VM that it was of; empty when it was of several, or of none.
    """

    what: str
    resource: Resource | None = None
    vm_id: str = ""
    size_bytes: int = 0
    why: str = ""


class Resource(ABC):
    """One thing that should exist on the host. Subclasses are frozen dataclasses."""

    key: str
    """Stable and unique: `web-1/root/upper`; a shared thing is keyed by what it belongs to: `image/<digest>/rootfs`."""
    needs: tuple[str, ...]
    """Keys of what it stands on; made before it, removed after it. By default nothing."""
    lifetime: Lifetime = Lifetime.DISK
    stage: str = ""
    """The stage name on the progress display: `prepare_work_disk`."""
    keeps: bool = False
    """Holds a user's data: it is never removed to mend it, only when its owner is destroyed."""

    def __init_subclass__(cls) -> None:
        # A default up here would become the default of a subclass's own field, and no field could follow that.
        if "needs" not in cls.__dict__ and "needs" not in inspect.get_annotations(cls):
            cls.needs = getattr(cls, "needs", ())

    @abstractmethod
    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        """What is there now. `recorded` is the last known handle: a hint for where to look, never the truth."""

    @abstractmethod
    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        """Bring it into being; on failure leave nothing that `remove` could not take away."""

    def update(self, host: Host, handle: Handle, stage: Stage) -> Handle:
        """Change it in place, or look into it again when it was unverified."""
        raise NotImplementedError(f"{type(self).__name__} cannot change in place")

    @abstractmethod
    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """Take it away. `handle` may be None when nothing was recorded."""

    def describe(self, host: HostView, handle: Handle) -> Mapping[str, str]:
        """What `banger vm show` tells of it while it is there, beside its handle: `{"overlay": "3% of 4GiB"}`."""
        return {}

    def by_hand(self, host: HostView) -> Sequence[str]:
        """The shell commands that would make it, for dry runs; none where they would say nothing."""
        return ()

    def undo_by_hand(self) -> Sequence[str]:
        """Lines of POSIX sh(1) that take it away without banger, for the script beside each VM; none for mere files.

        They find the thing by its name or mark, run in a subshell, and leave it with 0 when it is gone or never was
        there. Nothing of what was recorded is known to them.
        """
        return ()

    def diff(self, host: HostView) -> Sequence[str]:
        """What making or mending it would change inside a guest, as lines of a unified diff(1)."""
        return ()

    def discard(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        """Take it away when all it stands on goes too, so that nothing in it needs to be spared."""
        self.remove(host, handle, stage)
