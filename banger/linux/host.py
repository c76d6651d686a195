"""The real host: `banger.linux` behind the protocols of `banger.host`; and a face of any host that only looks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, cast

from banger.errors import BangerError
from banger.host import (
    Ext4View,
    FilesView,
    HostView,
    HttpView,
    LinksView,
    LoopsView,
    MapperView,
    Memory,
    NetworkView,
    ProcessesView,
    QmpView,
    ToolsView,
)
from banger.linux.ext4 import LinuxExt4
from banger.linux.files import LinuxFiles
from banger.linux.links import LinuxLinks
from banger.linux.loop import LinuxLoops
from banger.linux.mapper import LinuxMapper
from banger.linux.network import LinuxNetwork
from banger.linux.process import LinuxProcesses
from banger.linux.qmp import LinuxQmp
from banger.linux.tools import LinuxTools
from banger.linux.unix_http import LinuxHttp

_MEMINFO = Path("/proc/meminfo")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _unlocked(name: str) -> AbstractContextManager[None]:
    return nullcontext()


class LinuxHost:
    """This machine (`banger.host.Host`).

    `cache_directory` is for answers about it that are worth remembering; `lock` is how `locked` locks.
    """

    def __init__(self, cache_directory: Path, lock: Callable[[str], AbstractContextManager[None]] = _unlocked) -> None:
        self._locked = lock
        self.files = LinuxFiles()
        self.ext4 = LinuxExt4()
        self.links = LinuxLinks()
        self.loops = LinuxLoops()
        self.mapper = LinuxMapper()
        self.processes = LinuxProcesses()
        self.qmp = LinuxQmp()
        self.http = LinuxHttp()
        self.network = LinuxNetwork()
        self.tools = LinuxTools(cache_directory, lambda: self.boot_id)

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock of this name, as whoever made this host says."""
        return self._locked(name)

    @property
    def boot_id(self) -> str:
        """random(4): another one after every boot of this machine."""
        return _BOOT_ID.read_text().strip()

    def memory(self) -> Memory:
        """From /proc/meminfo."""
        lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        return Memory(total, available)


class ForbiddenError(BangerError):
    """Something that may only look tried to change the host. This is a mistake in a plugin or in banger itself."""


class ReadOnlyHost:
    """A host that can only be looked at: every method that is not a looking one raises ForbiddenError, by name."""

    def __init__(self, host: HostView) -> None:
        self._host = host
        self.files = cast(FilesView, _Looking("files", host.files, FilesView))
        self.ext4 = cast(Ext4View, _Looking("ext4", host.ext4, Ext4View))
        self.links = cast(LinksView, _Looking("links", host.links, LinksView))
        self.loops = cast(LoopsView, _Looking("loops", host.loops, LoopsView))
        self.mapper = cast(MapperView, _Looking("mapper", host.mapper, MapperView))
        self.processes = cast(ProcessesView, _Looking("processes", host.processes, ProcessesView))
        self.qmp = cast(QmpView, _Looking("qmp", host.qmp, QmpView))
        self.http = cast(HttpView, _Looking("http", host.http, HttpView))
        self.network = cast(NetworkView, _Looking("network", host.network, NetworkView))
        self.tools = cast(ToolsView, _Looking("tools", host.tools, ToolsView))

    @property
    def boot_id(self) -> str:
        return self._host.boot_id

    def memory(self) -> Memory:
        return self._host.memory()


class _Looking:
    """The methods of one facet that its view protocol names."""

    def __init__(self, name: str, facet: object, view: type) -> None:
        self._name = name
        for method in (method for method in vars(view) if not method.startswith("_")):
            setattr(self, method, getattr(facet, method))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> NoReturn:
            raise ForbiddenError(
                f"{self._name}.{method} changes the host, and this is only a plan",
                hint="`observe`, `validate_…` and planning may look, never change; move it to `create` or `update`",
            )

        if method.startswith("_"):
            raise AttributeError(method)
        return refuse
