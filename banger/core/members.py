"""From a playbook's VM requests to the VMs of a run: what was chosen once stays chosen, what must wait is said.

Looks at the host and the records, and changes neither.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from banger.core import images, judgement, saved_guest, tasks
from banger.core.assemble import assemble, problems_of_files, split_by_wish
from banger.core.handles import vmm_process
from banger.core.images import ImagePlan
from banger.core.plan import Action, Allowance, Plan, Verb, plan
from banger.core.playbook import ImageRequest, Playbook, VmRequest
from banger.core.session import Session
from banger.core.state import Records, VmRecord, VmRuntime
from banger.core.suggest import did_you_mean
from banger.errors import BangerError, PlaybookError, Problem, StateError
from banger.guestconfig import GuestConfig
from banger.identity import ProcessIdentity
from banger.imagedirectory import FACTS
from banger.resource import Resource
from banger.rootdisk import image_of
from banger.types import GuestModule, Image, Mount, Network, Nic, Vm, VmFiles, jail_uid

LOOPBACK = "127.0.0.1"
_MACHINE = (
    *("nic", "network_options", "vmm", "jailed", "vcpus", "memory_bytes"),
    *("storage", "root_disk_bytes", "overlay_bytes"),
)


@dataclass(frozen=True, slots=True)
class Member:
    """One VM of a run, with everything planning needs. `waiting`: what of the wish must first be allowed.

    `before` is its record before the run, and `vmm` the process that ran it then. `spoilt`: what of it cannot be read,
    for which nothing can be done about it before that is mended.
    """

    request: VmRequest
    record: VmRecord
    vm: Vm
    image: Image
    config: GuestConfig
    resources: tuple[Resource, ...]
    waiting: tuple[tuple[str, Allowance], ...] = ()
    before: VmRecord | None = None
    vmm: ProcessIdentity | None = None
    spoilt: StateError | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """Puts the members of one run together.

    `restart`, `recreate`: what the user allows. `ids`: of the VMs that are not recorded yet, by name.
    """

    session: Session
    playbook: Playbook
    restart: bool
    recreate: bool
    ids: Mapping[str, str]
    image_plans: Mapping[str, ImagePlan] = field(default_factory=dict)
    image_mounts: Mapping[str, tuple[Mount, ...]] = field(default_factory=dict)

    @property
    def wanted(self) -> list[VmRequest]:
        return [request for request in self.playbook.vms if request.state != "absent"]

    def allocated(self, records: Records) -> dict[str, VmRecord]:
        """Every wanted VM's record as this playbook wants it."""
        networks = {network.name: network for network in self.playbook.networks}
        known = records.by_name()
        stay = {
            each.name: self._keeps_nic(known[each.name], networks[each.network])
            for each in self.wanted
            if each.name in known
        }
        taken = [record.nic for record in known.values() if stay.get(record.name, True) or self._vmm(record)]
        allocated = {}
        for request in self.wanted:
            old, network = known.get(request.name), networks[request.network]
            vm_id = old.id if old else self.ids.get(request.name)  # None: another command has just removed it
            vm_id = vm_id or new_ids([request.name], known, {})[request.name]
            nic = old.nic if old and stay[request.name] else None
            if nic is None:
                nic = self.session.plugins.allocate_nic(network, vm_id, taken, self.session.view)
                taken.append(nic)
            allocated[request.name] = _record(self.session, request, old, vm_id, nic, network)
        return allocated

    def cards(self, allocated: Mapping[str, VmRecord], known: Mapping[str, VmRecord]) -> list[VmRecord]:
        """The records of VMs that do not run and get another card, as they are but for that."""
        pairs = [(known[name], record) for name, record in allocated.items() if name in known]
        return [
            replace(old, nic=new.nic, network_options=new.network_options).with_runtime(guest_ip=new.nic.ip)
            for old, new in pairs
            if old.nic != new.nic and not self._vmm(old)
        ]

    def members(
        self,
        records: Mapping[str, VmRecord],
        known: Mapping[str, VmRecord],
        problems: list[Problem],
        made: Mapping[str, Member] = MappingProxyType({}),
    ) -> list[Member]:
        """Each VM with its guest configuration; `known` are the records by name as they were before this run.

        Whatever is wrong with one is added to `problems`, what several share once. `made`: those that were put
        together already.
        """
        modules = self.session.plugins.guest_modules()
        found: list[list[Problem]] = [[] for _ in self.wanted]
        members = [
            made.get(each.name) or self._member(each, records[each.name], known.get(each.name), modules, wrong)
            for each, wrong in zip(self.wanted, found, strict=True)
        ]
        problems += judgement.news(found)
        return members

    def missing_plugins(self, request: VmRequest) -> list[Problem]:
        """What the request names that no plugin in use answers for."""
        names = [info.name for info in self.session.plugins.infos() if info.status == "active"]
        problems = []
        for role in ("storage", "workdisk", "vmm"):
            name = getattr(request, role)
            there = [each.removeprefix(f"{role}_") for each in names if each.startswith(f"{role}_")]
            if name not in there:
                message = f"no plugin {role}_{name} is in use, for the {role} of the VM '{request.name}'"
                problems.append(Problem(request.place_of(role), message, did_you_mean(name, there)))
        return problems

    def plan(self, member: Member) -> Plan:
        """What to do for this VM, with what waits for a word of the user said on its line; or why that is not known."""
        try:
            if member.spoilt:
                raise member.spoilt
            return self._plan(member)
        except BangerError as error:
            return Plan(f"vm/{member.vm.name}", (), error)

    def _plan(self, member: Member) -> Plan:
        session = self.session
        wanted, unwanted = split_by_wish(member.resources, running=member.vm.running)
        handles = session.handles.of(member.record.directory)
        made = plan(
            f"vm/{member.vm.name}",
            wanted,
            session.view,
            handles,
            unwanted=unwanted,
            former=session.plugins.teardown_handles(_as_it_was(member), handles) if handles else (),
            fallen=member.vmm is None,
            user=member.vm.vmm_key,
            restart=self.restart,
            recreate=self.recreate,
        )
        waiting = [Action.waiting(member.resources[0], why, needs, {}) for why, needs in member.waiting]
        return replace(made, actions=(*made.actions, *waiting))

    def contribute(
        self,
        config: GuestConfig,
        request: VmRequest | ImageRequest,
        facts: Mapping[str, Any],
        modules: Mapping[str, GuestModule],
    ) -> list[Problem]:
        """Let the request's tasks fill the builder."""
        return tasks.contribute(config, request.tasks, facts, request.variables, modules)

    # --- one VM

    def _member(
        self,
        request: VmRequest,
        record: VmRecord,
        old: VmRecord | None,
        modules: Mapping[str, GuestModule],
        problems: list[Problem],
    ) -> Member:
        found: list[Problem] = []
        vmm = self._vmm(old) if old else None
        member = replace(self._put_together(request, record, old, modules, found), before=old, vmm=vmm)
        if old and vmm and record.nic != old.nic and member.resources and not self._stops_vmm(member):
            found = []
            kept = self._put_together(request, on_its_card(record, old), old, modules, found)
            member = replace(kept, before=old, vmm=vmm)
        problems += found
        return member

    def _put_together(
        self,
        request: VmRequest,
        record: VmRecord,
        old: VmRecord | None,
        modules: Mapping[str, GuestModule],
        problems: list[Problem],
    ) -> Member:
        session = self.session
        image, waiting = self._image(self.image_plans[request.image], record)
        if old and record.nic == old.nic and old.nic.network != request.network:
            waiting += ((f"network {old.nic.network} -> {request.network}", "restart"),)
        record = replace(record, image_digest=image.digest)
        made, spoilt = self._vm(record, running=request.state == "running")
        vm = replace(
            made,
            place=request.place,
            places=request.places,
            work_disk_bytes=request.work_disk_bytes,
        )
        config = GuestConfig()
        session.plugins.contribute_guest_config(config, vm, image)
        facts = {"vm": tasks.VmFacts.of(vm), "image": tasks.ImageFacts.of(image)}
        if request.held_tasks and saved_guest.is_there(session.view, record.directory):
            held = GuestConfig()
            self.contribute(held, replace(request, tasks=request.held_tasks), facts, modules)
            config.keep(saved_guest.load(session.view, record.directory), held)
        found = self.contribute(config, request, facts, modules)
        mounts = self.image_mounts.get(request.image, ())
        found += problems_of_files(config, mounts, [task.place for task in request.tasks])
        found += session.plugins.validate_vm(vm, image)
        seeds = {each.spec.name: each.spec.work_seed_bytes for each in self.playbook.images}
        found += judgement.too_small_for_seed(request, seeds.get(request.image))
        resources: list[Resource] = []
        if not found and not self.missing_plugins(request):
            try:
                resources = assemble(vm, image, config, session.plugins, session.home.ssh_key)
            except PlaybookError as error:
                found += error.problems
        problems += found
        return Member(request, record, vm, image, config, tuple(resources), waiting, spoilt=spoilt)

    def _vm(self, record: VmRecord, *, running: bool) -> tuple[Vm, StateError | None]:
        """What a record stands for; where its keys cannot be read, without them and with why."""
        try:
            return self.session.vm(record, running=running), None
        except StateError as error:
            return self.session.vm(record, running=running, keys=False), error

    def _stops_vmm(self, member: Member) -> bool:
        removed = [action.resource.key for action in self.plan(member).actions if action.verb is Verb.REMOVE]
        return member.vm.vmm_key in removed

    def _vmm(self, record: VmRecord) -> ProcessIdentity | None:
        return vmm_process(self.session.view.processes, record, self.session.handles.of(record.directory))

    def _image(self, wanted: ImagePlan, record: VmRecord) -> tuple[Image, tuple[tuple[str, Allowance], ...]]:
        """The image to use. A VM stays on the one its root disk was made for until it may be made anew.

        The disk's own note says which that is: a record could be ahead of the disk, after a crash.
        """
        view = self.session.view
        made_for = image_of(view, Path(record.runtime.system_overlay))
        if made_for and made_for != wanted.digest and not self.recreate:
            directory = self.session.home.image_directory(made_for)
            if view.files.status(directory / FACTS):
                image = Image(wanted.name, made_for, directory, images.read_facts(view, directory))
                return image, ((f"image {wanted.name} has changed", "recreate"),)
        built = view.files.status(wanted.directory / FACTS) is not None
        facts = images.read_facts(view, wanted.directory) if built else images.UNBUILT
        return Image(wanted.name, wanted.digest, wanted.directory, facts), ()

    def _keeps_nic(self, old: VmRecord, network: Network) -> bool:
        """Whether a VM stays on its card. A running one does until it may be restarted: its VMM has that card."""
        same = (old.nic.network, old.nic.plugin) == (network.name, network.plugin)
        if self._vmm(old):
            return same or not (self.restart or self.recreate)
        ssh = old.nic.ssh
        return same and (ssh.host != LOOPBACK or self.session.view.network.port_is_free(ssh.host, ssh.port))


