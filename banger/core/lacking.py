"""What this host lacks for what is going to be made or started, found before anything is: the needs of its plugins.

Looking may spawn a process (a program is asked for its version), so only what changes is asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from banger.core.assemble import split_by_wish
from banger.core.choice import Answer, findings
from banger.core.images import ImagePlan
from banger.core.members import Member
from banger.core.plan import Plan, Verb
from banger.core.plugins import Plugins
from banger.errors import HostError
from banger.host import HostView
from banger.resource import Lifetime
from banger.scalars import some


@dataclass(frozen=True, slots=True)
class Lack:
    """One need of one plugin that is not met, and the subjects (`vm/web-1`, `image/debian-12`) that wait for it."""

    answer: Answer
    subjects: tuple[str, ...]

    @property
    def message(self) -> str:
        names = some([subject.partition("/")[2] for subject in self.subjects], 3)
        return f"{self.answer.plugin} needs {self.answer.need}: {self.answer.finding.found}; for {names}"

    @property
    def event(self) -> dict[str, Any]:
        hint = self.answer.finding.cure or None
        return {"type": "warning", "message": self.message, "hint": hint, "subjects": list(self.subjects)}


def lacking(plugins: Plugins, host: HostView, uses: Mapping[str, Iterable[str]]) -> list[Lack]:
    """What is not met of what the plugins need that each subject uses."""
    asked = sorted({plugin for used in uses.values() for plugin in used})
    answers = findings(plugins, host, asked) if asked else []
    users = {plugin: tuple(subject for subject, used in uses.items() if plugin in used) for plugin in asked}
    return [Lack(each, users[each.plugin]) for each in answers if each.always and not each.finding.met]


def refusal(lacks: Sequence[Lack]) -> HostError:
    """All of it in one error, with every cure once."""
    cures = list(dict.fromkeys(cure for lack in lacks if (cure := lack.answer.finding.cure)))
    said = [lack.message for lack in lacks]
    message = said[0] if len(said) == 1 else "\n".join(["this host lacks what that takes:", *(f"  {s}" for s in said)])
    return HostError(message, hint="; ".join(cures) or None)


def used_by_image(image: ImagePlan, todo: Plan) -> list[str]:
    """The source, when its part of the image is to be made; what customises it is the core's."""
    own = image.resources if image.directory == image.base else image.resources[:-1]
    keys = {resource.key for resource in own}
    made = any(action.resource.key in keys for action in todo.actions if action.verb is Verb.CREATE)
    return [f"image_{image.recipe.source}"] if made and image.recipe else []


def used_by_vm(member: Member, todo: Plan | None) -> list[str]:
    """The plugins of the disks that are to be made or changed, and of all when the VM is to be started.

    `todo`: what there is to do; None for a VM of which there is nothing yet. Taking away needs nothing.
    """
    vm = member.vm
    if todo:
        made = [action.resource for action in todo.actions if action.verb in (Verb.CREATE, Verb.UPDATE)]
    else:
        made, _ = split_by_wish(member.resources, running=vm.running)
    starts = any(resource.key == vm.vmm_key for resource in made)
    disks = any(resource.lifetime is Lifetime.DISK and resource.key != vm.directory_key for resource in made)
    used = [f"storage_{vm.storage}", *([f"workdisk_{vm.workdisk}"] if vm.work_disk_bytes is not None else [])]
    return [*(used if starts or disks else []), *([f"network_{vm.nic.plugin}", f"vmm_{vm.vmm}"] if starts else [])]
