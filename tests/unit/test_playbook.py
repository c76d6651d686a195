"""Loading a playbook: what comes out of a right one, and every mistake of a wrong one at its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from banger.core.playbook import Playbook, load
from banger.core.request import Declared
from banger.errors import Place, PlaybookError, Problem
from banger.types import FileMode, GuestModule, GuestPath, ImageSource, ImageSpec, Network, NetworkKind, Size

READABLE = FileMode(0o644)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here"


@dataclass(frozen=True, slots=True)
class Debootstrap:
    suite: str = "bookworm"
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forward:
    host_port: int
    guest_port: int = 22


@dataclass(frozen=True, slots=True)
class UserNetwork:
    outbound: bool = True
    forwards: tuple[Forward, ...] = ()


@dataclass(frozen=True, slots=True)
class TapNetwork:
    subnet: str
    nat: bool = False


@dataclass(frozen=True, slots=True)
class FileOptions:
    dest: GuestPath
    content: str
    mode: FileMode = READABLE


def _nothing(builder: object, options: object, context: object) -> None:
    """A module that contributes nothing."""


MODULES = {"file": GuestModule("file", FileOptions, _nothing)}
SOURCES = {"debootstrap": ImageSource("debootstrap", Debootstrap)}
KINDS = {"user": NetworkKind("user", UserNetwork), "tap": NetworkKind("tap", TapNetwork)}

Load = Callable[..., Playbook]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as `p.yml` of an empty directory, so that places are short."""
    monkeypatch.chdir(tmp_path)

    def load_it(text: str, extra_vars: Mapping[str, Any] | None = None) -> Playbook:
        Path("p.yml").write_text(text)
        return load(Path("p.yml"), Declared(MODULES, SOURCES, KINDS), extra_vars or {})

    return load_it


@pytest.fixture
def problems_in(load_text: Load) -> Callable[..., list[str]]:
    def problems(text: str) -> list[str]:
        with pytest.raises(PlaybookError) as caught:
            load_text(text)
        assert caught.value.exit_code == 2
        return [str(problem) for problem in caught.value.problems]

    return problems


GOOD = """\
- name: One Debian image
  images:
    - name: debian-12
      source: debootstrap
      packages: [openssh-server, iproute2]
      work_seed: 512MiB
  tasks:
    - name: Say who built this
      file: {dest: /etc/motd, content: "Built\\n", mode: 0600}
- name: Sandboxes
  vars: {team: web}
  defaults: {image: debian-12, memory: 512MiB, root_disk: 4GiB, work_disk: 1GiB, network: lab}
  networks:
    - {name: lab, plugin: tap, subnet: 172.16.0.0/24, nat: true}
  vms:
    - name: "{{ team }}-{{ item }}"
      loop: [1, 2]
      vcpus: "{{ item }}"
    - {name: db, memory: 1GiB, tags: [db], state: stopped, work_disk: none, network: user}
    - {name: gone, state: absent}
  tasks:
    - name: Greet
      file: {dest: /etc/motd, content: "{{ vm.name }}"}
      when: vm.name.startswith(team)
      tags: [motd]
"""


def test_playbook_images_come_with_their_sources_options_and_tasks(load_text: Load) -> None:
    (image,) = load_text(GOOD).images
    packages = ("openssh-server", "iproute2")
    options = Debootstrap("bookworm", packages)
    assert image.spec == ImageSpec("debian-12", "debootstrap", options, 512 * 2**20, Place("p.yml", 3, 7))
    assert image.spec.places["name"].line == 3
    (task,) = image.tasks
    assert (task.name, task.module, task.place) == ("Say who built this", "file", Place("p.yml", 8, 7))


def test_playbook_networks_are_the_declared_ones_and_user_when_it_is_used(load_text: Load) -> None:
    lab, user = load_text(GOOD).networks
    assert lab == Network("lab", "tap", TapNetwork("172.16.0.0/24", nat=True), Place("p.yml", 14, 7))
    assert (user.name, user.plugin, user.options) == ("user", "user", UserNetwork())


def test_playbook_network_user_that_nobody_uses_is_not_there(load_text: Load) -> None:
    assert load_text("- vars: {a: 1}\n").networks == ()


