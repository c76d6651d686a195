"""The guest's fstab: what is asked for changes, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.core.fstab import normalise_target, parse_line, render_fstab, render_line
from banger.types import Mount

RUN = Mount("tmpfs", "/run", "tmpfs", ("defaults", "nodev", "nosuid", "mode=0755"))
TMP = Mount("tmpfs", "/tmp", "tmpfs", ("defaults", "nodev", "nosuid", "mode=1777"))


def test_fstab_of_an_image_gets_tmpfs_and_loses_home_and_var() -> None:  # seed S9
    original = "# static\n/dev/vda / ext4 defaults 0 1\nLABEL=h\t/home\text4 defaults 0 2\n/dev/vdc /var/ ext4\n"
    assert render_fstab(original, ["/home", "/var"], [RUN, TMP]) == (
        "# static\n/dev/vda / ext4 defaults 0 1\n"
        "tmpfs /run tmpfs defaults,nodev,nosuid,mode=0755 0 0\n"
        "tmpfs /tmp tmpfs defaults,nodev,nosuid,mode=1777 0 0\n"
    )


def test_fstab_of_an_image_without_one_counts_as_empty() -> None:  # seed S9
    assert render_fstab(None, ["/home"], [RUN]) == "tmpfs /run tmpfs defaults,nodev,nosuid,mode=0755 0 0\n"
    assert render_fstab(None, ["/home"], []) == ""


def test_fstab_added_mount_takes_the_line_of_the_first_on_its_target() -> None:
    original = "a /run x\nb / ext4\nc //run/ y\n"
    assert render_fstab(original, [], [RUN]) == render_line(RUN) + "\nb / ext4\n"


def test_fstab_added_mount_on_a_dropped_target_stays() -> None:
    assert render_fstab("old /run x\n", ["/run"], [RUN]) == render_line(RUN) + "\n"


def test_fstab_without_a_last_newline_is_not_glued_to_what_is_added() -> None:
    assert render_fstab("/dev/vda / ext4", [], [RUN]) == "/dev/vda / ext4\n" + render_line(RUN) + "\n"


@pytest.mark.parametrize("line", ["# LABEL=h /home ext4", "/dev/vdb /home", "/home", "", "x /home ext4 defaults z 0"])
def test_fstab_line_that_is_no_mount_is_kept_as_it_is(line: str) -> None:
    assert render_fstab(line, ["/home"], []) == line


def test_fstab_target_with_blanks_is_written_and_read_in_octal() -> None:
    mount = Mount("//srv/my share", "/mnt/a b\tc\\d", "cifs", ("user=x y",))
    line = render_line(mount)
    assert line == r"//srv/my\040share /mnt/a\040b\011c\134d cifs user=x\040y 0 0"
    assert parse_line(line) == mount
    assert render_fstab(line + "\n", ["/mnt/a b\tc\\d/"], []) == ""


def test_fstab_source_that_looks_like_a_comment_is_no_comment() -> None:
    mount = Mount("#1", "/a", "9p")
    assert parse_line(render_line(mount)) == mount


def test_fstab_octal_escapes_of_utf_8_bytes_are_one_character() -> None:
    assert parse_line(r"x /caf\303\251 ext4") == Mount("x", "/café", "ext4")


def test_fstab_swap_lines_are_told_apart_by_their_source() -> None:
    swap = Mount("/dev/vdc", "none", "swap", ("sw",))
    once = render_fstab("/dev/vdb none swap sw 0 0\n", [], [swap])
    assert once == "/dev/vdb none swap sw 0 0\n/dev/vdc none swap sw 0 0\n"
    assert render_fstab(once, [], [swap]) == once


fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
targets = st.sampled_from(["/", "/home", "/home/", "//home", "/run", "/tmp", "/a b", "/a\\b", "none", "/var/x"])
mounts = st.builds(
    Mount, fields, targets, fields, st.lists(fields.filter(lambda f: "," not in f), min_size=1, max_size=3).map(tuple)
)
lines = st.one_of(mounts.map(render_line), st.text(max_size=30), st.just("# comment"), st.just(""))
originals = st.lists(lines, max_size=8).map("\n".join)
dropped_targets = st.lists(targets.filter(lambda target: target != "none"), max_size=3)


@given(originals, dropped_targets, st.lists(mounts, max_size=4))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_fstab_rendered_twice_is_the_same(original: str, dropped: list[str], added: list[Mount]) -> None:
    once = render_fstab(original, dropped, added)
    assert render_fstab(once, dropped, added) == once


@given(originals, dropped_targets, st.lists(mounts, max_size=4))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_fstab_foreign_lines_survive_in_their_order(original: str, dropped: list[str], added: list[Mount]) -> None:
    touched = {normalise_target(target) for target in dropped} | {normalise_target(mount.target) for mount in added}

    def is_foreign(line: str) -> bool:
        mount = parse_line(line)
        return mount is None or normalise_target(mount.target) not in touched

    before = [line for line in original.split("\n") if is_foreign(line) and line]
    after = [line for line in render_fstab(original, dropped, added).split("\n") if is_foreign(line) and line]
    assert after == before


@given(mounts)
@settings(deadline=None, derandomize=True)
def test_fstab_line_means_what_was_written(mount: Mount) -> None:
    assert parse_line(render_line(mount)) == mount
