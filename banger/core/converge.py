"""`apply` and `destroy` of a playbook: check everything, build images, allocate, plan, and carry it out.

Everything that can be wrong with a playbook is found before the first effect. Intent is recorded before the effects
that make it true.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from banger.core import access, images, tasks
from banger.core.apply import NoJournal, Outcome, carry_out, in_parallel
from banger.core.assemble import assemble, hidden_files, split_by_wish
from banger.core.destroy import destroy_vm
from banger.core.handles import vmm_process
from banger.core.images import ImagePlan
from banger.core.locks import discard, locked
from banger.core.plan import Plan, plan
from banger.core.playbook import ImageRequest, Playbook, VmRequest, load
from banger.core.reconcile import reconcile
from banger.core.session import Session, VmJournal
from banger.core.state import Records, VmRecord, VmRuntime
from banger.errors import PlaybookError, Problem
from banger.guestconfig import GuestConfig
from banger.types import Image, Network, Nic, Vm


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How to apply. `forks`: how many VMs at a time."""

    check: bool = False
    restart: bool = False
    recreate: bool = False
    forks: int = field(default_factory=lambda: os.cpu_count() or 1)
    extra_vars: Mapping[str, Any] = field(default_factory=dict)


def read_playbook(session: Session, path: Path, extra_vars: Mapping[str, Any]) -> Playbook:
    """Load and check a playbook as far as it can be without the host. Raises PlaybookError with all problems."""
    return load(
        path,
        modules=session.plugins.guest_modules(),
        image_sources=session.plugins.image_sources(),
        network_kinds=session.plugins.network_kinds(),
        extra_vars=extra_vars,
    )


def apply(session: Session, path: Path, options: ApplyOptions) -> list[Outcome]:
    """Make the host as the playbook says; with `check`, only say what that would take."""
    session.report({"type": "version", "events": 1})
    playbook = read_playbook(session, path, options.extra_vars)
    with session.locked([] if options.check else [vm.name for vm in playbook.vms], f"banger apply {path}"):
        return _Apply(session, playbook, options).run()


def destroy(session: Session, path: Path, options: ApplyOptions) -> list[Outcome]:
    """Remove every VM the playbook names. Images stay: they are a cache that belongs to no one VM."""
    session.report({"type": "version", "events": 1})
    playbook = read_playbook(session, path, options.extra_vars)
    names = [vm.name for vm in playbook.vms]
    with session.locked(names, f"banger destroy {path}"):
        records = session.store.snapshot()
        return _destroy(session, {name: records.vm(name) for name in names}, options.forks)


def _destroy(session: Session, records: Mapping[str, VmRecord | None], forks: int) -> list[Outcome]:
    work = {}
    for name, record in records.items():
        gone = Outcome(f"vm/{name}", ok=1)
        work[name] = (lambda flag, r=record: destroy_vm(session, r)) if record else (lambda flag, o=gone: o)
    return in_parallel(work, forks, session.report)


@dataclass(frozen=True, slots=True)
class _Member:
    """One VM of a run, with everything planning needs."""

    request: VmRequest
    record: VmRecord
    vm: Vm
    image: Image
    config: GuestConfig


