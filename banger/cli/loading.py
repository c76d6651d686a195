"""Plugins for commands that need no host."""

from __future__ import annotations

from banger.core.configuration import Configuration
from banger.core.home import Home
from banger.core.plugins import Plugins


def load_plugins() -> Plugins:
    """Every plugin that is not blocked."""
    return Plugins.load(Configuration.load(Home.from_environment()).block_plugins)
