"""The door to plugins: everyone is asked, nobody silently, and errors name who it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from banger.core.plugins import BUILT_IN, Plugins
from banger.errors import DiskError, PluginError
from banger.guestconfig import GuestConfig
from banger.hooks import hookimpl
from banger.types import GuestModule, NetworkSetup, Problem, UserAttachment

VM: Any = SimpleNamespace(name="web", nic=SimpleNamespace(plugin="x"), vmm="x", vmm_key="web/vmm")
IMAGE: Any = SimpleNamespace()


class Plugin:
    """Hooks as attributes, as a module has them; each one is itself alone."""


def plugin(**hooks: Any) -> Plugin:
    made = Plugin()
    for name, function in hooks.items():
        setattr(made, name, hookimpl(function))
    return made


def writes(path: str, content: str) -> Plugin:
    def contribute_guest_config(builder: GuestConfig) -> None:
        builder.write_file(path, content)

    return plugin(contribute_guest_config=contribute_guest_config)


def test_load_has_every_built_in_active() -> None:
    infos = {info.name: info for info in Plugins.load(third_party=False).infos()}
    assert set(infos) == set(BUILT_IN)
    assert {info.status for info in infos.values()} == {"active"}
    assert all(info.hooks for info in infos.values())


def test_load_of_a_blocked_plugin_leaves_it_out() -> None:
    plugins = Plugins.load(frozenset({"guestconfig_net"}), third_party=False)
    blocked = {info.name for info in plugins.infos() if info.status == "blocked"}
    assert blocked == {"guestconfig_net"}
    assert "guestconfig_net" not in {name for name, _ in plugins._implementations("contribute_guest_config")}


def test_contribute_asks_every_plugin() -> None:
    builder = GuestConfig()
    Plugins.of(a=writes("/a", "1"), b=writes("/b", "2")).contribute_guest_config(builder, VM, IMAGE)
    assert [(f.path, f.origin) for f in builder.files()] == [("/a", "a"), ("/b", "b")]


def test_contribute_of_two_that_disagree_names_both() -> None:
    with pytest.raises(PluginError, match=r"first.*second"):
        Plugins.of(first=writes("/a", "1"), second=writes("/a", "2")).contribute_guest_config(GuestConfig(), VM, IMAGE)


def test_hook_that_raises_is_an_error_that_names_the_plugin() -> None:
    def contribute_guest_config(builder: GuestConfig) -> None:
        raise KeyError("oops")

    plugins = Plugins.of(culprit=plugin(contribute_guest_config=contribute_guest_config))
    with pytest.raises(PluginError, match=r"plugin culprit \(given 0\) failed in contribute_guest_config: KeyError"):
        plugins.contribute_guest_config(GuestConfig(), VM, IMAGE)


def test_hook_that_raises_while_it_generates_names_the_plugin() -> None:
    def register_guest_modules() -> Iterator[GuestModule]:
        yield GuestModule("a", object, lambda *a: None)
        raise ValueError("late")

    plugins = Plugins.of(culprit=plugin(register_guest_modules=register_guest_modules))
    with pytest.raises(PluginError, match="plugin culprit"):
        plugins.guest_modules()


def test_hook_that_ends_the_process_is_its_plugin_s_failure() -> None:
    def validate_vm(vm: Any) -> list[Any]:
        sys.exit(0)

    with pytest.raises(PluginError, match=r"plugin culprit \(given 0\) failed in validate_vm: SystemExit: 0"):
        Plugins.of(culprit=plugin(validate_vm=validate_vm)).validate_vm(VM, IMAGE)


@pytest.mark.parametrize(
    ("hook", "answer", "told"),
    [
        ("validate_vm", ["too small"], "returned 'too small', which is not a Problem"),
        ("validate_vm", "too small", "returned 't', which is not a Problem"),
        ("validate_vm", Problem(None, "too small"), "returned Problem, not a list of Problems"),
        ("find_leftovers", 3, "returned int, not a list of Leftovers"),
        ("teardown_handles", ["x"], "returned 'x', which is not a Resource"),
        ("register_guest_modules", ["file"], "returned 'file', which is not a GuestModule"),
        ("register_image_source", "tar", "returned 'tar', which is not a ImageSource"),
    ],
)
def test_answer_of_another_kind_names_the_plugin(hook: str, answer: Any, told: str) -> None:
    plugins = Plugins.of(culprit=plugin(**{hook: lambda: answer}))
    questions: dict[str, Callable[[], object]] = {
        "validate_vm": lambda: plugins.validate_vm(VM, IMAGE),
        "find_leftovers": lambda: plugins.find_leftovers(Path(), (), IMAGE),
        "teardown_handles": lambda: plugins.teardown_handles(VM, {}),
        "register_guest_modules": plugins.guest_modules,
        "register_image_source": plugins.image_sources,
    }
    with pytest.raises(PluginError) as error:
        questions[hook]()
    assert error.value.message == f"plugin culprit (given 0) {told}"


def test_hook_with_a_known_error_keeps_it() -> None:
    def setup_network(vm: Any) -> NetworkSetup:
        raise DiskError("no room")

    with pytest.raises(DiskError, match="no room"):
        Plugins.of(network_x=plugin(setup_network=setup_network)).setup_network(VM)


def test_two_plugins_with_one_module_name_both() -> None:
    def register_guest_modules() -> list[GuestModule]:
        return [GuestModule("file", object, lambda *a: None)]

    both = plugin(register_guest_modules=register_guest_modules)
    again = plugin(register_guest_modules=register_guest_modules)
    with pytest.raises(PluginError, match=r"'file'.*one.*two") as error:
        Plugins.of(one=both, two=again).guest_modules()
    assert error.value.hint == "block one of them: BANGER_BLOCK_PLUGINS=two"


def test_one_that_is_not_there_says_which_are() -> None:
    def setup_network(vm: Any) -> NetworkSetup:
        return NetworkSetup((), UserAttachment(True, ()))

    with pytest.raises(PluginError, match="no plugin network_x") as error:
        Plugins.of(network_y=plugin(setup_network=setup_network)).setup_network(VM)
    assert error.value.hint == "those that do: network_y"


def test_one_that_answers_wrongly_is_named() -> None:
    def setup_network(vm: Any) -> Any:
        return "a string"

    with pytest.raises(PluginError, match=r"plugin network_x.*returned str, not NetworkSetup"):
        Plugins.of(network_x=plugin(setup_network=setup_network)).setup_network(VM)


def test_launch_vmm_without_the_vmm_resource_is_refused() -> None:
    def launch_vmm(vm: Any) -> list[Any]:
        return []

    with pytest.raises(PluginError, match="returned no resource 'web/vmm'"):
        Plugins.of(vmm_x=plugin(launch_vmm=launch_vmm)).launch_vmm(VM, IMAGE, (), UserAttachment(True, ()), (), ())


def _install(site: Path, name: str, body: str) -> None:
    """What pip leaves behind for a distribution with one module and one entry point."""
    (site / f"banger_{name}.py").write_text(body)
    info = site / f"banger_{name}-4.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: banger-{name}\nVersion: 4.5\n")
    (info / "entry_points.txt").write_text(f"[banger]\n{name} = banger_{name}\n")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("from banger.hooks import hookimpl\n@hookimpl\ndef validate_vm(vm): ...\n", "active"),
        ("raise RuntimeError('broken at import')\n", "failed: RuntimeError: broken at import"),
        ("import sys\nsys.exit(3)\n", "failed: SystemExit: 3"),
        (
            "from banger.hooks import hookimpl\n@hookimpl\ndef validate_wm(vm): ...\n",
            "failed: PluginError: there is no hook 'validate_wm'; did you mean 'validate_vm'?",
        ),
        (
            "from banger.hooks import hookimpl\n@hookimpl\ndef validate_vm(nonsense): ...\n",
            "failed: PluginValidationError",
        ),
    ],
)
def test_load_of_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: str) -> None:
    _install(tmp_path, "extra", body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "banger_extra", raising=False)
    plugins = Plugins.load()
    info = next(info for info in plugins.infos() if info.name == "extra")
    assert (info.version, info.source) == ("4.5", "banger-extra")
    assert info.status.startswith(status)
    assert "file" in plugins.guest_modules(), "one broken plugin does not stop the rest"
