"""What was measured where: the machine, its programs, the checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.scene import ROOT

_LIBRARIES = ("banger", "click", "jinja2", "pluggy", "pydantic", "pyyaml", "tinydb")


def describe(scratch: Path) -> dict[str, Any]:
    """As it is now; `scratch`: where the files lie."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "file_system": _said("stat", "-f", "-c", "%T", str(scratch)),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "mke2fs": _said("/usr/sbin/mke2fs", "-V").partition(" (")[0],
        "ssh": _said("ssh", "-V"),
        "commit": _said("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "changed_files": len(
            _said("git", "--no-optional-locks", "-C", str(ROOT), "status", "--porcelain").splitlines()
        ),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _said(*argv: str) -> str:
    """Empty when there is no such program, or it fails."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
