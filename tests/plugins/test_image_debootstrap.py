"""A Debian image: what the playbook may ask, which mirrors are used, and the whole build where it is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import banger_image_debootstrap as plugin
import pytest
from banger_image_debootstrap import build
from banger_image_debootstrap.options import DebootstrapOptions
from banger_image_debootstrap.sources import host_sources

from banger.errors import HostError
from banger.linux.debugfs import look, statuses
from banger.linux.host import LinuxHost
from banger.linux.rootfs import make_rootfs
from banger.linux.staging import StagedRoot
from banger.resource import Absent, Present
from banger.testing import SimulatedHost
from banger.types import ImageSpec, Size
from tests.functional.machine import needs_guests

ALWAYS = ["busybox-static", "iproute2", "linux-image-cloud-amd64", "openssh-server", "systemd-sysv", "udev"]
DEB822 = """\
Types: deb
# a comment in between
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
Enabled: no
"""
OTHERS = """\
deb [arch=amd64 signed-by=/etc/apt/keyrings/other.gpg] https://packages.other.example/debian bookworm main
deb https://download.other.example/linux/debian bookworm stable
deb-src http://mirror.example/debian bookworm main
deb [arch=arm64] http://mirror.example/debian-ports bookworm main
deb cdrom:[Debian]/ bookworm main
# deb http://commented.example/debian bookworm main
"""


def spec(**options: Any) -> ImageSpec:
    return ImageSpec("debian-12", "debootstrap", DebootstrapOptions(**options))


def apt(directory: Path, *, sources: str = "", list_: str = "", main: str = "") -> Path:
    (directory / "sources.list.d").mkdir()
    (directory / "sources.list.d/debian.sources").write_text(sources)
    (directory / "sources.list.d/other.list").write_text(list_)
    (directory / "sources.list").write_text(main)
    return directory


@pytest.mark.parametrize(
    "options",
    [{"suite": "--help"}, {"suite": "a b"}, {"packages": ("vim,curl",)}, {"packages": ("?all",)}, {"mirror": "-x"}],
)
def test_options_that_are_no_suite_package_or_mirror_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not"):
        DebootstrapOptions(**options)


def test_recipe_is_plain_json_with_the_packages_sorted_and_once() -> None:
    recipe = plugin.image_recipe(spec(packages=("vim", "curl", "udev"), size=Size(2**30)))
    assert recipe["packages"] == sorted([*ALWAYS, "curl", "vim"])
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe == plugin.image_recipe(spec(packages=("curl", "vim"), size=Size(2**30)))
    assert recipe != plugin.image_recipe(spec(packages=("curl", "vim")))


def test_command_leaves_recommended_packages_out_and_writes_a_tar() -> None:
    argv = build.command(DebootstrapOptions(), "root", ["deb http://a bookworm main"])
    assert "--variant=minbase" in argv and "--mode=root" in argv
    assert argv[-3:] == ["bookworm", "-", "deb http://a bookworm main"]
    own = build.command(DebootstrapOptions(mirror="http://b/debian"), "root", ["deb http://a bookworm main"])
    assert own[-2:] == ["-", "http://b/debian"]


def test_sources_of_a_host_of_the_same_suite_are_its_debian_ones_only(tmp_path: Path) -> None:
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert host_sources("bookworm", "amd64", apt(tmp_path, sources=DEB822, list_=OTHERS)) == [
        f"deb {key} http://mirror.example/debian bookworm main",
        f"deb {key} http://mirror.example/debian bookworm-updates main",
        f"deb {key} http://mirror.example/debian-security bookworm-security main",
    ]


def test_sources_of_a_host_of_another_suite_are_not_used(tmp_path: Path) -> None:
    assert host_sources("trixie", "amd64", apt(tmp_path, sources=DEB822, list_=OTHERS)) == []


def test_sources_of_the_one_line_style_are_read_without_a_key(tmp_path: Path) -> None:
    main = "deb http://mirror.example/debian bookworm main non-free # comment\n"
    assert host_sources("bookworm", "amd64", apt(tmp_path, main=main)) == [
        "deb http://mirror.example/debian bookworm main"
    ]


def test_sources_of_a_host_without_apt_are_none(tmp_path: Path) -> None:
    assert host_sources("bookworm", "amd64", tmp_path / "nothing") == []


def test_mode_without_root_falls_from_unshare_to_fakechroot_to_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimulatedHost()
    monkeypatch.setattr(build.os, "geteuid", lambda: 4242)
    monkeypatch.setattr(build, "_has_subordinate_ids", lambda: True)
    assert build._mode(host) == "unshare"
    monkeypatch.setattr(build, "_has_subordinate_ids", lambda: False)
    assert build._mode(host) == "fakechroot"
    host.tools.missing = {"fakechroot"}
    with pytest.raises(HostError) as caught:
        build._mode(host)
    assert "apt-get install uidmap" in (caught.value.hint or "")
    host.tools.missing = {"mmdebstrap"}
    with pytest.raises(HostError) as caught:
        build._mode(host)
    assert caught.value.hint == "apt-get install mmdebstrap"


@pytest.mark.parametrize(
    ("line", "owns"),
    [("ann:100000:65536", True), ("4242:100000:65536", True), ("ann:100000:100", False), ("bob:100000:65536", False)],
)
def test_subordinate_ids_count_only_as_a_whole_range_of_ones_own(line: str, owns: bool, tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text(f"# none\n{line}\n")
    assert build._owns_range(tmp_path / "subuid", {"ann", "4242"}) is owns
    assert not build._owns_range(tmp_path / "missing", {"ann"})


def test_phases_of_mmdebstrap_are_told_as_stages() -> None:
    stages: list[str] = []
    for line in ("I: downloading packages with apt...", "I: success in 34 seconds", "W: odd...", "done"):
        build._tell(line, stages.append)
    assert stages == ["downloading packages with apt"]


def test_prepared_root_has_slow_units_masked_and_no_name_of_the_builder(tmp_path: Path) -> None:
    with StagedRoot(tmp_path / "staging") as root:
        root.write("/etc/hostname", b"builder\n")
        build.prepare_root(root)
        assert (tmp_path / "staging/etc/systemd/system/apt-daily.timer").readlink() == Path("/dev/null")
        assert root.read("/etc/hostname") == b"localhost\n"
        make_rootfs(root, tmp_path / "image")
    # Later than any /usr, and not so late that it wraps around.
    assert b"mtime: 0x7fffffff" in look(tmp_path / "image", ["stat /var/.updated"])[0]


@pytest.mark.slow
def test_real_image_is_built_whole_and_found_again(tmp_path: Path) -> None:
    needs_guests()
    host, directory = LinuxHost(tmp_path / "cache"), tmp_path / "0123abcd"
    (resource,) = plugin.prepare_image(spec(), directory)
    assert (resource.key, resource.observe(host, None)) == ("image/0123abcd/rootfs", Absent())
    stages: list[str] = []
    resource.create(host, {}, stages.append)
    assert resource.observe(host, None) == Present()
    assert "downloading packages with apt" in stages
    assert sorted(path.name for path in directory.iterdir()) == ["facts.json", "initrd.img", "rootfs.ext4", "vmlinuz"]
    found = statuses(directory / "rootfs.ext4", ["/etc/ssh/ssh_host_ed25519_key", "/usr/sbin/sshd", "/usr/bin/su"])
    assert found["/etc/ssh/ssh_host_ed25519_key"] is None and found["/usr/sbin/sshd"] is not None
    assert found["/usr/bin/su"] is not None and found["/usr/bin/su"].inode.mode == 0o4755
    resource.remove(host, None, stages.append)
    assert resource.observe(host, None) == Absent() and not directory.exists()


def test_scratch_directory_is_one_that_subordinate_users_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(private))
    assert build.scratch_directory("root") == ""
    assert build.scratch_directory("unshare", ("", "/tmp")) == "/tmp"
    with pytest.raises(HostError, match="no temporary directory"):
        build.scratch_directory("unshare", ("",))
    argv = build.command(DebootstrapOptions(), "unshare", [], "/tmp")
    assert argv[:4] == ["env", "INITRD=No", "TMPDIR=/tmp", "mmdebstrap"]
