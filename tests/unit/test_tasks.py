"""Tasks: what they put into the builder, and every mistake that only shows when a guest's facts are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from banger.core import tasks, yaml_source
from banger.core.tasks import ImageFacts, Task, VmFacts
from banger.errors import PluginError, Problem
from banger.guestconfig import GuestConfig
from banger.types import FileMode, GuestModule, GuestPath, HostKey, ModuleContext, Nic, SshEndpoint, Vm

READABLE = FileMode(0o644)
FACTS = {"vm": VmFacts("web-1", "10.0.2.15", "id1", 2, 2**29), "image": ImageFacts("debian-12", "abc")}


@dataclass(frozen=True, slots=True)
class FileOptions:
    dest: GuestPath
    content: str = ""
    mode: FileMode = READABLE
    src: str | None = None


@dataclass(frozen=True, slots=True)
class FailOptions:
    how: str = "plugin"


def _file(builder: GuestConfig, options: FileOptions, context: ModuleContext) -> None:
    content = options.content
    if options.src is not None:
        content = context.render(context.read_source(options.src).decode(), options.src)
    builder.write_file(options.dest, content, mode=options.mode)


def _fail(builder: GuestConfig, options: FailOptions, context: ModuleContext) -> None:
    errors = {"plugin": PluginError("no", hint="try"), "value": ValueError("bad"), "bug": KeyError("x")}
    raise errors.get(options.how) or SystemExit(3)


MODULES = {"file": GuestModule("file", FileOptions, _file), "fail": GuestModule("fail", FailOptions, _fail)}

Run = Callable[..., tuple[dict[str, str], list[str]]]


def parse(text: str) -> tuple[tuple[Task, ...], list[str]]:
    node, problems = yaml_source.load(text, "p.yml")
    assert isinstance(node, yaml_source.Sequence) and problems == []
    parsed = tasks.parse(node.items, MODULES, problems)
    return parsed, [str(problem) for problem in problems]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Lets tasks loose on an empty builder: what files there are then, and the problems."""
    monkeypatch.chdir(tmp_path)

    def run_it(text: str, *, builder: GuestConfig | None = None, **values: Any) -> tuple[dict[str, str], list[str]]:
        parsed, problems = parse(text)
        assert problems == []
        builder = builder or GuestConfig()
        found: list[Problem] = tasks.contribute(builder, parsed, FACTS, values, MODULES)
        return {file.path: file.content.decode() for file in builder.files()}, [str(problem) for problem in found]

    return run_it


def test_task_options_are_rendered_with_facts_and_variables(run: Run) -> None:
    text = '- file: {dest: "/etc/{{ vm.name }}", content: "{{ vm.ip }} {{ image.name }} {{ team }}", mode: 0600}'
    assert run(text, team="web") == ({"/etc/web-1": "10.0.2.15 debian-12 web"}, [])


def test_task_when_decides(run: Run) -> None:
    text = """\
- {file: {dest: /a}, when: vm.name.startswith(team)}
- {file: {dest: /b}, when: [true, vm.vcpus > 2]}
- {file: {dest: /c}, when: false}
"""
    assert run(text, team="web") == ({"/a": ""}, [])


def test_task_loop_runs_once_for_each_item_and_asks_when_each_time(run: Run) -> None:
    text = '- {file: {dest: "/{{ item }}"}, loop: "{{ names }}", when: item != "b"}'
    assert run(text, names=["a", "b", "c"]) == ({"/a": "", "/c": ""}, [])


def test_task_overrides_a_plugin_and_is_named_as_origin(run: Run) -> None:
    builder = GuestConfig()
    builder.write_file("/etc/motd", "plugin", origin="guestconfig_x")
    assert run("- name: x\n  file: {dest: /etc/motd, content: mine}", builder=builder) == ({"/etc/motd": "mine"}, [])
    assert builder.files()[0].origin == "p.yml:1:3"


def test_task_template_file_is_read_beside_the_playbook(run: Run, tmp_path: Path) -> None:
    (tmp_path / "motd.j2").write_text("{{ vm.name }}\n")
    assert run("- file: {dest: /m, src: motd.j2}") == ({"/m": "web-1\n"}, [])