def test_playbook_vms_have_defaults_loops_and_their_own_values(load_text: Load) -> None:
    playbook = load_text(GOOD)
    assert [vm.name for vm in playbook.vms] == ["web-1", "web-2", "db", "gone"]
    web, db = playbook.vms[1], playbook.vms[2]
    assert (web.vcpus, web.memory_bytes, web.root_disk_bytes, web.work_disk_bytes) == (2, 2**29, 2**32, 2**30)
    assert (web.image, web.network, web.state, web.tags) == ("debian-12", "lab", "running", ())
    assert (web.storage, web.workdisk, web.vmm) == ("auto", "ext4", "auto")
    assert (web.place, web.variables["team"]) == (Place("p.yml", 16, 7), "web")
    assert (db.memory_bytes, db.work_disk_bytes, db.network, db.state, db.tags) == (
        2**30,
        None,
        "user",
        "stopped",
        ("db",),
    )
    (task,) = web.tasks
    assert (task.name, task.tags, [condition.text for condition in task.when]) == (
        "Greet",
        ("motd",),
        ["vm.name.startswith(team)"],
    )


def test_playbook_vm_without_anything_said_gets_the_documented_defaults(load_text: Load) -> None:
    text = f"- images: [{{name: i, source: debootstrap}}]\n  vms: [{{name: v, image: i, authorized_keys: ['{KEY}']}}]\n"
    (vm,) = load_text(text).vms
    assert (vm.vcpus, vm.memory_bytes, vm.root_disk_bytes, vm.work_disk_bytes) == (1, 512 * 2**20, 4 * 2**30, None)
    assert (vm.network, vm.state, vm.authorized_keys) == ("auto", "running", (KEY,))


def test_playbook_tasks_of_a_play_with_both_are_its_vms(load_text: Load) -> None:
    text = """\
- images: [{name: i, source: debootstrap}]
  vms: [{name: v, image: i}]
  tasks: [{file: {dest: /a, content: b}}]
"""
    playbook = load_text(text)
    assert playbook.images[0].tasks == () and len(playbook.vms[0].tasks) == 1


def test_playbook_image_of_a_later_play_counts(load_text: Load) -> None:
    text = "- vms: [{name: v, image: i}]\n- images: [{name: i, source: debootstrap}]\n"
    assert load_text(text).vms[0].image == "i"


def test_playbook_variables_are_overridden_by_files_and_the_command_line(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "more.yml").write_text('b: file\nd: "{{ a }}+{{ c }}"\n')
    text = """\
- vars: {a: play, b: play, c: "{{ a }}-{{ b }}"}
  vars_files: [more.yml]
  vms: [{name: v, state: absent}]
"""
    variables = load_text(text, {"a": "line"}).vms[0].variables
    assert variables == {"a": "line", "b": "file", "c": "line-play", "d": "line+line-play"}


def test_playbook_with_many_mistakes_tells_each_at_its_place_in_order(problems_in: Callable[..., list[str]]) -> None:
    text = """\
- images:
    - {name: debian, source: debotstrap}
- defaults: {image: debain, memory: 512MB}
  vms:
    - name: "{{ nmae }}"
      vcpu: 2
    - name: db
  tasks:
    - file: {dst: /a, content: x, mode: 644}
"""
    assert problems_in(text) == [
        "p.yml:2:30: no image source is named 'debotstrap' (did you mean 'debootstrap'?)",
        "p.yml:3:21: no image is named 'debain' (did you mean 'debian'?)",
        "p.yml:3:37: 'memory' of a VM is not a size: '512MB' (did you mean 512MiB?)",
        "p.yml:5:13: 'nmae' is undefined, in '{{ nmae }}'",
        "p.yml:6:7: unknown key 'vcpu' in a VM (did you mean 'vcpus'?)",
        "p.yml:9:13: the module 'file' needs 'dest'",
        "p.yml:9:14: unknown key 'dst' in the module 'file' (did you mean 'dest'?)",
        "p.yml:9:41: 'mode' of the module 'file' is not a file mode: '644'"
        " (write it in octal with its leading zero, such as 0644)",
    ]


IMAGE = "- images: [{name: i, source: debootstrap}]\n"


