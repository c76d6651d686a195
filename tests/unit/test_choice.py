"""What `auto` stands for: decided by what plugins need and the host has, kept for VMs that are recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from banger.core.choice import Choice
from banger.core.plugins import Plugins
from banger.core.request import AUTO, VmRequest
from banger.errors import Place
from banger.hooks import hookimpl
from banger.needs import Need, program
from banger.testing import SimulatedHost
from banger.types import Network

REQUEST = VmRequest(
    name="web",
    image="tiny",
    vcpus=1,
    memory_bytes=2**29,
    root_disk_bytes=2**32,
    work_disk_bytes=None,
    overlay_bytes=None,
    network=AUTO,
    storage=AUTO,
    workdisk="ext4",
    vmm=AUTO,
    jailed=False,
    state="running",
    tags=(),
    authorized_keys=(),
    tasks=(),
    variables={},
    place=Place("p.yml", 1, 1),
)
TAP, USER = Network("lab", "tap", None), Network("plain", "user", None)


class Needing:
    """A plugin that needs one program."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    @hookimpl
    def register_needs(self) -> list[Need]:
        return [program(self._wanted, f"apt install {self._wanted}")]


def choice(missing: set[str] = frozenset(), without: tuple[str, ...] = ()) -> Choice:  # type: ignore[assignment]
    """On a host without these programs, and with these plugins not installed."""
    host = SimulatedHost()
    host.tools.missing |= missing
    plugins = {"storage_dm": "dmsetup", "network_tap": "nft", "vmm_firecracker": "firecracker"}
    return Choice.on(Plugins.of(**{name: Needing(p) for name, p in plugins.items() if name not in without}), host)


def settled(made: Choice, **wish: Any) -> tuple[str, str, str]:
    request = made.settled(replace(REQUEST, **wish), None, {"lab": TAP, "plain": USER})
    return request.storage, request.network, request.vmm


def test_auto_is_dm_tap_and_firecracker_where_all_is_there() -> None:
    assert settled(choice()) == ("dm", "tap", "firecracker")
    assert not choice().lacking


@pytest.mark.parametrize(
    ("missing", "path"),
    [
        ("dmsetup", ("overlay", "tap", "firecracker")),
        ("nft", ("dm", "user", "qemu")),
        ("firecracker", ("dm", "user", "qemu")),
    ],
)
def test_auto_passes_over_what_lacks_something_and_says_what(missing: str, path: tuple[str, str, str]) -> None:
    made = choice({missing})
    assert settled(made) == path
    (reason,) = made.lacking.values()
    assert missing in reason
    assert f"apt install {missing}" in reason


def test_auto_passes_over_a_plugin_that_is_not_installed() -> None:
    made = choice(without=("storage_dm",))
    assert settled(made)[0] == "overlay"
    assert made.lacking == {"storage_dm": "storage_dm is not in use"}


def test_auto_fits_what_is_named() -> None:
    assert settled(choice(), network="plain") == ("dm", "plain", "qemu")
    assert settled(choice(), network="lab") == ("dm", "lab", "firecracker")
    assert settled(choice(), vmm="qemu") == ("dm", "user", "qemu")
    assert settled(choice({"nft"}), vmm="firecracker") == ("dm", "tap", "firecracker")
    assert settled(choice({"firecracker"}), network="lab") == ("dm", "lab", "qemu")
    assert settled(choice(), storage="file", network="plain", vmm="qemu") == ("file", "plain", "qemu")
