"""The builder: who asked for what, who wins, and in which order it comes out."""

from __future__ import annotations

import pytest

from banger.errors import PluginError
from banger.guestconfig import GuestConfig, parse_public_key
from banger.host import Node
from banger.types import GuestFile, Mount

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here"


def test_builder_files_come_sorted_by_path() -> None:  # seed S9
    builder = GuestConfig()
    for path in ("/etc/z", "/a", "/etc/a"):
        builder.write_file(path, path)
    assert [file.path for file in builder.files()] == ["/a", "/etc/a", "/etc/z"]


def test_builder_file_has_whole_value() -> None:
    builder = GuestConfig()
    with builder.contributed_by("guestconfig_x"):
        builder.write_file("/etc//x", "é", mode=0o600, uid=1, gid=2)
    assert builder.files() == (GuestFile("/etc/x", "é".encode(), 0o600, 1, 2, "guestconfig_x"),)


def test_builder_two_plugins_that_differ_are_an_error_that_names_both() -> None:
    builder = GuestConfig()
    builder.write_file("/etc/x", "1", origin="one")
    with pytest.raises(PluginError, match="one and two both want /etc/x"), builder.contributed_by("two"):
        builder.write_file("/etc/x", "2")


@pytest.mark.parametrize("change", [{"mode": 0o600}, {"uid": 1}, {"gid": 1}])
def test_builder_two_plugins_that_differ_in_mode_or_owner_are_an_error(change: dict[str, int]) -> None:
    builder = GuestConfig()
    builder.write_file("/etc/x", "1", origin="one")
    with pytest.raises(PluginError):
        builder.write_file("/etc/x", "1", origin="two", **change)


def test_builder_two_plugins_that_agree_are_fine() -> None:
    builder = GuestConfig()
    builder.write_file("/etc/x", "1", origin="one")
    builder.write_file("/etc/x", b"1", origin="two")
    assert [file.origin for file in builder.files()] == ["one"]


def test_builder_plugin_may_change_its_own_mind() -> None:
    builder = GuestConfig()
    builder.write_file("/etc/x", "1", origin="one")
    builder.write_file("/etc/x", "2", origin="one")
    assert builder.files()[0].content == b"2"


def test_builder_task_wins_over_plugin_and_earlier_task() -> None:
    builder = GuestConfig()
    builder.write_file("/etc/x", "plugin", origin="one")
    for place in ("p.yml:1:1", "p.yml:2:1"):
        with builder.contributed_by(place, overriding=True):
            builder.write_file("/etc/x", place)
    builder.write_file("/etc/x", "late plugin", origin="two")
    assert (builder.files()[0].content, builder.files()[0].origin) == (b"p.yml:2:1", "p.yml:2:1")


def test_builder_attribution_ends_with_its_block_even_after_an_error() -> None:
    builder = GuestConfig()
    with pytest.raises(ValueError), builder.contributed_by("task", overriding=True):
        builder.write_file("relative", "")
    builder.write_file("/a", "1", origin="one")
    with pytest.raises(PluginError):
        builder.write_file("/a", "2", origin="two")


@pytest.mark.parametrize("path", ["etc/x", "/etc/../x", "/etc/x\n", ""])
def test_builder_path_that_is_no_guest_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        GuestConfig().write_file(path, "")


def test_builder_file_below_a_file_is_an_error_that_names_both() -> None:
    builder = GuestConfig()
    builder.write_file("/etc/x", "", origin="one")
    builder.write_file("/etc/x/y/z", "", origin="two")
    with pytest.raises(PluginError, match=r"/etc/x/y/z \(two\) cannot be made: /etc/x is a file \(one\)"):
        builder.files()


def test_builder_directories_come_sorted_and_conflict_like_files() -> None:
    builder = GuestConfig()
    builder.add_directory("/root/.ssh", 0o700, origin="one")
    builder.add_directory("/root", 0o700, origin="one")
    assert builder.directories() == (Node("/root", "directory", 0o700), Node("/root/.ssh", "directory", 0o700))
    with pytest.raises(PluginError):
        builder.add_directory("/root", 0o755, origin="two")