@pytest.mark.parametrize(
    ("vm", "problem"),
    [
        ("{name: v}", "2:10: the VM 'v' needs 'image'"),
        ("{image: i}", "2:10: a VM needs 'name'"),
        ("v", "2:10: a VM is a mapping (- {name: web-1, image: …})"),
        ("{name: v, image: i, memory: 32MiB}", "2:38: 'memory' of the VM 'v' is 32MiB, which is less than 64MiB"),
        (
            "{name: v, image: i, memory: 512}",
            "2:38: 'memory' of the VM 'v' is 512B, which is less than 64MiB (did you mean 512MiB?)",
        ),
        (
            "{name: v, image: i, root_disk: 1MiB}",
            "2:41: 'root_disk' of the VM 'v' is 1MiB, which is less than 16MiB",
        ),
        (
            "{name: v, image: i, root_disk: 4g}",
            "2:41: 'root_disk' of the VM 'v' is not a size: '4g' (did you mean 4GiB?)",
        ),
        ("{name: v, image: i, vcpus: 0}", "2:37: 'vcpus' of the VM 'v' is 0 (from 1 to 255)"),
        (
            "{name: v, image: i, vcpus: '2'}",
            "2:37: 'vcpus' of the VM 'v' should be a whole number, not '2' (write it without quotes)",
        ),
        (
            "{name: v, image: i, state: runing}",
            "2:37: 'state' of the VM 'v' should be 'running', 'stopped' or 'absent', not 'runing'"
            " (did you mean 'running'?)",
        ),
        ("{name: v, image: i, tags: db}", "2:36: 'tags' of the VM 'v' should be a list, not 'db' (write [db])"),
        (
            "{name: v, image: i, tags: [1.10]}",
            "2:37: 'tags[0]' of the VM 'v' should be text, not '1.10' (write it in quotes: \"1.10\")",
        ),
        ("{name: v, image: i, network: lba}", "2:39: no network is named 'lba' (declare it under networks:)"),
        (
            "{name: v, image: i, authorized_keys: [x]}",
            "2:48: 'authorized_keys' of the VM 'v': not a public ssh key"
            " (give the text of a file such as ~/.ssh/id_ed25519.pub)",
        ),
        ("{name: v, image: i, loop: 3}", "2:36: 'loop' is not a list (write [1, 2] or '{{ range(2) }}')"),
        (
            "{name: v, image: i, loop: [1, 2, 3]}",
            "2:17: two VMs are named 'v'; the first is at p.yml:2:17 (use {{ item }} in the name of what has a loop)",
        ),
    ],
)
def test_playbook_vm_mistake_is_told_at_its_place(problems_in: Callable[..., list[str]], vm: str, problem: str) -> None:
    assert problems_in(f"{IMAGE}- vms: [{vm}]\n".replace("- vms: [", "- vms: [ ")) == [f"p.yml:{problem}"]


@pytest.mark.parametrize("name", ["Web", "web_1", "-web", "web-", "w" * 64, "", "wéb", "web 1"])
def test_playbook_name_that_cannot_be_one_is_a_problem(problems_in: Callable[..., list[str]], name: str) -> None:
    (problem,) = problems_in(f"- vms: [{{name: '{name}', state: absent}}]\n")
    assert problem.startswith("p.yml:1:16: ") and "cannot be the name of any VM" in problem


@pytest.mark.parametrize("name", ["w", "0", "web-1", "w" * 63])
def test_playbook_name_that_can_be_one_is_taken(load_text: Load, name: str) -> None:
    assert load_text(f"- vms: [{{name: '{name}', state: absent}}]\n").vms[0].name == name


def test_playbook_wrong_value_hides_no_other_mistake_of_its_vm(problems_in: Callable[..., list[str]]) -> None:
    text = "- vms:\n    - {name: v, image: nope, vcpus: x, memory: 1MiB, network: nope}\n"
    assert [problem.split(": ")[0] for problem in problems_in(text)] == [
        "p.yml:2:24",
        "p.yml:2:37",
        "p.yml:2:48",
        "p.yml:2:63",
    ]


def test_playbook_mistake_in_defaults_is_told_once_for_all_vms(problems_in: Callable[..., list[str]]) -> None:
    text = "- defaults: {memory: 1MB, vpus: 2}\n  vms: [{name: a, state: absent}, {name: b, state: absent}]\n"
    assert problems_in(text) == [
        "p.yml:1:22: 'memory' of the VM 'a' is not a size: '1MB' (did you mean 1MiB?)",
        "p.yml:1:27: unknown key 'vpus' in defaults (did you mean 'vcpus'?)",
    ]


def test_playbook_image_whose_name_failed_is_not_missed_as_well(problems_in: Callable[..., list[str]]) -> None:
    text = "- images: [{name: '{{ x }}', source: debootstrap}]\n  vms: [{name: v, image: i}]\n"
    assert problems_in(text) == ["p.yml:1:19: 'x' is undefined, in '{{ x }}'"]


def test_playbook_two_of_one_name_are_problems(problems_in: Callable[..., list[str]]) -> None:
    text = """\
- images: [{name: i, source: debootstrap}, {name: i, source: debootstrap}]
  networks: [{name: n}, {name: n}]
- vms: [{name: v, image: i}]
- vms: [{name: v, image: i}]
"""
    assert problems_in(text) == [
        "p.yml:1:51: two images are named 'i'; the first is at p.yml:1:19",
        "p.yml:2:32: two networks are named 'n'; the first is at p.yml:2:21",
        "p.yml:4:16: two VMs are named 'v'; the first is at p.yml:3:16",
    ]


