"""Real guests: one home with the quickstart applied, shared by all tests here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.machine import PLAYBOOK, Banger, Traces, needs_guests, traces


@pytest.fixture(scope="session")
def before(banger: Banger) -> Traces:
    """What was there when the home had its keys and locks but no VM yet."""
    return traces(banger)


@pytest.fixture(scope="session")
def banger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Banger]:
    """A home under a short path, for sockets; an image cache from outside may be given to save the build."""
    needs_guests()
    home = tmp_path_factory.mktemp("b")
    if cache := os.environ.get("BANGER_TEST_IMAGES"):
        Path(cache).mkdir(parents=True, exist_ok=True)
        (home / "images").symlink_to(Path(cache).resolve())
    made = Banger(home)
    yield made
    made.run("destroy", PLAYBOOK, check=False)


@pytest.fixture(scope="session")
def applied(banger: Banger, before: Traces) -> Banger:
    """The quickstart, applied."""
    banger.run("apply", PLAYBOOK, timeout_s=1500)
    return banger