def test_task_problems_of_all_tasks_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "motd.j2").write_text("hello\n{{ vm.nmae }}\n")
    text = """\
- file: {dest: "/{{ vm.nmae }}"}
- file: {dest: "{{ vm.name }}"}
- file: {dest: /m, src: motd.j2}
- file: {dest: /m, src: mtod.j2}
- {file: {dest: /n}, when: taem == 1}
- {file: {dest: /n}, loop: "{{ team }}"}
- fail: {how: plugin}
- fail: {how: value}
- fail: {how: exit}
- file: {dest: /good}
"""
    files, problems = run(text, team="web")
    assert files == {"/good": ""}
    assert problems == [
        "p.yml:1:16: 'vm' has no 'nmae', in '/{{ vm.nmae }}' (did you mean 'name'?)",
        "p.yml:2:16: 'dest' of the module 'file' is not an absolute path in the guest: '{{ vm.name }}'"
        " (it must begin with /)",
        "p.yml:3:25: motd.j2:2: 'vm' has no 'nmae' (did you mean 'name'?)",
        "p.yml:4:25: cannot read 'mtod.j2': No such file or directory (did you mean 'motd.j2'?)",
        "p.yml:5:28: 'taem' is undefined, in 'taem == 1' (did you mean 'team'?)",
        "p.yml:6:28: 'loop' is not a list (write [1, 2] or '{{ range(2) }}')",
        "p.yml:7:3: the module 'fail': no (try)",
        "p.yml:8:3: the module 'fail': bad",
        "p.yml:9:3: the module 'fail' failed: it called sys.exit(3)",
    ]


def test_task_module_with_a_bug_says_where(run: Run) -> None:
    with pytest.raises(KeyError) as caught:
        run("- fail: {how: bug}")
    assert caught.value.__notes__ == ["in the module 'fail', for the task at p.yml:1:3"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- x", "1:3: a task is a mapping (- file: {dest: /etc/motd, content: hello})"),
        ("- fiel: {dest: /a}", "1:3: unknown module 'fiel' (did you mean 'file'?)"),
        ("- {file: {dest: /a}, wehn: x}", "1:22: unknown key 'wehn' in a task (did you mean 'when'?)"),
        ("- {file: {dest: /a}, fail: {}}", "1:22: a task has one module, this has 'file' and 'fail' (split it)"),
        ("- name: x", "1:3: a task needs a module (known: fail, file)"),
        ("- file: /a", "1:9: the options of 'file' are a mapping of keys and values"),
        ("- {file: {dest: /a}, when: {a: b}}", "1:28: 'when' is an expression, or a list of them"),
        ("- {file: {dest: /a}, tags: a}", "1:28: 'tags' of a task should be a list, not 'a' (write [a])"),
        ('- file: {dest: /a, content: "{{ x"}', "1:29: not a template: "),
        ('- file: {dest: "{{ later }}", mode: 8}', "1:37: 'mode' of the module 'file' is not a file mode: '8'"),
        ("- file: {dest: ../a}", "1:16: 'dest' of the module 'file' is not an absolute path in the guest: '../a'"),
    ],
)
def test_task_mistake_is_told_when_it_is_read(text: str, problem: str) -> None:
    (found,) = parse(text)[1]
    assert found.startswith(f"p.yml:{problem}")


def test_task_that_depends_on_facts_is_no_mistake_when_it_is_read() -> None:
    assert parse('- file: {dest: "{{ vm.anything }}", content: "{{ later }}"}')[1] == []


def test_task_module_without_options_takes_its_defaults() -> None:
    (task,), problems = parse("- fail:\n")
    assert (task.name, task.module, task.options.entries, problems) == ("fail", "fail", {}, [])


def test_vm_facts_come_from_the_vm(tmp_path: Path) -> None:
    nic = Nic(
        "lan", "user", "52:54:00:00:00:01", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 2222)
    )
    vm = Vm(
        *(tmp_path, "id1", "web-1", "debian-12", 2, 2**29, 2**32, None, "overlay", "ext4", "qemu", nic, ()),
        host_key=HostKey("private", "public"),
    )
    assert VmFacts.of(vm) == FACTS["vm"]
