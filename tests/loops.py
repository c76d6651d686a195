"""Loop devices in tests: whether one is gone."""

from __future__ import annotations

import time
from pathlib import Path

from banger.host import Host
from banger.testing import SimulatedHost

_PATIENCE_S = 20.0


def gone(host: Host, file: Path) -> bool:
    """Soon: whoever else on this machine looks at all loop devices is for a moment the last user of this one too."""
    deadline = time.monotonic() + _PATIENCE_S
    while found := host.loops.of(file):
        if isinstance(host, SimulatedHost) or time.monotonic() > deadline:
            return not found
        time.sleep(0.01)
    return True
