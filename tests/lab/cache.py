"""What is made or fetched once and kept between runs: directories that are whole or not there at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_KEPT_S = 14 * 24 * 3600.0
"""How long something stays that is not used any more, because its recipe has changed."""


def cache_directory() -> Path:
    """$BANGER_LAB_CACHE, else banger-lab in the user's cache directory (XDG Base Directory Specification)."""
    if given := os.environ.get("BANGER_LAB_CACHE"):
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "banger-lab"


def cached(kind: str, recipe: Any, fill: Callable[[Path], None]) -> Path:
    """The directory that this recipe (anything JSON can say) makes; `fill` is given an empty one when there is none.

    Of several processes one fills it and the others wait. What one that was killed left behind is cleared away, and
    so is what other recipes of this kind made long ago.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    directory = cache_directory() / f"{kind}-{digest}"
    with locked(kind):
        if not directory.is_dir():
            _forget(kind)
            filling = directory.with_name(f".filling-{kind}")
            shutil.rmtree(filling, ignore_errors=True)
            filling.mkdir()
            try:
                fill(filling)
                filling.rename(directory)
            finally:
                shutil.rmtree(filling, ignore_errors=True)
        os.utime(directory)
    return directory


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Held by one process at a time; the kernel releases it when that ends, however it does."""
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _forget(kind: str) -> None:
    for directory in cache_directory().glob(f"{kind}-*"):
        if directory.is_dir() and directory.stat().st_mtime < time.time() - _KEPT_S:
            shutil.rmtree(directory, ignore_errors=True)
