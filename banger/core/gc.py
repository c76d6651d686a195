"""What carries this home's mark and belongs to nothing that is recorded: found, told, and taken away when asked for.

A command that is killed leaves little that its successor does not find. What is found here was left by hand: a
directory without a record, a record without its directory, a store that was put back from a backup. Nothing is
removed that could be another home's, nor a VM that `banger recover` could bring back.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from banger.core.apply import Outcome
from banger.core.assemble import VmDirectory
from banger.core.leftovers import LeftoverVmm
from banger.core.locks import discard, locked
from banger.core.recover import recoverable
from banger.core.session import Session
from banger.core.state import VmRecord
from banger.core.teardown import tear_down
from banger.errors import Busy
from banger.host import FilesView, Host, HostView
from banger.imagedirectory import FACTS, UNFINISHED
from banger.resource import Absent, Handle, Leftover, Lifetime, Needs, Observation, Present, Resource, Stage
from banger.rootdisk import image_of
from banger.types import VmFiles

SUBJECT = "gc"
_ID = re.compile(r"[0-9a-f]+")
_HOLDER = re.compile(r"pid (\d+)")


@dataclass(frozen=True)
class Scratch(Resource):
    """A file or directory that nobody works on while these locks are held.

    `refusal`: asked with them held, why it must stay after all; empty when it may go.
    """

    key: str
    path: Path
    locks: tuple[Path, ...] = ()
    refusal: Callable[[], str] = lambda: ""

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Absent() if host.files.status(self.path) is None else Present()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        raise NotImplementedError("a leftover is only ever removed")

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        with _all_locked(self.locks):
            if refusal := self.refusal():
                raise Busy(refusal)
            status = host.files.status(self.path)
            if status and status.is_directory:
                host.files.remove_tree(self.path)
            elif status:
                host.files.remove(self.path)


@dataclass(frozen=True)
class LockFile(Resource):
    """The file of a lock; one that is held stays."""

    key: str
    path: Path
    lifetime = Lifetime.BOOT

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Present() if self.path.exists() else Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        raise NotImplementedError("a leftover is only ever removed")

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        with _all_locked((self.path,)):
            pass


def find(session: Session, *, images: bool = False) -> list[Leftover]:
    """Everything, in the order it is told; what has no `resource` stays. `images`: unused ones go too.

    Raises SpoiltState for a store that is not there or cannot be read: all would seem to belong to nothing.
    """
    session.view.processes.refresh()
    store = session.store.snapshot()
    records = store.vms()
    beside = recoverable(session, records)
    known = {record.id for record in (*records, *beside)}
    of_vms = [
        *session.plugins.find_leftovers(session.home.vms, known, session.view),
        *_processes(session, known),
        *_directories(session, known),
        *(_to_recover(record) for record in beside),
    ]
    since = session.store.snapshot().vms()  # a VM is recorded before anything of it is made
    ids, names = {record.id for record in since}, {record.name for record in (*records, *since)}
    return [
        *_vmms_first([each for each in of_vms if each.vm_id not in ids]),
        *_images(session, [*records, *beside, *since], remove=images),
        *_scratch(session, records),
        *_lock_files(session, names),
    ]


def collect(session: Session, *, images: bool = False) -> tuple[Outcome, list[Leftover]]:
    """Remove what `find` finds, whatever fails on the way; with what stays. Busy while another command is at work."""
    names = sorted(record.name for record in session.store.snapshot().vms())
    with session.locked(names, "banger gc"):
        for path in _lock_paths(session):
            if path.stem.startswith("vm-") and path.stem.removeprefix("vm-") not in names:
                with locked(path, wait=False, purpose="banger gc"):
                    pass
        found = find(session, images=images)
        resources = [each.resource for each in found if each.resource]
        failures = tear_down(SUBJECT, resources, session.host, {}, session.report, lambda _: None, discard=True)
    for failure in failures:
        message = " ".join([str(failure), *getattr(failure, "__notes__", [])])
        session.report({"type": "failed", "subject": SUBJECT, "message": message, "hint": "run banger gc again"})
    error = ExceptionGroup("not all could be removed", failures) if failures else None
    done = Outcome(SUBJECT, changed=len(resources) - len(failures), error=error)
    return done, [each for each in found if not each.resource]


# --- of VMs


def _processes(session: Session, known: Collection[str]) -> Iterator[Leftover]:
    vms = session.home.vms
    for socket, process in session.view.processes.listening_below(vms).items():
        vm_id = socket.parent.name
        if vm_id in known or socket != VmFiles(vms / vm_id).api_socket:
            continue
        words = session.view.processes.arguments(process) or [""]
        what = f"the process {process.pid} ({Path(words[0]).name}) on {socket}"
        yield Leftover(what, LeftoverVmm(f"{vm_id}/vmm", (), VmFiles(socket.parent)), vm_id)


def _directories(session: Session, known: Collection[str]) -> Iterator[Leftover]:
    files = session.view.files
    for path in files.list(session.home.vms):
        status = files.status(path)
        if path.name not in known and _ID.fullmatch(path.name) and status and status.is_directory:
            directory = VmDirectory(f"{path.name}/directory", path)
            yield Leftover(f"the directory {path}", directory, path.name, _size_bytes(files, path))


def _to_recover(record: VmRecord) -> Leftover:
    why = "banger recover can bring it back"
    return Leftover(f"the VM {record.name} in {record.directory}, which is not recorded", vm_id=record.id, why=why)


def _vmms_first(found: Sequence[Leftover]) -> list[Leftover]:
    """With all of a VM standing under its VMM, so that nothing is taken from under one that cannot be ended."""
    of_vm: dict[str, list[Leftover]] = defaultdict(list)
    for each in found:
        of_vm[each.vm_id].append(each)
    settled = []
    for each in found:
        resource = each.resource
        if isinstance(resource, LeftoverVmm):
            under = [other.resource for other in of_vm[each.vm_id] if other.resource and other is not each]
            each = replace(each, resource=replace(resource, needs=tuple(other.key for other in under)))
        settled.append(each)
    return settled


# --- images, files


def _digests_in_use(session: Session, known: Sequence[VmRecord]) -> set[str]:
    """Of these and what is recorded by now, and of their disks: one can be of another image than was last asked for."""
    now = session.store.snapshot()
    records = [*known, *now.vms()]
    disks = [image_of(session.view, Path(record.runtime.system_overlay)) for record in records]
    named = {record.image_digest for record in records} | set(now.images().values())
    return named | {digest for digest in disks if digest}


def _refusal(session: Session, digest: str) -> str:
    """Why one that nothing used must stay now: an apply that began since looks at it before it records a VM on it."""
    if digest in _digests_in_use(session, ()):
        return f"the image {digest} has come into use"
    others = [path.stem for path in _lock_paths(session) if path.stem.startswith("vm-") and _is_held_by_another(path)]
    return f"the image {digest} may come into use: {', '.join(others)} is locked by another command" if others else ""


def _images(session: Session, known: Sequence[VmRecord], *, remove: bool) -> Iterator[Leftover]:
    home, files = session.home, session.view.files
    of_home = files.status(home.images)
    attached = {path for loop in session.view.loops.devices() for path in loop.backing.parents}
    there = files.list(home.images)
    used = _digests_in_use(session, known)  # of what is recorded after they were looked at
    for path in there:
        status = files.status(path)
        digest = UNFINISHED.sub("", path.name)
        if path.name in used or status is None or not status.is_directory or not _ID.fullmatch(digest):
            continue
        whole = digest == path.name and files.status(path / FACTS) is not None
        what = f"the image {path.name}, which {'nothing uses' if whole else 'was never finished'}"
        why = ""
        if of_home is None or not of_home.is_directory:
            why = f"{home.images} leads out of this home, so another may use it"
        elif path in attached:
            why = "a loop device is attached to it"
        elif whole and not remove:
            why = "images are a cache, removed with --images"
        lock, refusal = home.lock(f"image-{digest}"), partial(_refusal, session, path.name)
        scratch = Scratch(f"image/{path.name}", path, (lock,), refusal)
        yield Leftover(what, None if why else scratch, size_bytes=_size_bytes(files, path), why=why)


def _scratch(session: Session, records: Sequence[VmRecord]) -> Iterator[Leftover]:
    """What killed commands were writing; of VMs and images that a command has at this moment, nothing."""
    home, files = session.home, session.view.files
    places: list[tuple[Path, tuple[Path, ...]]] = [(home.root, (home.lock("state"),))]
    places += [(record.directory, ()) for record in records if not _is_held_by_another(home.lock(f"vm-{record.name}"))]
    places += [
        (path, (home.lock(f"image-{path.name}"), home.lock(f"vmlinux-{path.name}")))
        for path in files.list(home.images)
        if files.status(path / FACTS)
    ]
    for directory, locks in places:
        if any(map(_is_held_by_another, locks)):
            continue
        for path in files.list(directory):
            if _is_scratch(path):
                scratch = Scratch(f"scratch/{path}", path, locks)
                yield Leftover(f"the scratch file {path}", scratch, size_bytes=_size_bytes(files, path))


def _is_scratch(path: Path) -> bool:
    temporary = path.name.startswith(".") and path.name.endswith(".tmp")
    return temporary or path.name.startswith(".banger-stage-") or path.name in ("root.new", "work.new")


def _size_bytes(files: FilesView, path: Path) -> int:
    """What it takes on its disk, with all in it."""
    status = files.status(path)
    if status is None:
        return 0
    below = files.list(path) if status.is_directory else []
    return status.allocated_bytes + sum(_size_bytes(files, each) for each in below)


# --- locks


def _lock_paths(session: Session) -> list[Path]:
    return sorted(session.home.lock("state").parent.glob("*.lock"))


def _lock_files(session: Session, names: Collection[str]) -> Iterator[Leftover]:
    kept = {session.home.lock("state"), *(session.home.lock(f"vm-{name}") for name in names)}
    for path in _lock_paths(session):
        if path not in kept and not _is_held_by_another(path):
            yield Leftover(f"the lock file {path}", LockFile(f"lock/{path.stem}", path))


def _is_held_by_another(path: Path) -> bool:
    """Whether the process that wrote into it last is still there; taking the lock to find out would be in the way."""
    with suppress(OSError):
        if holder := _HOLDER.match(path.read_text()):
            return int(holder[1]) != os.getpid() and Path("/proc", holder[1]).exists()
    return False


@contextmanager
def _all_locked(paths: Sequence[Path]) -> Iterator[None]:
    """Busy when another process holds one; their files are gone in the end."""
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(locked(path, wait=False, purpose="banger gc"))
        yield
        for path in paths:
            discard(path)