def new_ids(names: Iterable[str], records: Mapping[str, VmRecord], given: Mapping[str, str]) -> dict[str, str]:
    """Ids for those of these VMs that are not recorded; no two VMs' ids come to one user id in a jail."""
    ids: dict[str, str] = {}
    taken = {jail_uid(record.id) for record in records.values()}
    for name in names:
        if name not in records:
            vm_id = given.get(name, "")
            while not vm_id or jail_uid(vm_id) in taken:
                vm_id = secrets.token_hex(5)
            ids[name] = vm_id
            taken.add(jail_uid(vm_id))
    return ids


def _as_it_was(member: Member) -> Vm:
    """The VM that the recorded handles are of."""
    before = member.before
    return replace(member.vm, nic=before.nic, vmm=before.vmm, jailed=before.jailed) if before else member.vm


def _record(
    session: Session, request: VmRequest, old: VmRecord | None, vm_id: str, nic: Nic, network: Network
) -> VmRecord:
    files = VmFiles(session.home.vm_directory(vm_id))
    record = VmRecord(
        id=vm_id,
        name=request.name,
        image=request.image,
        image_digest=old.image_digest if old else "",
        vcpus=request.vcpus,
        memory_bytes=request.memory_bytes,
        root_disk_bytes=request.root_disk_bytes,
        work_disk_bytes=_work_disk_bytes(session, request, files),
        storage=request.storage,
        workdisk=request.workdisk,
        vmm=request.vmm,
        nic=nic,
        network_options=_plain(network.options),
        overlay_bytes=request.overlay_bytes,
        jailed=request.jailed,
        runtime=_runtime(request, old, vm_id, nic, files),
        authorized_keys=tuple(request.authorized_keys),
        tags=tuple(request.tags),
    )
    return on_its_card(record, old) if old and old.nic is nic and nic.network != network.name else record


