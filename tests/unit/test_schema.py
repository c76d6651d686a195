"""The JSON Schema of playbooks: it takes what banger takes, refuses what one value is enough to refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from banger import scalars
from banger.cli import cli
from banger.core import yaml_source
from banger.core.include import KEYS as INCLUDE_KEYS
from banger.core.options import keys_of
from banger.core.plugins import Plugins
from banger.core.request import PLAY_KEYS, Declared, ImageKeys, NetworkKeys, VmKeys
from banger.core.schema import _LIMITS, _WRITTEN, schema_of
from banger.core.tasks import KEYWORDS
from banger.types import FileMode, GuestModule, ImageSource, Size
from tests.functional import test_interrupt, test_mistakes
from tests.simulated import world
from tests.unit import test_playbook, test_validate

ROOT = Path(__file__).parents[2]
BUILT_IN = Plugins.load(third_party=False).declared()
SCHEMA = schema_of(BUILT_IN)
OF_TEST_PLAYBOOK = Declared(test_playbook.MODULES, test_playbook.SOURCES, test_playbook.KINDS)
OF_WORLD = Declared(BUILT_IN.modules, {"tiny": world.TinySource.register_image_source()}, BUILT_IN.network_kinds)


def mistakes(text: str, schema: dict[str, Any] = SCHEMA) -> list[str]:
    """What the schema finds wrong with a playbook, read as banger reads it."""
    node, problems = yaml_source.load(text, "p.yml")
    assert problems == []
    validator = jsonschema.Draft202012Validator(schema)
    return [error.message for error in validator.iter_errors(yaml_source.plain(node))]


def test_schema_is_one_of_its_dialect() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(schema_of(Declared()))


def test_plugins_of_a_vm_are_those_in_use() -> None:
    wrong = "- vms: [{name: a, image: i, KEY: zfs}]"
    for key, right in (("storage", "auto"), ("storage", "dm"), ("workdisk", "ext4"), ("vmm", "auto"), ("vmm", "qemu")):
        assert mistakes(wrong.replace("KEY", key)), key
        assert mistakes(wrong.replace("KEY: zfs", f"{key}: {right}")) == []
        assert mistakes(wrong.replace("KEY: zfs", f"{key}: '{{{{ {right} }}}}'")) == []
    assert mistakes(wrong.replace("KEY: zfs", "workdisk: auto"))
    assert mistakes("- defaults: {vmm: qemo}")


PLAYBOOKS = [*(ROOT / "playbooks").glob("*.yml"), ROOT / "tests" / "lab" / "image.yml"]


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_playbook_of_ours_is_right(path: Path) -> None:
    assert mistakes(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        (test_validate.PLAYBOOK, BUILT_IN),
        (test_playbook.GOOD, OF_TEST_PLAYBOOK),
        (world.PLAYBOOK.replace("STATE", "running"), OF_WORLD),
        (test_interrupt.SOLO, BUILT_IN),
    ],
    ids=["validate", "playbook", "simulated", "interrupt"],
)
def test_good_playbook_of_another_test_is_right(text: str, declared: Declared) -> None:
    assert mistakes(text, schema_of(declared)) == []


IMAGE = "- images: [{name: i, source: debootstrap}]\n"


@pytest.mark.parametrize(
    "text",
    [
        "- vms: [{name: '{{ who }}-{{ item }}', loop: '{{ l }}', image: i, vcpus: '{{ n }}', jailed: '{{ j }}'}]",
        "- vms: [{name: v, image: i, tags: '{{ tags }}', state: '{{ s }}', memory: '{{ m }}', work_disk: '{{ w }}'}]",
        "- vms: [{name: v, image: i, work_disk: none, overlay: null, memory: 536870912, root_disk: 4 GiB}]",
        "- {name: all absent, vars: , images: , defaults: , tasks: , vms: [{name: v, state: absent}]}",
        "- images: [{name: i, source: '{{ source }}', whatever: its plugin takes}]",
        "- networks: [{name: n}, {name: m, outbound: false}, {name: t, plugin: tap, nat: '{{ nat }}'}]",
        "- tasks: [{unmount: {target: /x}, when: [true, vm.name == 'a'], loop: [1], tags: [x], name: }]",
        "- tasks: [{file: {dest: '{{ d }}', content: '', mode: 0640, uid: '{{ uid }}'}}]",
        "- tasks: [{mount: {source: s, target: /t, fstype: ext4, options: ['size={{ s }}', '{{ o }}'], passno: 2}}]",
        "[]",
    ],
)
def test_right_text_is_right(text: str) -> None:
    assert mistakes(text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- vmss: []", "'vmss' was unexpected"),
        ("- vms: [{name: v, vcpu: 1}]", "'vcpu' was unexpected"),
        ("- defaults: {name: v}", "not valid under any"),
        ("- images: [{name: i, source: debootstrap, path: x}]", "'path' was unexpected"),
        ("- networks: [{name: n, subnet: 172.16.0.0/24}]", "'subnet' was unexpected"),
        ("- tasks: [{file: {dst: /a, dest: /a, content: b}}]", "'dst' was unexpected"),
        ("- vms: [{image: i}]", "'name' is a required property"),
        ("- images: [{name: i, source: import}]", "'path' is a required property"),
        ("- images: [{name: i}]", "'source' is a required property"),
        ("- tasks: [{file: {dest: /a}}]", "'content' is a required property"),
        ("- tasks: [{file: }]", "is not of type 'object'"),
        ("- vms: [{name: v, vcpus: '2'}]", "not valid under any"),
        ("- vms: [{name: v, vcpus: 0}]", "less than the minimum"),
        ("- vms: [{name: v, memory: 512}]", "less than the minimum"),
        ("- vms: [{name: v, memory: 512MB}]", "not valid under any"),
        ("- vms: [{name: v, state: runing}]", "not valid under any"),
        ("- vms: [{name: v, tags: db}]", "not valid under any"),
        ("- vms: [{name: v, jailed: yes}]", "not valid under any"),
        ("- vms: [{name: Web_1}]", "not valid under any"),
        ("- vms: {name: v}", "is not of type 'array', 'null'"),
        ("- images: [{name: i, source: debotstrap}]", "not valid under any"),
        ("- tasks: [{file: {dest: /a, content: b}, unmount: {target: /a}}]", "valid under each of"),
        ("- tasks: [{name: nothing to do}]", "not valid under any"),
        ("- tasks: [{greet: {whom: me}}]", "'greet' was unexpected"),
        ("- tasks: [{file: {dest: etc/motd, content: b}}]", "not valid under any"),
        ("- tasks: [{file: {dest: /etc/, content: b}}]", "not valid under any"),
        ("- tasks: [{file: {dest: /a, content: b, mode: rw}}]", "not valid under any"),
        ("- tasks: [{file: {dest: /a, content: 1}}]", "is not of type 'string'"),
        ("- tasks: [{file: {dest: /a, content: b}, when: '{{ x }}'}]", "not valid under any"),
        ("- vars: {vm: 1}", "should not be valid"),
        ("- {include: a.yml, vms: []}", "'vms' was unexpected"),
        ("- include: [a.yml]", "is not of type 'string'"),
        ("name: x", "is not of type 'array'"),
        (test_mistakes.WRONG, ""),
    ],
)  # fmt: skip
def test_wrong_text_is_wrong(text: str, said: str) -> None:
    found = mistakes(text)
    assert any(said in message for message in found), found


def test_keys_are_those_that_are_checked() -> None:
    defined = SCHEMA["$defs"]
    assert list(defined["play"]["properties"]) == list(PLAY_KEYS)
    assert set(defined["include"]["properties"]) == set(INCLUDE_KEYS)
    assert set(defined["vm"]["properties"]) == {*keys_of(VmKeys), "loop"}
    assert set(defined["defaults"]["properties"]) == {*keys_of(VmKeys)} - {"name"}
    assert set(defined["task"]["properties"]) == {*KEYWORDS, *BUILT_IN.modules}
    assert set(_LIMITS) <= set(keys_of(VmKeys))
    for name, source in BUILT_IN.image_sources.items():
        assert set(defined[f"image-{name}"]["properties"]) == {*keys_of(ImageKeys), *keys_of(source.options)}
    for name, kind in BUILT_IN.network_kinds.items():
        assert set(defined[f"network-{name}"]["properties"]) == {*keys_of(NetworkKeys), *keys_of(kind.options)}
    for name, module in BUILT_IN.modules.items():
        assert set(defined[f"module-{name}"]["properties"]) == set(keys_of(module.options))


GOOD_VALUES: dict[type, list[object]] = {
    Size: [0, 512, "4GiB", "4 GiB", "12", " 7B "],
    FileMode: ["0644", "644", "04755", "000"],
    scalars.GuestFilePath: ["/a", "/etc/motd", "/a..b/..c", "/a b/ä"],
    scalars.GuestPath: ["/", "/a/", "//a/./b"],
    scalars.OwnerId: [0, 2**32 - 2],
    scalars.Subnet: ["172.16.0.0/24", "10.0.0.0/255.255.255.0"],
    scalars.Ipv4Address: ["192.0.2.53"],
    scalars.NamespaceName: ["lab", "_a.b-c", "x" * 63],
}
BAD_VALUES: dict[type, list[object]] = {
    Size: [-1, "4GB", "4g", "", True, 1.5, "-1MiB"],
    FileMode: ["", "rw", "99", "07777777", True],
    scalars.GuestFilePath: ["/", "/etc/", "a", "/a/../b", "/a\tb", ""],
    scalars.GuestPath: ["a", "..", "/a/..", "/a\x7f"],
    scalars.OwnerId: [-1, 2**32 - 1, "0", "root"],
    scalars.Subnet: ["172.16.0.0", "lan", 3],
    scalars.Ipv4Address: ["192.0.2", "::1", 3],
    scalars.NamespaceName: ["", "a/b", "-a", "x" * 64],
}


def test_every_kind_of_value_is_described() -> None:
    own = {each for each in vars(scalars).values() if isinstance(each, type) and "parse" in vars(each)}
    assert {each for each in own if each is not scalars.Written} == set(_WRITTEN) == set(GOOD_VALUES)


@pytest.mark.parametrize("kind", GOOD_VALUES, ids=lambda kind: kind.__name__)
def test_value_is_right_where_its_type_takes_it(kind: Any) -> None:
    described = jsonschema.Draft202012Validator(_WRITTEN[kind])
    for value in GOOD_VALUES[kind]:
        kind.parse(value)
        assert described.is_valid(value), value
    for value in BAD_VALUES[kind]:
        with pytest.raises(ValueError, match=r"\w"):
            kind.parse(value)
        assert not described.is_valid(value), value


PRIVATE, EIGHT = FileMode(0o600), Size.parse("8MiB")


@dataclass(frozen=True)
class Rule:
    port: int
    mode: FileMode = PRIVATE


@dataclass(frozen=True)
class OwnOptions:
    rules: tuple[Rule, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    size: Size = EIGHT
    """How large it is."""


def test_options_of_other_plugins_are_described_down_to_the_last() -> None:
    nothing: Any = None
    schema = schema_of(Declared({"own": GuestModule("own", OwnOptions, nothing)}, {"own": ImageSource("own", Rule)}))
    assert (
        mistakes("- tasks: [{own: {rules: [{port: 1, mode: 0600}, '{{ r }}'], labels: {a: 1}}}, {own: }]", schema) == []
    )
    assert mistakes("- images: [{name: i, source: own, port: '{{ p }}'}]", schema) == []
    for wrong in ("rules: [{prot: 1}]", "rules: [{port: 1, prot: 1}]", "rules: [3]", "labels: {a: b}", "size: big"):
        assert mistakes(f"- tasks: [{{own: {{{wrong}}}}}]", schema) != [], wrong
    size = schema["$defs"]["module-own"]["properties"]["size"]
    assert (size["default"], size["description"]) == ("8MiB", "How large it is.")


def test_command_prints_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(cli, ["schema"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["$defs"]["vm"] == SCHEMA["$defs"]["vm"]
    assert not (tmp_path / "home").exists()
