"""Whatever has become of the files that banger keeps: it converges, or says clearly what is wrong and changes nothing.

Each case spoils one file of a home, asks, applies, mends what was spoilt, and applies again.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.capabilities import require
from tests.forked import Done, banger, drop_privileges, elsewhere, own_mounts
from tests.functional.tiny import Tiny, copy, tree
from tests.tally import tally

pytestmark = pytest.mark.beside

ROW = "bad state files"
SPOILT = (
    "state.json",
    "state.json.bak",
    "locks/state.lock",
    "locks/vm-web.lock",
    "ssh/id_ed25519",
    "ssh/id_ed25519.pub",
    "images/*/facts.json",
    "vms/WEB/handles.json",
    "vms/WEB/guest.json",
    "vms/WEB/guest-files-root.json",
    "vms/WEB/guest-files-work.json",
    "vms/WEB/root.image",
    "vms/WEB/known_hosts",
    "vms/WEB/ssh_host_ed25519_key",
    "vms/WEB/ssh_host_ed25519_key.pub",
    "config.toml",
)
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "first byte": lambda was: was[:1],
    "first half": lambda was: was[: len(was) // 2],
    "all but the last two bytes": lambda was: was[:-2],
    "junk": lambda _: random.Random(7).randbytes(3000),
    "zeros": lambda was: bytes(len(was) or 512),
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
    "an object": lambda _: b"{}",
    "a text": lambda _: b'"text"',
    "deeper than the parser goes": lambda _: b"[" * 100_000,
    "a newer version": lambda was: re.sub(rb'"(version|schema)": 1', rb'"\1": 99', was),
}


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _full_directory(path: Path) -> None:
    _directory(path)
    (path / "something").write_text("of somebody's")


def _link_to(target: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return spoil


THINGS: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "a directory": _directory,
    "a directory with something in it": _full_directory,
    "a dangling link": _link_to("nowhere"),
    "a link to itself": _link_to("./state.json"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Applied and kept; each case begins with a copy."""
    made = Tiny.make(tmp_path_factory.mktemp("b"))
    (made.home).mkdir()
    (made.home / "config.toml").write_text("block_plugins = []\n")
    first = made.apply()
    assert first.code == 0, first.said
    (directory_of(made, "web") / "handles.json").write_text('{"version": 1, "boot_id": "x", "handles": {}}')
    made.keep()
    return made


def directory_of(tiny: Tiny, name: str) -> Path:
    rows = json.loads((tiny.home / "state.json").read_text())["vms"].values()
    return Path(next(row["runtime"]["vm_directory"] for row in rows if row["name"] == name))


def found(tiny: Tiny, pattern: str) -> Path:
    return next(tiny.home.glob(pattern.replace("WEB", directory_of(tiny, "web").name)))


def assert_told(done: Done) -> None:
    """It went well, or it says what did not: no traceback, one of our exit codes, a message and what to do."""
    assert "Traceback" not in done.said, done.said
    assert "This is a bug in banger" not in done.said
    assert done.code in (0, 1, 2, 3), done
    if done.code:
        assert re.search(r"error: |^\S+: FAILED", done.said, re.MULTILINE), done
        assert re.search(r"^ {4}\S", done.said, re.MULTILINE), f"what to do: {done}"


def check(tiny: Tiny, path: Path, spoil: Callable[[Path], None]) -> None:
    """Spoil, look, apply; mend, apply, look; destroy. What waits for --recreate counts as told, and changes nothing."""
    aside = tiny.directory / "aside"
    subprocess.run(["rm", "-rf", aside], check=True)
    copy(path, aside)
    spoil(path)
    before = tree(tiny.home)
    for asked in (("vm", "list"), ("vm", "show", "web")):
        assert_told(tiny.run(*asked))
    done = tiny.apply()
    assert_told(done)
    if done.code or "needs --recreate" in done.said:
        if path.name in ("state.json", "config.toml"):  # nothing may be done by what cannot be read
            assert without_locks(tree(tiny.home)) == without_locks(before)
        subprocess.run(["rm", "-rf", path], check=True)
        copy(aside, path)
        done = tiny.apply()
        assert done.code == 0, done.said
    again = tiny.run("apply", tiny.playbook, "--check", "--detailed-exitcode")
    assert again.code == 0, again.said
    names = {row["name"] for row in json.loads((tiny.home / "state.json").read_text())["vms"].values()}
    assert names == {"web", "db"}
    assert_whole(tiny)


