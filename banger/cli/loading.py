"""Plugins for commands that need no host."""

from __future__ import annotations

from banger.cli.screen import say
from banger.core.configuration import Configuration
from banger.core.home import Home
from banger.core.plugins import Plugins
from banger.errors import HomeError


def load_plugins(*, without_home: bool = False) -> Plugins:
    """Every plugin that is not blocked. `without_home`: also where the home, which may block some, cannot be read."""
    try:
        configuration = Configuration.load(Home.from_environment())
    except HomeError as error:
        if not without_home:
            raise
        say(f"warning: {error.message}; going on without it", err=True)
        configuration = Configuration.of_environment()
    return Plugins.load(configuration.block_plugins)
