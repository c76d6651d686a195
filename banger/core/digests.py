"""What files hold, as sha256, remembered for files that stat(2) says are still the same: an image is gigabytes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from banger.core.home import Home
from banger.core.locks import make_private
from banger.core.shape import json_of

_SETTLED_NS = 2 * 10**9
"""A file that was changed this shortly ago may change again within one tick of its clock; it is not remembered."""


class Digests:
    """Looks at files, and writes nothing before `save`."""

    def __init__(self, home: Home) -> None:
        self._path = home.cache / "digests.json"
        self._known: dict[str, list[object]] | None = None
        self._used: dict[str, list[object]] = {}

    def of(self, path: Path) -> str:
        """The sha256 of a file, in hex. Raises OSError, ValueError for a name that none can have."""
        found = path.stat()
        identity = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        match self._remembered().get(str(path)):
            case [*same, str(digest)] if same == identity:
                pass
            case _:
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    if os.fstat(stream.fileno()).st_ctime_ns != found.st_ctime_ns:
                        return digest  # it was changed while we read
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS:
            self._used[str(path)] = [*identity, digest]
        return digest

    def save(self) -> None:
        """Remember those that were asked for; nothing is written when all are remembered already.

        In place, so that a kill leaves no other file: half of one only means to read again, and so does a full disk.
        """
        known = self._remembered()
        if any(known.get(path) != entry for path, entry in self._used.items()):
            there = {path: entry for path, entry in known.items() if Path(path).exists()}
            with suppress(OSError):
                make_private(self._path.parent)
                self._path.write_bytes(json_of({**there, **self._used}))

    def _remembered(self) -> dict[str, list[object]]:
        if self._known is None:
            try:
                known = json.loads(self._path.read_bytes())
            except (OSError, ValueError, RecursionError):  # it is a cache
                known = {}
            self._known = known if isinstance(known, dict) else {}
        return self._known