def test_builder_mounts_are_by_target() -> None:
    builder = GuestConfig()
    run, other = Mount("tmpfs", "/run", "tmpfs"), Mount("x", "/run/", "ext4")
    builder.add_mount(run, origin="one")
    builder.add_mount(Mount("/dev/vdc", "none", "swap"), origin="one")
    builder.add_mount(Mount("/dev/vdd", "none", "swap"), origin="one")
    assert len(builder.mounts) == 3
    with pytest.raises(PluginError, match="both want /run"):
        builder.add_mount(other, origin="two")
    with builder.contributed_by("p.yml:1:1", overriding=True):
        builder.add_mount(other)
    assert other in builder.mounts and run not in builder.mounts


def test_builder_unmount_by_a_task_takes_back_a_plugins_mount() -> None:
    builder = GuestConfig()
    builder.add_mount(Mount("tmpfs", "/tmp", "tmpfs"))
    builder.drop_mount("/home/")
    assert len(builder.mounts) == 1
    with builder.contributed_by("p.yml:1:1", overriding=True):
        builder.drop_mount("/tmp")
    assert not builder.mounts
    assert builder.dropped_mounts == ("/home", "/tmp")


def test_builder_remembers_what_a_claim_overrode() -> None:
    builder = GuestConfig()
    builder.write_file("/etc/motd", "plugin", origin="one")
    builder.add_mount(Mount("tmpfs", "/tmp", "tmpfs"), origin="one")
    builder.add_authorized_key(KEY)
    with builder.contributed_by("p.yml:1:1", overriding=True):
        builder.write_file("/etc/motd", "first task")
    with builder.contributed_by("p.yml:2:1", overriding=True):
        builder.write_file("/etc/motd", "second task")
        builder.drop_mount("/tmp")
        builder.add_authorized_key(KEY)
    claim, origins = builder.claims("files").get("/etc/motd"), []
    while claim:
        origins.append(claim.origin)
        claim = claim.overrode
    assert origins == ["p.yml:2:1", "p.yml:1:1", "one"]
    dropped = builder.claims("dropped")["/tmp"]
    assert (dropped.origin, dropped.overrode and dropped.overrode.origin) == ("p.yml:2:1", "one")
    (key,) = builder.claims("authorized_keys").values()
    assert (key.origin, key.by_task) == ("p.yml:2:1", True)


def test_builder_kernel_arguments_keep_their_order_and_come_once() -> None:
    builder = GuestConfig()
    for text in ("b=1", "a", "b=1"):
        builder.add_kernel_argument(text)
    assert builder.kernel_arguments == ("b=1", "a")
    with pytest.raises(ValueError):
        builder.add_kernel_argument("a\nb")


@pytest.mark.parametrize("key", [KEY, f' from="10.0.0.1" {KEY}\n', "sk-ssh-ed25519@openssh.com AAAAGn== x"])
def test_public_key_that_is_one_is_taken(key: str) -> None:
    builder = GuestConfig()
    builder.add_authorized_key(key)
    builder.add_authorized_key(key)
    assert builder.authorized_keys == (key.strip(),)


@pytest.mark.parametrize(
    "key", ["", "~/.ssh/id.pub", f"{KEY}\n{KEY}", "-----BEGIN OPENSSH PRIVATE KEY-----", f"#{KEY}"]
)
def test_public_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"give"):
        parse_public_key(key)


def test_builder_tells_what_tasks_asked_for() -> None:
    builder = GuestConfig()
    for overriding in (False, True):
        with builder.contributed_by("someone", overriding=overriding):
            builder.write_file(f"/{overriding}", "x")
            builder.add_directory(f"/d{overriding}")
            builder.drop_mount(f"/m{overriding}")
            builder.add_kernel_argument(str(overriding))
    part = builder.of_tasks()
    assert [f.path for f in part.files()] == ["/True"]
    assert [node.path for node in part.directories()] == ["/dTrue"]
    assert (part.dropped_mounts, part.kernel_arguments) == (("/mTrue",), ("True",))


def test_builder_directory_that_is_a_file_too_is_an_error() -> None:
    builder = GuestConfig()
    builder.write_file("/a", "x", origin="one")
    builder.add_directory("/a", origin="two")
    with pytest.raises(PluginError, match=r"/a \(two\).*\(one\)"):
        builder.files()