class _Apply:
    """One run of `apply`."""

    def __init__(self, session: Session, playbook: Playbook, options: ApplyOptions) -> None:
        self._session = session
        self._playbook = playbook
        self._options = options
        self._modules = session.plugins.guest_modules()
        self._wanted = [request for request in playbook.vms if request.state != "absent"]
        self._networks = {network.name: network for network in playbook.networks}

    def run(self) -> list[Outcome]:
        session, options = self._session, self._options
        image_plans, problems = self._plan_images()
        drafts = self._members(image_plans, self._allocated(session.store.snapshot()), problems)
        if problems:
            raise PlaybookError(sorted(problems, key=_by_place))
        if options.check:
            built = {name: self._check_image(plan) for name, plan in image_plans.items()}
            plans = [self._plan(member) for member in drafts]
            return [*built.values(), *(self._told(plan) for plan in plans)]
        reconcile(session, frozenset(request.name for request in self._playbook.vms))
        outcomes = [self._build(image) for image in image_plans.values()]
        if any(outcome.error for outcome in outcomes):
            return outcomes
        absent = {r.name: session.store.snapshot().vm(r.name) for r in self._playbook.vms if r.state == "absent"}
        outcomes += _destroy(session, absent, options.forks)
        members = self._settle(image_plans, {draft.request.name: draft for draft in drafts})
        return outcomes + self._converge(members)

    # --- images

    def _plan_images(self) -> tuple[dict[str, ImagePlan], list[Problem]]:
        plans, problems = {}, []
        for request in self._playbook.images:
            config, found = self._customisation(request)
            problems += found
            plans[request.spec.name] = images.plan_image(
                self._session.home, self._session.plugins, request.spec, config
            )
        return plans, problems

    def _customisation(self, request: ImageRequest) -> tuple[GuestConfig, list[Problem]]:
        config = GuestConfig()
        facts = {"image": tasks.ImageFacts(request.spec.name, "")}
        return config, self._contribute(config, request, facts)

    def _check_image(self, image: ImagePlan) -> Outcome:
        return self._told(plan(f"image/{image.name}", images.needed(self._session.view, image), self._session.view, {}))

    def _build(self, image: ImagePlan) -> Outcome:
        session = self._session
        subject = f"image/{image.name}"
        todo = plan(subject, images.needed(session.view, image), session.view, {})
        if not todo.changes:
            return self._told(todo)
        lock = session.home.lock(f"image-{image.digest}")
        with locked(lock, purpose="building an image"):
            todo = plan(subject, images.needed(session.view, image), session.view, {})  # who held it may have built it
            self._announce(todo)
            outcome = in_parallel({subject: partial(_carry_out, session, todo, NoJournal())}, 1, session.report)[0]
            discard(lock)
        return outcome

    # --- VMs

    def _allocated(self, records: Records) -> dict[str, VmRecord]:
        """Every VM's record as this playbook wants it. What was chosen once for a VM stays chosen."""
        taken = [record.nic for record in records.vms()]
        allocated = {}
        for request in self._wanted:
            old = records.vm(request.name)
            network = self._networks[request.network]
            vm_id = old.id if old else secrets.token_hex(5)
            if old and (old.nic.network, old.nic.plugin) == (network.name, network.plugin):
                nic = old.nic
            else:
                nic = self._session.plugins.allocate_nic(network, vm_id, taken, self._session.view)
                taken.append(nic)
            allocated[request.name] = _record(self._session, request, old, vm_id, nic, network)
        return allocated

    def _members(
        self, image_plans: Mapping[str, ImagePlan], records: Mapping[str, VmRecord], problems: list[Problem]
    ) -> list[_Member]:
        """Each VM with its guest configuration; whatever is wrong with one is added to `problems`."""
        members = []
        for request in self._wanted:
            image = self._image(image_plans[request.image])
            record = replace(records[request.name], image_digest=image.digest)
            vm = replace(self._session.vm(record, running=request.state == "running"), place=request.place)
            config, found = self._configured(request, vm, image)
            problems += found
            problems += self._session.plugins.validate_vm(vm)
            members.append(_Member(request, record, vm, image, config))
        return members

    def _image(self, image: ImagePlan) -> Image:
        view = self._session.view
        built = view.files.status(image.directory / images.FACTS) is not None
        facts = images.read_facts(view, image.directory) if built else images.UNBUILT
        return Image(image.name, image.digest, image.directory, facts)

    def _configured(self, request: VmRequest, vm: Vm, image: Image) -> tuple[GuestConfig, list[Problem]]:
        config = GuestConfig()
        self._session.plugins.contribute_guest_config(config, vm, image)
        facts = {"vm": tasks.VmFacts.of(vm), "image": tasks.ImageFacts.of(image)}
        return config, self._contribute(config, request, facts)

    def _contribute(
        self, config: GuestConfig, request: VmRequest | ImageRequest, facts: Mapping[str, Any]
    ) -> list[Problem]:
        base = self._playbook.directory
        problems = tasks.contribute(config, request.tasks, facts, request.variables, self._modules, base)
        return problems + hidden_files(config, [task.place for task in request.tasks])

    def _settle(self, image_plans: Mapping[str, ImagePlan], drafts: Mapping[str, _Member]) -> list[_Member]:
        """Record what is wanted, make the keys, and put the final members together."""
        session = self._session
        if self._wanted:
            access.ensure_ssh_key(session.host, session.home)
        with session.store.transaction() as records:
            allocated = self._allocated(records)
            for record in allocated.values():
                digest = image_plans[record.image].digest
                records.put(replace(record, image_digest=digest))
        for record in allocated.values():
            access.ensure_host_key(session.host, record.directory, record.name)
        problems: list[Problem] = []
        members = self._members(image_plans, allocated, problems)
        if problems:  # they would have been found in the drafts, so only a changed host can lead here
            raise PlaybookError(problems)
        return members

    def _plan(self, member: _Member) -> Plan:
        resources = assemble(member.vm, member.image, member.config, self._session.plugins)
        wanted, unwanted = split_by_wish(resources, running=member.vm.running)
        return plan(
            f"vm/{member.vm.name}",
            wanted,
            self._session.view,
            self._session.handles.of(member.record.directory),
            unwanted=unwanted,
            restart=self._options.restart,
            recreate=self._options.recreate,
        )

    def _converge(self, members: Sequence[_Member]) -> list[Outcome]:
        session = self._session
        plans = [(member, self._plan(member)) for member in members]
        for _, todo in plans:
            self._announce(todo)
        starting = [m.record for m, todo in plans if todo.changes and m.vm.running]
        self._write([record.with_runtime(state="running", last_error="") for record in starting])
        work = {
            todo.subject: partial(_carry_out, session, todo, VmJournal(session.handles, member.record))
            for member, todo in plans
        }
        outcomes = in_parallel(work, self._options.forks, session.report)
        self._write([_settled(session, m, outcome) for (m, _), outcome in zip(plans, outcomes, strict=True)])
        return outcomes

    def _write(self, changed: Sequence[VmRecord]) -> None:
        now = {record.id: record for record in self._session.store.snapshot().vms()}
        if any(now.get(record.id) != record for record in changed):
            with self._session.store.transaction() as records:
                for record in changed:
                    records.put(record)

    def _announce(self, todo: Plan) -> None:
        actions = [
            {"verb": action.verb.value, "resource": action.resource.key, "reason": action.reason}
            for action in todo.actions
        ]
        self._session.report({"type": "plan", "subject": todo.subject, "actions": actions})

    def _told(self, todo: Plan) -> Outcome:
        self._announce(todo)
        pending = len(todo.pending)
        outcome = Outcome(todo.subject, len(todo.actions) - todo.changes - pending, todo.changes, pending)
        self._session.report(outcome.recap)
        return outcome


