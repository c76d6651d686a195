"""The script beside each VM: right for the shell whatever the VM consists of, and run for real where that can be."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from banger_storage_dm.snapshot import Snapshot

from banger.core import by_hand
from banger.core.leftovers import LeftoverVmm
from banger.host import Host, HostView
from banger.linux.run import which
from banger.resource import Absent, Handle, Needs, Observation, Resource, Stage
from banger.types import VmFiles
from banger.vmmprocess import VmmProcess
from tests.capabilities import loop_devices, programs, require
from tests.processes import waiting

SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]
shells = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])


@dataclass(frozen=True)
class Part(Resource):
    """Something that is undone by these lines."""

    key: str
    lines: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        pass

    def undo_by_hand(self) -> Sequence[str]:
        return self.lines


class Vmm(VmmProcess):
    """Of whatever kind: how one is ended is the same for all."""

    vmm = title = program = "vmm"

    def ask_guest_to_end(self, host: Host) -> None: ...
    def observe(self, host: HostView, recorded: Handle | None) -> Observation:
        return Absent()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        return {}


def run(
    directory: Path, parts: Sequence[Resource], *arguments: str, shell: Sequence[str] = ("sh",)
) -> tuple[int, str, str]:
    require(programs(shell[0]))
    path = directory / by_hand.FILE
    path.write_text(by_hand.script("web", directory, parts))
    command = [which(shell[0]) or shell[0], *shell[1:], str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def vmm(directory: Path) -> Vmm:
    return Vmm("web/vmm", VmFiles(directory))


@shells
def test_vmm_is_ended_by_its_socket_and_nobody_else_is(tmp_path: Path, shell: list[str]) -> None:
    directory = tmp_path / "a b; [c]"
    directory.mkdir()
    (directory / "api.sock").touch()
    socket = directory / "api.sock"
    others = [
        str(socket),
        f"UNIX-CONNECT:{socket}",
        f"unix:{socket}x",
        "--api-sock",
        f"{socket}.other",
        f"xpath={socket}2",
    ]
    with (
        waiting(f"socket,path={socket},server=on") as qemu,
        waiting("--api-sock", str(socket)) as other_vmm,
        waiting(*others) as bystander,
    ):
        code, out, err = run(directory, [vmm(directory)], shell=shell)
        assert (code, err) == (0, "")
        assert {f"kill -s TERM {each.pid}" for each in (qemu, other_vmm)} <= set(out.splitlines())
        assert (qemu.wait(5), other_vmm.wait(5)) == (-15, -15)
        assert bystander.poll() is None
    assert not socket.exists()


@pytest.mark.slow
def test_vmm_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path) -> None:
    with waiting(f"unix:{tmp_path}/api.sock", deaf=True) as process:
        assert run(tmp_path, [vmm(tmp_path)])[0] == 0
        assert process.wait(5) == -9


@shells
def test_parts_go_last_first_and_nothing_goes_from_under_what_stays(tmp_path: Path, shell: list[str]) -> None:
    parts = [
        Part("directory"),
        Part("disk", ("echo disk goes",), ("directory",)),
        Part("between", (), ("disk",)),
        Part("network", ("echo 'network''s gone'",), ("directory",)),
        Part("vmm", ("echo trying", "exit 3"), ("between",)),
        Part("other", ("echo other goes",)),
    ]
    code, out, err = run(tmp_path, parts, "--purge", shell=shell)
    assert code == 1
    assert {"other goes", "networks gone"} < set(out.splitlines())
    assert "disk goes" not in out
    assert err.splitlines() == ["vmm: is still there", "not all is gone; see above, and run this again"]
    assert tmp_path.is_dir()


def test_directory_goes_only_when_that_is_asked_for(tmp_path: Path) -> None:
    directory = tmp_path / "vm $HOME"
    directory.mkdir()
    (directory / "root.ext4").write_bytes(b"disk")
    code, out, _ = run(directory, [])
    assert (code, out) == (0, f"its disks are still in {directory}; to remove them: sh teardown.sh --purge\n")
    assert run(directory, [], "--force")[0] == 2
    assert (directory / "root.ext4").exists()
    assert run(directory, [], "--purge")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_loops_that_are_attached_to_the_overlay_are_detached(tmp_path: Path) -> None:
    require(loop_devices())
    cow = tmp_path / "root.ext4"
    cow.write_bytes(bytes(2**20))
    losetup = which("losetup") or "losetup"
    device = subprocess.run(
        [losetup, "--find", "--show", cow], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        code, _, err = run(tmp_path, [Snapshot("web/root/snapshot", (), "00000000ee", cow)])
        assert (code, err) == (0, "")
        left = subprocess.run([losetup, "--associated", cow], capture_output=True, text=True, check=True)
        assert left.stdout == ""
        device = ""
    finally:
        if device:
            subprocess.run([losetup, "--detach", device], check=False)


def test_what_has_no_lines_is_not_in_it(tmp_path: Path) -> None:
    assert "web/vmm" not in by_hand.script("web", tmp_path, [LeftoverVmm("web/vmm", (), VmFiles(tmp_path))])