def without_locks(there: dict[str, Any]) -> dict[str, Any]:
    return {name: thing for name, thing in there.items() if not name.startswith("locks/")}


def assert_whole(tiny: Tiny) -> None:
    """It can be taken away, and then nothing of a VM is left."""
    done = tiny.run("destroy", tiny.playbook)
    assert done.code == 0, done.said
    left = [name for name in tree(tiny.home) if name.startswith("vms/") or name.endswith((".tmp", ".new"))]
    assert left == [], left


def run_case(tiny: Tiny, pattern: str, spoil: Callable[[Path], None]) -> None:
    tiny.restore()
    tally(ROW, tried=1)
    check(tiny, found(tiny, pattern), spoil)
    tally(ROW, residue=0, lost=0)


def replacing(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return spoil


@pytest.mark.slow
@pytest.mark.parametrize("how", BYTES)
@pytest.mark.parametrize("pattern", SPOILT)
def test_file_with_other_bytes_in_it(tiny: Tiny, pattern: str, how: str) -> None:
    run_case(tiny, pattern, replacing(BYTES[how]))


@pytest.mark.slow
@pytest.mark.parametrize("how", THINGS)
@pytest.mark.parametrize("pattern", SPOILT)
def test_file_with_something_else_in_its_place(tiny: Tiny, pattern: str, how: str) -> None:
    run_case(tiny, pattern, THINGS[how])


# --- values of the wrong shape


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value in a document, by the keys that lead to it; of a list the first item stands for all."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*path, key))
    elif isinstance(document, list) and document:
        yield from places(document[0], (*path, 0))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copied = json.loads(json.dumps(document))
    within = copied
    for key in path[:-1]:
        within = within[key]
    if value is GONE:
        del within[path[-1]]
    else:
        within[path[-1]] = value
    return copied


GONE = object()
VALUES: tuple[Any, ...] = (GONE, None, -1, True, "text", [], {}, [{}], {"a": {}}, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["state.json", "images/*/facts.json", "vms/WEB/guest.json", "vms/WEB/handles.json"])
def test_file_with_a_value_of_another_shape(tiny: Tiny, pattern: str) -> None:
    """Asked only, of every value in the file: an apply of each would take too long."""
    tiny.restore()
    path = found(tiny, pattern)
    was = path.read_bytes()
    document = json.loads(was)
    cases = [changed(document, place, value) for place in places(document) for value in VALUES]
    chance = random.Random(7)
    for case in chance.sample(cases, min(len(cases), 40)):
        path.write_text(json.dumps(case))
        spoilt = path.read_bytes()
        assert_told(tiny.run("vm", "show", "web"))
        if path.name != "handles.json":  # that one is set aside
            assert path.read_bytes() == spoilt
        tally(ROW, tried=1, residue=0, lost=0)
    path.write_bytes(was)
    assert tiny.run("vm", "show", "web").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("pattern", ["state.json", "images/*/facts.json", "vms/WEB/guest.json", "vms/WEB/handles.json"])
def test_apply_with_a_value_of_another_shape(tiny: Tiny, pattern: str, seed: int) -> None:
    def spoil(path: Path) -> None:
        document, chance = json.loads(path.read_bytes()), random.Random(seed)
        place = chance.choice(list(places(document)))
        path.write_text(json.dumps(changed(document, place, chance.choice(VALUES))))

    run_case(tiny, pattern, spoil)


# --- files that may not be read, disks that may not be written


def unprivileged(tiny: Tiny, *arguments: str | Path) -> Done:
    return banger(tiny.home, *arguments, before=drop_privileges)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", SPOILT)
def test_file_of_another_user(tiny: Tiny, pattern: str) -> None:
    require(None if os.geteuid() == 0 else "only root gives files away")
    tiny.restore()
    path = found(tiny, pattern)
    was = path.read_bytes()
    os.chown(path, 65534, 65534)
    path.chmod(0o600)
    for asked in (("vm", "list"), ("vm", "show", "web"), ("apply", tiny.playbook)):
        assert_told(unprivileged(tiny, *asked))
    if path.exists():
        os.chown(path, 0, 0)
    again = unprivileged(tiny, "apply", tiny.playbook)
    assert again.code == 0, again.said
    if path.name == "state.json":
        assert path.read_bytes() == was
    gone = unprivileged(tiny, "destroy", tiny.playbook)
    assert gone.code == 0, gone.said
    assert list((tiny.home / "vms").iterdir()) == []
    tally(ROW, tried=1, residue=0, lost=0)


def with_own_mounts(work: Callable[[], Any]) -> Any:
    def inside() -> Any:
        own_mounts()
        return work()

    require(elsewhere(lambda: _refusal(own_mounts)))
    return elsewhere(inside)


def _refusal(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except OSError as error:
        return f"no mount namespace of our own here: {error.strerror}"
    return None


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


@pytest.mark.parametrize("what", ["as applied", "with a change", "with a new VM", "with nothing"])
def test_home_that_may_only_be_read(tiny: Tiny, what: str) -> None:
    tiny.restore()
    text = tiny.playbook.read_text()
    other = tiny.directory / "other.yml"
    other.write_text(
        {"with a change": text.replace("hello", "changed"), "with a new VM": text.replace("name: db", "name: new")}.get(
            what, text
        )
    )
    if what == "with nothing":
        subprocess.run(["rm", "-rf", tiny.home], check=True)
        tiny.home.mkdir()
    before = tree(tiny.home)

    def work() -> list[Done]:
        mount("--bind", tiny.home, tiny.home)
        mount("-o", "remount,bind,ro", tiny.home)
        commands = ("vm", "list"), ("vm", "show", "web"), ("apply", other), ("destroy", other), ("vm", "delete", "web")
        return [tiny.run(*command) for command in commands]

    listed, *others = with_own_mounts(work)
    assert listed.code == 0, listed.said
    for done in others:
        assert_told(done)
        tally(ROW, tried=1, residue=0, lost=0)
    assert tree(tiny.home) == before
    assert tiny.run("apply", other).code == 0
    assert tiny.run("destroy", other).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40, 80, 160, 240, 320, 480, 720, 1000, 1500, 3000])