def _carry_out(session: Session, todo: Plan, journal: Any, cancelled: Any) -> Outcome:
    return carry_out(todo, session.host, journal, session.report, cancelled)


def _settled(session: Session, member: _Member, outcome: Outcome) -> VmRecord:
    """The record as it is after the run: what runs is found out, never assumed."""
    record = member.record
    alive = vmm_process(session.view.processes, record, session.handles.of(record.directory)) is not None
    error = str(outcome.error) if outcome.error else ""
    return record.with_runtime(state="running" if alive else "stopped", last_error=error)


def _record(
    session: Session, request: VmRequest, old: VmRecord | None, vm_id: str, nic: Nic, network: Network
) -> VmRecord:
    directory = session.home.vm_directory(vm_id)
    runtime = VmRuntime(
        state="stopped",
        guest_ip=nic.ip,
        api_socket=str(directory / "api.sock"),
        vsock_path=str(directory / "vsock.sock"),
        vsock_cid=3 + int(vm_id, 16) % (2**32 - 4),
        log_path=str(directory / "console.log"),
        metrics_path=str(directory / "metrics.json"),
        dns_name=f"{request.name}.banger",
        vm_directory=str(directory),
        system_overlay=str(directory / "root.ext4"),
        work_disk=str(directory / "work.ext4") if request.work_disk_bytes else "",
    )
    if old:
        runtime = replace(runtime, state=old.runtime.state, last_error=old.runtime.last_error)
    return VmRecord(
        id=vm_id,
        name=request.name,
        image=request.image,
        image_digest=old.image_digest if old else "",
        vcpus=request.vcpus,
        memory_bytes=request.memory_bytes,
        root_disk_bytes=request.root_disk_bytes,
        work_disk_bytes=request.work_disk_bytes,
        storage=request.storage,
        workdisk=request.workdisk,
        vmm=request.vmm,
        nic=nic,
        network_options=_plain(network.options),
        runtime=runtime,
        authorized_keys=tuple(request.authorized_keys),
        tags=tuple(request.tags),
    )


def _plain(options: object) -> dict[str, Any]:
    from dataclasses import asdict, is_dataclass

    return asdict(options) if is_dataclass(options) and not isinstance(options, type) else {}


def _by_place(problem: Problem) -> tuple[str, int, int]:
    return (problem.place.file, problem.place.line, problem.place.column) if problem.place else ("", 0, 0)
