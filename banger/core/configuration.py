"""The user's settings: `config.toml` in the state directory, and the environment, which wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from banger.core.home import Home
from banger.errors import HomeError


@dataclass(frozen=True, slots=True)
class Configuration:
    """`block_plugins`: plugins that are not loaded (`BANGER_BLOCK_PLUGINS`, separated by commas, adds to it)."""

    block_plugins: frozenset[str] = frozenset()

    @classmethod
    def load(cls, home: Home, environment: Mapping[str, str] = os.environ) -> Configuration:
        """Raises HomeError with the file and what is wrong in it."""
        blocked = cls.of_environment(environment).block_plugins
        try:
            text = home.configuration.read_text()
        except FileNotFoundError:
            return cls(blocked)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise HomeError(
                f"cannot read {home.configuration}: {reason}", hint="choose another $BANGER_HOME"
            ) from error
        return cls(blocked | _blocked_in(text, str(home.configuration)))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Configuration:
        """What is known without a home."""
        return cls(frozenset(environment.get("BANGER_BLOCK_PLUGINS", "").replace(" ", "").split(",")) - {""})


def _blocked_in(text: str, file: str) -> set[str]:
    import tomllib  # only when there is a file to read

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise HomeError(f"{file}: {error}", hint='mend it: block_plugins = ["guestconfig_net"]') from error
    if unknown := set(document) - {"block_plugins"}:
        raise HomeError(f"{file}: unknown setting {sorted(unknown)[0]!r}", hint="the only setting is block_plugins")
    names = document.get("block_plugins", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise HomeError(f"{file}: block_plugins is not a list of names", hint='block_plugins = ["guestconfig_net"]')
    return set(names)