def test_playbook_mistakes_of_networks_are_told_down_to_the_nested_value(
    problems_in: Callable[..., list[str]],
) -> None:
    text = """\
- networks:
    - {name: a, plugin: tpa}
    - {name: b, plugin: tap, nat: on}
    - name: c
      forwards: [{hots_port: 1}, 3]
"""
    assert problems_in(text) == [
        "p.yml:2:25: no network plugin is named 'tpa' (did you mean 'tap'?)",
        "p.yml:3:7: the network 'b' needs 'subnet'",
        "p.yml:3:35: 'nat' of the network 'b' should be true or false, not 'on' (write true)",
        "p.yml:5:18: 'forwards[0]' of the network 'c' needs 'host_port'",
        "p.yml:5:19: unknown key 'hots_port' in 'forwards[0]' of the network 'c' (did you mean 'host_port'?)",
        "p.yml:5:34: 'forwards[1]' of the network 'c' should be a mapping of keys and values, not '3'",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "p.yml:1:1: the playbook is empty (begin with a play: - name: …)"),
        ("name: x\n", "p.yml:1:1: a playbook is a list of plays (begin each play with '- ')"),
        ("- x\n", "p.yml:1:3: a play is a mapping (- name: …)"),
        ("- vmss: []\n", "p.yml:1:3: unknown key 'vmss' in a play (did you mean 'vms'?)"),
        ("- vms: {}\n", "p.yml:1:8: 'vms' is a list (begin each item with '- ')"),
        ("- name: 5\n", "p.yml:1:9: the name of a play is text (write it in quotes)"),
        (
            "- tasks: [{file: {dest: /a, content: b}}]\n",
            "p.yml:1:3: tasks apply to the images or VMs of their play: it has none",
        ),
        ("- vars: [a]\n", "p.yml:1:9: variables are written as a mapping (name: value)"),
        ("- vars: {vm: 1}\n", "p.yml:1:10: 'vm' is set by banger itself and cannot be a variable"),
        ("- vars_files: [no.yml]\n", "p.yml:1:16: cannot read 'no.yml': No such file or directory"),
        ("- vars: {a: 1, a: 2}\n", "p.yml:1:16: the key 'a' is here twice; the first is at p.yml:1:10"),
        ("- name: [\n", "p.yml:2:1: not YAML"),
    ],
)
def test_playbook_that_is_none_is_a_problem(problems_in: Callable[..., list[str]], text: str, problem: str) -> None:
    (found,) = problems_in(text)
    assert found.startswith(problem)


def test_playbook_file_that_is_not_there_is_a_playbook_error(tmp_path: Path) -> None:
    with pytest.raises(PlaybookError, match="cannot read the playbook") as caught:
        load(tmp_path / "no.yml", Declared())
    assert caught.value.exit_code == 2


def test_playbook_that_is_not_utf_8_is_a_problem_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_bytes(b"- name: x\n  vars: {a: \xff}\n")
    with pytest.raises(PlaybookError) as caught:
        load(tmp_path / "p.yml", Declared())
    assert caught.value.problems == (
        Problem(Place(str(tmp_path / "p.yml"), 2, 1), "not UTF-8 text", "save the file as UTF-8"),
    )


def test_playbook_macs_modes_and_ports_stay_text(load_text: Load) -> None:
    text = "- vars: {mac: 52:54:00:12:34:56, mode: 0644, port: 22:22, on: no}\n  vms: [{name: v, state: absent}]\n"
    expected = {"mac": "52:54:00:12:34:56", "mode": "0644", "port": "22:22", "on": "no"}
    assert load_text(text).vms[0].variables == expected


def test_playbook_sizes_are_bytes(load_text: Load) -> None:
    text = "- vars: {m: 96MiB}\n  vms: [{name: v, state: absent, memory: '{{ m }}', work_disk: 104857600}]\n"
    (vm,) = load_text(text).vms
    assert (vm.memory_bytes, vm.work_disk_bytes) == (Size.parse("96MiB"), 100 * 2**20)


def test_playbook_of_fifty_vms_loads_fast(load_text: Load) -> None:
    vms = "".join(f"    - {{name: 'v{n}-{{{{ team }}}}', memory: 1GiB, vcpus: 2, tags: [a, b]}}\n" for n in range(50))
    text = f"{IMAGE}- vars: {{team: web}}\n  defaults: {{image: i, network: user}}\n  vms:\n{vms}"
    load_text(text)  # pays for the imports
    started = time.process_time()
    playbook = load_text(text.replace("-{{ team", "x-{{ team"))  # templates not seen before
    assert len(playbook.vms) == 50
    assert time.process_time() - started < 0.15


def test_playbook_with_a_file_name_that_is_none_is_a_problem(load_text: Load) -> None:
    with pytest.raises(PlaybookError, match="that is no file name"):
        load_text('- vars_files: ["a\\0b"]\n')
