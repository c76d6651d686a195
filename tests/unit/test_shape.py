"""JSON made values of ours again, or refused with the place of what does not fit."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from banger.core.shape import shaped
from banger.core.state import VmRecord
from banger.types import ImageFacts, Mount
from tests.unit.test_state import record


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(record("web"))))
    return found


@pytest.mark.parametrize("value", [record("web"), ImageFacts(None, "6.1", 7), Mount("a", "/b", "ext4", ("ro", "x"))])
def test_what_was_written_is_read_back_the_same(value: Any) -> None:
    assert shaped(type(value), json.loads(json.dumps(asdict(value)))) == value


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("vcpus", "1", "vcpus: '1' is not of type int"),
        ("vcpus", True, "vcpus: 'True' is not of type int"),
        ("tags", "web", "tags: 'web' is not a list"),
        ("tags", [1], "tags: '1' is not of type str"),
        ("work_disk_bytes", "1", "work_disk_bytes: '1' is not of type int"),
        ("network_options", [], "network_options: '[]' is not an object"),
        ("nic", None, "nic: not an object"),
        ("nic.ssh.port", None, "nic: ssh: port: 'None' is not of type int"),
        ("runtime.state", "asleep", "runtime: state: 'asleep' is not one of stopped, running"),
        ("another", 1, "'another' is not known"),
    ],
)
def test_value_that_does_not_fit_is_told_with_its_place(path: str, value: object, told: str) -> None:
    wrong = within = document()
    *above, last = path.split(".")
    for key in above:
        within = within[key]
    within[last] = value
    with pytest.raises(ValueError) as error:
        shaped(VmRecord, wrong)
    assert str(error.value) == told


def test_value_that_is_missing_is_told() -> None:
    wrong = document()
    del wrong["image"]
    with pytest.raises(ValueError, match="'image' is missing"):
        shaped(VmRecord, wrong)
