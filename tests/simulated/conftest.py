"""A world of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulated.world import World


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that is here minds no other test beside it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.beside)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name, because sockets lie below it."""
    return tmp_path_factory.mktemp("w")


@pytest.fixture
def world(short: Path) -> World:
    return World(short)
