"""A playbook judged without a host: all that can be known before there are addresses, disks and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from banger.core import tasks
from banger.core.assemble import problems_of_files
from banger.core.playbook import Playbook, load
from banger.core.request import Declared
from banger.errors import PlaybookError
from banger.guestconfig import GuestConfig

_IP = "10.0.2.15"
_ID = "0000000000"


def validate(path: Path, declared: Declared, extra_vars: Mapping[str, Any]) -> Playbook:
    """Read a playbook and let its tasks loose on guests that stand for the real ones. Raises PlaybookError."""
    playbook = load(path, declared, extra_vars)
    problems = []
    for image in playbook.images:
        facts: dict[str, Any] = {"image": tasks.ImageFacts(image.spec.name, _ID)}
        config = GuestConfig()
        problems += tasks.contribute(config, image.tasks, facts, image.variables, declared.modules)
        problems += problems_of_files(config, (), [task.place for task in image.tasks])
    for vm in playbook.vms:
        facts = {
            "vm": tasks.VmFacts(vm.name, _IP, _ID, vm.vcpus, vm.memory_bytes),
            "image": tasks.ImageFacts(vm.image, _ID),
        }
        config = GuestConfig()
        problems += tasks.contribute(config, vm.tasks, facts, vm.variables, declared.modules)
        problems += problems_of_files(config, (), [task.place for task in vm.tasks])
    if problems:
        raise PlaybookError(problems)
    return playbook