def on_its_card(record: VmRecord, old: VmRecord) -> VmRecord:
    """This record of a VM whose VMM stays as it is, and with it the card and the whole machine around that.

    What was asked for is good together, and so is what there was; one's VMM with the other's disk need not be.
    """
    machine = {name: getattr(old, name) for name in _MACHINE}
    return replace(record, **machine).with_runtime(guest_ip=old.nic.ip)


def _work_disk_bytes(session: Session, request: VmRequest, files: VmFiles) -> int | None:
    """At least what is there: a work disk never shrinks, so that it should is a playbook's wish and nobody's state."""
    there = session.view.files.status(files.work_disk) if request.work_disk_bytes else None
    return max(request.work_disk_bytes or 0, there.size_bytes) if there else request.work_disk_bytes


def _runtime(request: VmRequest, old: VmRecord | None, vm_id: str, nic: Nic, files: VmFiles) -> VmRuntime:
    return VmRuntime(
        state=old.runtime.state if old else "stopped",
        guest_ip=nic.ip,
        api_socket=str(files.api_socket),
        vsock_path=str(files.vsock_socket),
        vsock_cid=3 + int(vm_id, 16) % (2**32 - 4),
        log_path=str(files.console_log),
        metrics_path=str(files.metrics),
        dns_name=f"{request.name}.banger",
        vm_directory=str(files.directory),
        system_overlay=str(files.root_overlay),
        work_disk=str(files.work_disk) if request.work_disk_bytes else "",
        last_error=old.runtime.last_error if old else "",
    )


def _plain(options: object) -> dict[str, Any]:
    return asdict(options) if is_dataclass(options) and not isinstance(options, type) else {}
