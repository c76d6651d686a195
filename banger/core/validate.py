"""A playbook judged without a host: all that can be known before there are addresses, disks and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banger.core import judgement
from banger.core.playbook import Playbook, load
from banger.core.request import Declared
from banger.errors import PlaybookError


def validate(path: Path, declared: Declared, extra_vars: Mapping[str, Any]) -> Playbook:
    """Read a playbook and let its tasks and all plugins loose on guests that stand for the real ones.

    Raises PlaybookError.
    """
    playbook = load(path, declared, extra_vars)
    if problems := judgement.problems_of(playbook.images, playbook.vms, playbook.networks, declared):
        raise PlaybookError(problems)
    return playbook
