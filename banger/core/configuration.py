"""The user's settings: `config.toml` in the state directory, and the environment, which wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from banger.core.home import Home
from banger.errors import UsageError


@dataclass(frozen=True, slots=True)
class Configuration:
    """`block_plugins`: plugins that are not loaded (`BANGER_BLOCK_PLUGINS`, separated by commas, adds to it)."""

    block_plugins: frozenset[str] = frozenset()

    @classmethod
    def load(cls, home: Home, environment: Mapping[str, str] = os.environ) -> Configuration:
        """Raises UsageError with the file and what is wrong in it."""
        blocked = {name.strip() for name in environment.get("BANGER_BLOCK_PLUGINS", "").split(",")} - {""}
        try:
            text = home.configuration.read_text()
        except FileNotFoundError:
            return cls(frozenset(blocked))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read {home.configuration}: {error}", hint="choose another $BANGER_HOME"
            ) from error
        return cls(frozenset(blocked | _blocked_in(text, str(home.configuration))))


def _blocked_in(text: str, file: str) -> set[str]:
    import tomllib  # only when there is a file to read

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: {error}", hint='mend it: block_plugins = ["guestconfig_net"]') from error
    if unknown := set(document) - {"block_plugins"}:
        raise UsageError(f"{file}: unknown setting {sorted(unknown)[0]!r}", hint="the only setting is block_plugins")
    names = document.get("block_plugins", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{file}: block_plugins is not a list of names", hint='block_plugins = ["guestconfig_net"]')
    return set(names)
