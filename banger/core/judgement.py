"""What is wrong with images and VMs as far as it can be told without a host: judged on guests that stand for real ones.

Pure but for the files that a playbook names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from banger.core import tasks
from banger.core.assemble import problems_of_files
from banger.core.request import Declared, ImageRequest, Judge, VmRequest
from banger.errors import Place, PlaybookError, Problem
from banger.guestconfig import GuestConfig
from banger.identity import Nic, SshEndpoint
from banger.types import HostKey, Image, ImageFacts, ImageSpec, Network, Size, Vm

_ID = "0000000000"
_NOWHERE = Path("/nonexistent")
_CARD = Nic("", "", "52:54:00:00:00:00", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 22))


def problems_of(
    images: Sequence[ImageRequest], vms: Sequence[VmRequest], networks: Sequence[Network], declared: Declared
) -> list[Problem]:
    """All that is wrong with these, each VM judged with the image and the network that it names."""
    return [problem for image in images for problem in _of_image(image, declared)] + problems_of_vms(
        images, vms, networks, declared
    )


def problems_of_vms(
    images: Sequence[ImageRequest], vms: Sequence[VmRequest], networks: Sequence[Network], declared: Declared
) -> list[Problem]:
    """What is wrong with these VMs; what several share, in `defaults` or a loop, is told of the first."""
    kinds = {network.name: network.plugin for network in networks}
    seeds = {image.spec.name: image.spec.work_seed_bytes for image in images}
    wanted = [vm for vm in vms if vm.state != "absent"]
    return list(
        news(
            [*_of_vm(vm, kinds.get(vm.network, ""), declared), *too_small_for_seed(vm, seeds.get(vm.image))]
            for vm in wanted
        )
    )


def news(each: Iterable[Sequence[Problem]]) -> Iterator[Problem]:
    """The problems of one thing after the other, without those at a place that one before had one at."""
    told: set[Place] = set()
    for problems in each:
        yield from (problem for problem in problems if problem.place not in told)
        told |= {problem.place for problem in problems if problem.place}


def too_small_for_seed(vm: VmRequest, seed_bytes: int | None) -> list[Problem]:
    """A work disk is made of its image's seed, where there is one."""
    size = vm.work_disk_bytes
    if seed_bytes is None or size is None or size >= seed_bytes:
        return []
    message = f"work_disk {Size(size)} of the VM '{vm.name}' is smaller than its image's work seed, {Size(seed_bytes)}"
    return [Problem(vm.place_of("work_disk"), message, f"work_disk: {Size(seed_bytes)} or more")]


def _of_image(request: ImageRequest, declared: Declared) -> list[Problem]:
    config, facts = GuestConfig(), {"image": tasks.ImageFacts(request.spec.name, _ID)}
    problems = tasks.contribute(config, request.tasks, facts, request.variables, declared.modules)
    problems += problems_of_files(config, (), [task.place for task in request.tasks])
    return problems + (_of_recipe(request.spec, declared.judge) if declared.judge else [])


def _of_recipe(spec: ImageSpec, judge: Judge) -> list[Problem]:
    try:
        judge.image_recipe(spec, _unread)
    except PlaybookError as error:
        return list(error.problems)
    return []


def _unread(path: Path) -> str:
    """In place of the digest of a file that could be read. Raises the OSError of one that could not."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    path.stat()
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return ""


def _of_vm(request: VmRequest, network_plugin: str, declared: Declared) -> list[Problem]:
    vm = _stand_in(request, network_plugin)
    image = Image(request.image, _ID, _NOWHERE, ImageFacts(fstab=None, kernel_release=None, rootfs_bytes=0))
    config = GuestConfig()
    if declared.judge:
        declared.judge.contribute_guest_config(config, vm, image)
    facts: dict[str, Any] = {"vm": tasks.VmFacts.of(vm), "image": tasks.ImageFacts.of(image)}
    problems = tasks.contribute(config, request.tasks, facts, request.variables, declared.modules)
    problems += problems_of_files(config, (), [task.place for task in request.tasks])
    return problems + (list(declared.judge.validate_vm(vm, image)) if declared.judge else [])


def _stand_in(request: VmRequest, network_plugin: str) -> Vm:
    """As the real one will be, but for all that a host or the records decide."""
    return Vm(
        directory=_NOWHERE,
        id=_ID,
        name=request.name,
        image=request.image,
        vcpus=request.vcpus,
        memory_bytes=request.memory_bytes,
        root_disk_bytes=request.root_disk_bytes,
        work_disk_bytes=request.work_disk_bytes,
        storage=request.storage,
        workdisk=request.workdisk,
        vmm=request.vmm,
        nic=replace(_CARD, network=request.network, plugin=network_plugin),
        authorized_keys=(),
        host_key=HostKey("", ""),
        running=request.state == "running",
        overlay_bytes=request.overlay_bytes,
        jailed=request.jailed,
        place=request.place,
        places=request.places,
    )
