"""What one guest gets: the builder that plugins and tasks fill. Pure: nothing is written anywhere.

Plugins come first, tasks after them. A task may override what a plugin wrote; two plugins that want different things
at one path are an error that names both.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from banger.errors import PluginError
from banger.host import Node
from banger.types import GuestFile, GuestPath, Mount

_PUBLIC_KEY = re.compile(r"(?:^|\s)(?:ssh|ecdsa|sk)-[a-z0-9@.-]+\s+AAAA[A-Za-z0-9+/]+={0,3}(?:\s|$)")

ClaimKind = Literal["files", "directories", "mounts", "dropped", "kernel_arguments", "authorized_keys"]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something asked for, by whom, whether a task asked, and what was asked for before and lost to this.

    `value` is None for a mount that shall not be. `no_log`: a task asked that it never be shown.
    """

    value: GuestFile | Node | Mount | str | None
    wanted: tuple[object, ...]
    origin: str
    by_task: bool
    overrode: Claim | None = None
    no_log: bool = False


class GuestConfig:
    """Collects the files, directories, mounts, kernel arguments and authorized keys of one guest.

    `origin` says who asks: a plugin's name, or a task's place in a playbook; the core sets it with `contributed_by`, so
    a plugin need not. What is asked for twice in the same words is kept once. Raises PluginError when two plugins
    disagree, ValueError for a path that is not absolute and normal.
    """

    def __init__(self) -> None:
        self._files: dict[str, Claim] = {}
        self._directories: dict[str, Claim] = {}
        self._mounts: dict[str, Claim] = {}
        self._dropped: dict[str, Claim] = {}
        self._kernel_arguments: dict[str, Claim] = {}
        self._authorized_keys: dict[str, Claim] = {}
        self._origin = ""
        self._overriding = False
        self._no_log = self._has_no_log = False
        self.skipped = 0
        """How often a task did not contribute, because of its `when`."""

    @contextmanager
    def contributed_by(self, origin: str, *, overriding: bool = False, no_log: bool = False) -> Iterator[None]:
        """Within it, all is asked for by `origin`; `overriding` for a task, which wins over what plugins asked for.

        With `no_log` what is asked for is for nobody to see but the guest.
        """
        before = self._origin, self._overriding, self._no_log
        self._origin, self._overriding, self._no_log = origin, overriding, no_log
        self._has_no_log |= no_log
        try:
            yield
        finally:
            self._origin, self._overriding, self._no_log = before

    def write_file(
        self, path: str, content: bytes | str, *, mode: int = 0o644, uid: int = 0, gid: int = 0, origin: str = ""
    ) -> None:
        """A regular file with this whole content (text as UTF-8), permission bits and numeric owner."""
        name = str(GuestPath.parse(path))
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else bytes(content)
        file = GuestFile(name, data, mode, uid, gid, origin or self._origin)
        self._claim(self._files, name, file, (data, mode, uid, gid), origin)

    def add_directory(self, path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0, origin: str = "") -> None:
        """A directory with these permission bits and owner; a file's other missing parents need no mention."""
        name = str(GuestPath.parse(path))
        node = Node(name, "directory", mode, uid, gid)
        self._claim(self._directories, name, node, (mode, uid, gid), origin)

    def add_mount(self, mount: Mount, *, origin: str = "") -> None:
        """A line of fstab; it replaces what the image mounts on the same target."""
        absolute = mount.target.startswith("/")
        key = str(GuestPath.parse(mount.target)) if absolute else f"{mount.target} {mount.source}"
        self._claim(self._mounts, key, mount, (mount,), origin)

    def drop_mount(self, target: str) -> None:
        """Nothing of the image's own is mounted here. By a task: nothing a plugin added either."""
        name = str(GuestPath.parse(target))
        mount = self._mounts.pop(name, None) if self._overriding else None
        self._add(self._dropped, name, None, mount)

    def add_kernel_argument(self, text: str) -> None:
        """One argument (or several, with blanks between) for the guest's kernel command line."""
        if self._no_log:
            raise ValueError("a kernel argument is for everybody to see; leave 'no_log' out, or write a file")
        if not text.isprintable():
            raise ValueError("a kernel argument cannot hold control characters")
        self._add(self._kernel_arguments, text, text)

    def add_authorized_key(self, text: str) -> None:
        """A public key that may log in as root. Raises ValueError when it is none."""
        key = parse_public_key(text)
        self._add(self._authorized_keys, key, key)

    def keep(self, known: GuestConfig, touched: GuestConfig) -> None:
        """Ask, as a task would, for what was `known`, where nobody asks for anything yet or `touched` has something."""

        def kept(before: dict[str, Claim], now: dict[str, Claim], others: dict[str, Claim]) -> Iterator[object]:
            for claim in [claim for key, claim in before.items() if key not in now or key in others]:
                with by_a_task(no_log=claim.no_log):
                    yield claim.value

        def by_a_task(*, no_log: bool = False) -> AbstractContextManager[None]:
            return self.contributed_by("a task that was not chosen", overriding=True, no_log=no_log)

        with by_a_task():
            for target in known.dropped_mounts:
                if target not in self._dropped:
                    self.drop_mount(target)
            if touched.authorized_keys:  # the file that lists them is kept whole, so all that are in it are
                for key in kept(known.of_tasks()._authorized_keys, {}, {}):
                    self.add_authorized_key(str(key))
            for node in kept(known._directories, self._directories, touched._directories):
                if isinstance(node, Node):
                    self.add_directory(node.path, node.mode, uid=node.uid, gid=node.gid)
            for f in kept(known._files, self._files, touched._files):
                if isinstance(f, GuestFile):
                    self.write_file(f.path, f.content, mode=f.mode, uid=f.uid, gid=f.gid)
            for mount in kept(known._mounts, self._mounts, touched._mounts):
                if isinstance(mount, Mount):
                    self.add_mount(mount)

    def of_tasks(self) -> GuestConfig:
        """What tasks asked for, and no plugin."""
        return self._part(lambda claim: claim.by_task)

    def of_no_log(self) -> GuestConfig | None:
        """What is for nobody to see but the guest; None where all may be shown."""
        return self._part(lambda claim: claim.no_log) if self._has_no_log else None

    def _part(self, chosen: Callable[[Claim], bool]) -> GuestConfig:
        part = GuestConfig()
        for mine, theirs in (
            (self._files, part._files),
            (self._directories, part._directories),
            (self._mounts, part._mounts),
            (self._dropped, part._dropped),
            (self._kernel_arguments, part._kernel_arguments),
            (self._authorized_keys, part._authorized_keys),
        ):
            theirs.update({key: claim for key, claim in mine.items() if chosen(claim)})
        return part

    def claims(self, kind: ClaimKind) -> Mapping[str, Claim]:
        """Who asked for what, by path, target, or the text itself."""
        found: dict[str, Claim] = getattr(self, f"_{kind}")
        return MappingProxyType(found)

    def files(self) -> tuple[GuestFile, ...]:
        """Sorted by path. Raises PluginError for paths that lead through a file, and directories that are files too."""
        ways = [(path, claim, _parents(path)) for path, claim in self._files.items()]
        ways += [(path, claim, iter((path, *_parents(path)))) for path, claim in self._directories.items()]
        for path, below, parents in ways:
            for parent in parents:
                if parent in self._files:
                    above = self._files[parent]
                    raise PluginError(
                        f"{path} ({_who(below.origin)}) cannot be made: {parent} is a file ({_who(above.origin)})"
                    )
        return tuple(
            replace(v, no_log=True) if c.no_log else v
            for _, c in sorted(self._files.items())
            if isinstance(v := c.value, GuestFile)
        )

    def directories(self) -> tuple[Node, ...]:
        """Sorted by path, so that a parent comes before what is in it."""
        return tuple(v for _, c in sorted(self._directories.items()) if isinstance(v := c.value, Node))

    @property
    def no_log_mounts(self) -> tuple[Mount, ...]:
        """Those that are not to be shown: neither are the lines of fstab that they make."""
        return tuple(v for c in self._mounts.values() if c.no_log and isinstance(v := c.value, Mount))

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Sorted by target, so that a parent is mounted before what is in it."""
        return tuple(v for _, c in sorted(self._mounts.items()) if isinstance(v := c.value, Mount))

    @property
    def dropped_mounts(self) -> tuple[str, ...]:
        """Targets that the image's own fstab shall not mount, sorted."""
        return tuple(sorted(self._dropped))

    @property
    def kernel_arguments(self) -> tuple[str, ...]:
        """In the order they were added."""
        return tuple(self._kernel_arguments)

    @property
    def authorized_keys(self) -> tuple[str, ...]:
        """In the order they were added, each once."""
        return tuple(self._authorized_keys)

    def _add(self, claims: dict[str, Claim], key: str, value: str | None, overrode: Claim | None = None) -> None:
        """What nobody can disagree about: the first who asks is named, or the first task."""
        old = claims.get(key)
        if old is None or (self._overriding and not old.by_task):
            claims[key] = Claim(value, (), self._origin, self._overriding, overrode or old, self._no_log)
        elif self._no_log and not old.no_log:
            claims[key] = replace(old, no_log=True)

    def _claim(
        self,
        claims: dict[str, Claim],
        key: str,
        value: GuestFile | Node | Mount,
        wanted: tuple[object, ...],
        origin: str,
    ) -> None:
        old = claims.get(key)
        new = Claim(value, wanted, origin or self._origin, self._overriding, old, self._no_log)
        if old is not None and not new.by_task:
            if old.by_task or old.wanted == new.wanted:
                return
            if old.origin != new.origin:
                raise PluginError(
                    f"{_who(old.origin)} and {_who(new.origin)} both want {key} in the guest, and differ",
                    hint="leave one of the two plugins out, or write the file with a task, which wins over both",
                )
        claims[key] = new


def parse_public_key(text: str) -> str:
    """One line of authorized_keys(5), stripped. Raises ValueError with what would be right."""
    line = text.strip()
    if "PRIVATE KEY" in line:
        raise ValueError("this is a private key; give the public one, from the file that ends in .pub")
    if not line.isprintable():
        raise ValueError("more than one line; give each key as an item of its own")
    if line.startswith("#") or not _PUBLIC_KEY.search(line):
        raise ValueError("not a public ssh key; give the text of a file such as ~/.ssh/id_ed25519.pub")
    return line


def _parents(path: str) -> Iterator[str]:
    while (path := posixpath.dirname(path)) != "/":
        yield path


def _who(origin: str) -> str:
    return origin or "someone unnamed"
