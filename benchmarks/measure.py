"""One command's cost, as the kernel accounts for it: wait4(2), children included."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """`cpu_s`: user and system time of the process and of all it waited for. `peak_bytes`: the largest of these."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def measure(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> tuple[Cost, str]:
    """Run a command to its end: its cost, and what it said on stderr. Raises RuntimeError when it fails.

    A process starts with the peak of the one that it was forked from, so this one must stay small.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out:
        begin = time.perf_counter()
        process = subprocess.Popen(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=said)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        wall_s = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
        if process.returncode:
            out.seek(0)
            text = out.read().decode("utf-8", "replace") + text
            raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}:\n{text[-4000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss * 1024), text


def best(costs: Iterable[Cost]) -> Cost:
    """The least CPU time and the least wall time, each by itself; the greatest peak."""
    costs = list(costs)
    return Cost(min(c.cpu_s for c in costs), min(c.wall_s for c in costs), max(c.peak_bytes for c in costs))


class Samples:
    """Costs by what was done and to how many VMs."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, int], list[Cost]] = defaultdict(list)

    def add(self, what: str, vms: int, cost: Cost) -> None:
        self._costs[what, vms].append(cost)

    def best(self, what: str, vms: int) -> Cost | None:
        """None when it was not measured."""
        costs = self._costs.get((what, vms))
        return best(costs) if costs else None

    def count(self, what: str, vms: int) -> int:
        return len(self._costs.get((what, vms), ()))
