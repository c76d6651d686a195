"""A plan that was kept: what was going to be done, to be done later exactly so, or not at all.

It names the playbook and how it was to be applied, the ids that new VMs were going to have (all else follows from
those), and a fingerprint of each subject's plan and wish. Of what is secret it has at most the extra variables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from banger.core import saved_guest
from banger.core.members import Member
from banger.core.plan import Plan
from banger.core.request import KEPT_PLAN
from banger.core.selection import Selection
from banger.errors import UsageError

_VERSION = 1


@dataclass(frozen=True, slots=True)
class PlanFile:
    """`playbook` is absolute. `ids`: of VMs that are not there yet, by name. `fingerprints`: by subject."""

    playbook: Path
    restart: bool
    recreate: bool
    extra_vars: Mapping[str, Any]
    selection: Selection
    ids: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Those of an apply, by name."""
        names = ("restart", "recreate", "extra_vars", "selection")
        return {name: getattr(self, name) for name in names}

    def text(self) -> str:
        """JSON, indented."""
        document = {
            KEPT_PLAN: _VERSION,
            "playbook": str(self.playbook),
            "restart": self.restart,
            "recreate": self.recreate,
            "extra_vars": dict(self.extra_vars),
            "limit": self.selection.limit,
            "tags": self.selection.tags,
            "skip_tags": self.selection.skip_tags,
            "ids": dict(self.ids),
            "fingerprints": dict(self.fingerprints),
        }
        return json.dumps(document, indent=1) + "\n"


def is_kept(head: str) -> bool:
    """Whether a text with this beginning is a plan that was kept."""
    return head.lstrip().startswith("{") and f'"{KEPT_PLAN}"' in head


def read(path: Path) -> PlanFile | None:
    """The plan that is kept in a file; None when it is something else, a playbook. Raises UsageError for a bad one."""
    if not path.is_file():
        return None  # a pipe can be read only once
    try:
        text = path.read_text(encoding="utf-8")
        if not is_kept(text[:64]):
            return None
    except (OSError, UnicodeDecodeError):
        return None  # whoever reads it as a playbook says why
    try:
        document = json.loads(text)
        if document[KEPT_PLAN] != _VERSION:
            raise ValueError(f"it is of version {document[KEPT_PLAN]}, and this banger reads {_VERSION}")
        selection = Selection(*(tuple(document[key]) for key in ("limit", "tags", "skip_tags")))
        return PlanFile(
            Path(document["playbook"]),
            bool(document["restart"]),
            bool(document["recreate"]),
            dict(document["extra_vars"]),
            selection,
            dict(document["ids"]),
            dict(document["fingerprints"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no plan that can be read: {error}", hint="banger plan PLAYBOOK -o FILE") from error


def fingerprint(todo: Plan, member: Member | None = None) -> str:
    """Of what is going to be done about a subject and, for a VM, of all that it is going to be."""
    digest = hashlib.sha256(str(todo.refusal or "").encode())
    for action in todo.actions:
        digest.update(f"{action.verb.value} {action.resource.key} {action.reason}\n".encode())
    if member:
        vm = member.vm
        digest.update(repr((vm.image, member.image.digest, vm.vcpus, vm.memory_bytes, vm.root_disk_bytes)).encode())
        digest.update(repr((vm.work_disk_bytes, vm.overlay_bytes, vm.storage, vm.workdisk, vm.vmm, vm.jailed)).encode())
        digest.update(repr((vm.running, vm.nic, vm.network, member.record.tags)).encode())
        digest.update(repr(_without_origins(saved_guest.document_of(member.config))).encode())
    return digest.hexdigest()


def _without_origins(guest: dict[str, Any]) -> dict[str, Any]:
    """What a guest gets, wherever in a playbook that stands and however the playbook was named."""
    return {**guest, "files": [{key: f[key] for key in f if key != "origin"} for f in guest["files"]]}