@pytest.mark.parametrize("command", ["apply anew", "apply a change", "destroy"])
def test_disk_that_is_full(tiny: Tiny, command: str, room: int) -> None:
    """The home on a file system with so many KiB of room; afterwards with more."""
    tiny.restore()
    changed_text = tiny.playbook.read_text().replace("hello", "changed " * 500)
    other = tiny.directory / "other.yml"
    other.write_text(changed_text if command == "apply a change" else tiny.playbook.read_text())

    def work() -> tuple[Done, Done, Done, list[str], list[str], list[str]]:
        on = tiny.home
        mount("-t", "tmpfs", "-o", "size=400m,mode=0700", "tmpfs", on)
        if command != "apply anew":
            subprocess.run(["cp", "-a", f"{tiny.kept}/.", on], check=True)
        filler = on / "filler"
        free = os.statvfs(on)
        with filler.open("wb") as stream, suppress(OSError):
            os.posix_fallocate(stream.fileno(), 0, max(4096, free.f_bavail * free.f_bsize - room * 1024))
        names = recorded(tiny)
        done = tiny.run(*(("destroy", other) if command == "destroy" else ("apply", other)))
        after = recorded(tiny)
        filler.unlink()
        again = tiny.run("apply", other)
        checked = tiny.run("apply", other, "--check", "--detailed-exitcode")
        destroyed = tiny.run("destroy", other)
        left = [name for name in tree(on) if name.startswith("vms/") or name.endswith((".tmp", ".new"))]
        assert destroyed.code == 0, destroyed.said
        return done, again, checked, names, after, left

    done, again, checked, names, after, left = with_own_mounts(work)
    assert_told(done)
    assert again.code == 0, again.said
    assert checked.code == 0, checked.said
    assert set(names) <= set(after) or (command == "destroy" and done.code in (0, 1))
    assert left == []
    tally(ROW, tried=1, residue=len(left), lost=0)


def recorded(tiny: Tiny) -> list[str]:
    path = tiny.home / "state.json"
    rows = json.loads(path.read_text()).get("vms", {}).values() if path.exists() else ()
    return sorted(row["name"] for row in rows)
