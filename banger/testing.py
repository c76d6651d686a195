"""What a plugin's author needs for tests: a host in memory with the manners of the real one.

`SimulatedHost` has the protocol of `banger.host.Host`. Every change is an *effect*, counted and named, and can be made
to fail or to be the one at which we are killed, so that a test can walk through all of them:

    host.crash_at(3)                    # the third effect never happens, nor any later one
    with pytest.raises(SimulatedCrash): resource.create(host, {}, print)
    host.restart()                      # a new run of the program on the same host
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from banger.errors import BangerError, DiskError
from banger.host import Memory
from banger.simulated.block import SimulatedLoops, SimulatedMapper
from banger.simulated.ext4 import SimulatedExt4
from banger.simulated.files import SimulatedFiles
from banger.simulated.firecracker import SimulatedHttp
from banger.simulated.links import SimulatedLinks
from banger.simulated.processes import (
    SimulatedNetwork,
    SimulatedProcess,
    SimulatedProcesses,
    SimulatedQmp,
    SimulatedTools,
)
from banger.simulated.tree import View
from banger.types import GuestFile

__all__ = ["SimulatedCrash", "SimulatedHost", "SimulatedProcess"]


class SimulatedCrash(BaseException):
    """We were killed at this effect. Not an Exception: nothing that handles errors may handle this."""


class SimulatedHost:
    """A host in memory. `effects` names every change so far; the parts have knobs of their own."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.boot_id = "00000000-0000-4000-8000-000000000001"
        self.has_memory = Memory(2**36, 2**35)
        self.files = SimulatedFiles(self)
        self.processes = SimulatedProcesses(self)
        self.ext4 = SimulatedExt4(self)
        self.links = SimulatedLinks(self)
        self.loops = SimulatedLoops(self)
        self.mapper = SimulatedMapper(self)
        self.qmp = SimulatedQmp(self)
        self.http = SimulatedHttp(self)
        self.network = SimulatedNetwork(self)
        self.tools = SimulatedTools(self)
        self._lock = threading.RLock()
        self._shared = threading.RLock()
        self._fail: tuple[int, BangerError] | None = None
        self._crash: tuple[int, bool] | None = None
        self._crashed = False

    def memory(self) -> Memory:
        return self.has_memory

    def fail_at(self, number: int, error: BangerError | None = None) -> None:
        """The effect of this number (counted from 1, from now on) raises instead of happening."""
        self._fail = (len(self.effects) + number, error or BangerError("simulated failure"))

    def crash_at(self, number: int, *, after: bool = False) -> None:
        """We are killed before (or right after) the effect of this number, counted from 1, from now on."""
        self._crash = (len(self.effects) + number, after)

    def restart(self) -> None:
        """A new run of the program: no fault is planned any more, and what the host had is still there."""
        self._fail, self._crash, self._crashed = None, None, False

    def reboot(self) -> None:
        """All processes end, all devices are gone, and the boot id is another one; files stay."""
        self.boot_id = f"00000000-0000-4000-8000-{int(self.boot_id[-12:]) + 1:012}"
        self.processes.end_all()
        self.links.clear()
        self.mapper.clear()
        self.loops.clear()

    def guest_writes(self, disk: Path, file: GuestFile) -> None:
        """A guest changes its own disk behind our back: no effect of ours. Where a snapshot is full it cannot."""
        tree = self.files.tree(disk)
        changed = tree.copy()
        View(changed).patch([file], [], [])
        with contextlib.suppress(DiskError):
            self.mapper.take_room(disk, changed)
            tree.entries = changed.entries
            self.files.touch(disk)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """One at a time; who is killed holds nothing any more."""
        with self._shared:
            yield

    @contextlib.contextmanager
    def effect(self, what: str) -> Iterator[None]:
        """Around every change: counts it, and makes it fail where a test asked for that. One at a time."""
        with self._lock:
            if self._crashed:
                raise SimulatedCrash(f"killed before {what}")
            self.effects.append(what)
            number = len(self.effects)
            if self._fail is not None and self._fail[0] == number:
                raise self._fail[1]
            if self._crash == (number, False):
                self._crashed = True
                raise SimulatedCrash(f"killed at effect {number}, {what}")
            yield
            if self._crash == (number, True):
                self._crashed = True
                raise SimulatedCrash(f"killed after effect {number}, {what}")
