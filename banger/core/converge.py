"""`apply` and `destroy` of a playbook: check everything, build images, record the wish, plan, and carry it out.

Everything that can be wrong with a playbook is found before the first effect. Intent is recorded before the effects
that make it true.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag
from typing import Any, TypeVar

from banger.core import access, building, by_hand, images, judgement, recipe, saved_guest, saved_record, tasks
from banger.core.apply import NotBegun, Outcome, carry_out, in_parallel, tell_not_begun
from banger.core.assemble import problems_of_files
from banger.core.choice import settle
from banger.core.destroy import resources_of, take_away, write_off
from banger.core.digests import Digests
from banger.core.handles import vmm_process
from banger.core.images import ImagePlan
from banger.core.lacking import Lack, lacking, refusal, used_by_image, used_by_vm
from banger.core.locks import discard
from banger.core.members import Member, Roster, new_ids, on_its_card
from banger.core.plan import Plan, plan
from banger.core.planfile import PlanFile, fingerprint
from banger.core.playbook import Playbook, load
from banger.core.reconcile import reconcile
from banger.core.room import Room, problems_of_memory
from banger.core.selection import Selection
from banger.core.session import Session, VmJournal
from banger.core.state import VmRecord
from banger.errors import BangerError, HomeError, HostError, PlaybookError, Problem, StateError, UsageError
from banger.guestconfig import GuestConfig
from banger.imagedirectory import FACTS
from banger.types import ImageSpec, Mount

Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How to apply. `forks`: how many VMs at a time."""

    check: bool = False
    restart: bool = False
    recreate: bool = False
    forks: int = field(default_factory=lambda: os.cpu_count() or 1)
    extra_vars: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    diff: bool = False
    kept: PlanFile | None = None
    """The plan that is to be done, and no other."""
    confirm: Callable[[Sequence[str]], None] = lambda names: None
    """Told of the VMs whose disks would go, before anything is done; what it raises ends the run."""


def apply(session: Session, path: Path, options: ApplyOptions) -> list[Outcome]:
    """Make the host as the playbook says; with `check`, only say what that would take."""
    playbook = options.selection.of(load(path, session.plugins.declared(), options.extra_vars))
    names, purpose = [vm.name for vm in playbook.vms], f"banger apply {path}"
    if options.check:
        return _looked(session, names, purpose, lambda settled: Run(session, playbook, options, {}).look(settled))
    with session.locked(names, purpose):
        return Run(session, playbook, options, {}).run()


def keep_plan(session: Session, path: Path, options: ApplyOptions) -> tuple[list[Outcome], PlanFile]:
    """Say what an apply would do, changing nothing; and what to give it so that it does exactly that."""
    playbook = options.selection.of(load(path, session.plugins.declared(), options.extra_vars))
    names, dry = [vm.name for vm in playbook.vms], replace(options, check=True)
    return _looked(session, names, f"banger plan {path}", lambda settled: Run(session, playbook, dry, {}).keep(settled))


def _looked(session: Session, names: Sequence[str], purpose: str, look: Callable[[bool], Seen]) -> Seen:
    """What a dry run finds. It takes no locks; where it fails it looks again, with them: then nothing changes under it.

    `look` is told whether all is settled so. Raises Busy when another command is at one of these VMs.
    """
    try:
        return look(False)
    except (PlaybookError, UsageError):
        raise
    except BangerError as error:
        begun = [name for name in names if session.home.lock(f"vm-{name}").exists()]  # a dry run makes no lock's file
        try:
            with session.locked(begun, purpose):
                for record in session.store.snapshot().vms():
                    session.handles.drop(record.directory)
                return look(True)
        except HomeError:  # who may only look
            raise error from None


def create(session: Session, playbook: Playbook, images: Mapping[str, ImagePlan]) -> list[Outcome]:
    """Make the VMs of a playbook that nobody wrote, of images that are known by name. The caller holds their locks."""
    return Run(session, playbook, ApplyOptions(), images).run()


def destroy(session: Session, path: Path, options: ApplyOptions) -> list[Outcome]:
    """Remove every VM the playbook names. Images stay: they are a cache that belongs to no one VM."""
    playbook = options.selection.of(load(path, session.plugins.declared().for_removal, options.extra_vars))
    names = [vm.name for vm in playbook.vms]
    with session.locked(names, f"banger destroy {path}"):
        known = session.store.snapshot().by_name()
        if losing := [name for name in names if name in known]:
            options.confirm(losing)
        return _destroy(session, names, options.forks, Flag())


def _destroy(session: Session, names: Sequence[str], forks: int, cancelled: Flag) -> list[Outcome]:
    known = session.store.snapshot().by_name()

    def nothing(name: str) -> Outcome:
        discard(session.home.lock(f"vm-{name}"))  # perhaps of a command that was killed before it had recorded anything
        return Outcome(f"vm/{name}", ok=1)

    def task(name: str) -> Callable[[Flag], Outcome]:
        record = known.get(name)
        return lambda cancelled: take_away(session, record) if record else nothing(name)

    outcomes = in_parallel({f"vm/{name}": task(name) for name in names}, forks, session.report, cancelled)
    ended = zip(names, outcomes, strict=True)
    write_off(session, [(known[name], outcome) for name, outcome in ended if name in known])
    return outcomes


class Run:
    """One run of `apply`, or of what only looks."""

    def __init__(
        self, session: Session, playbook: Playbook, options: ApplyOptions, given: Mapping[str, ImagePlan]
    ) -> None:
        records = session.store.snapshot().by_name()
        playbook, choice = settle(playbook, records, session.plugins, session.view)
        if choice and choice.lacking:
            passed_over = "; ".join(choice.lacking.values())
            message = f"auto: {', '.join(choice.path)}, because of {passed_over}"
            session.report({"type": "note", "subject": "", "message": message})
        self._session = session
        self._playbook = playbook
        self._options = options
        self._given = given
        self._absent = [request.name for request in playbook.vms if request.state == "absent"]
        ids = new_ids([vm.name for vm in playbook.vms], records, options.kept.ids if options.kept else {})
        self._roster = Roster(session, playbook, options.restart, options.recreate, ids)
        self._cancelled = Flag()
        self._digests = Digests(session.home)
        self._unbuilt: dict[str, BaseException] = {}
        """The images that could not be built, by name, and why."""
        self._drafted: dict[str, tuple[VmRecord, Member]] = {}
        """By name: the record that was allocated, and the VM that was put together for it."""

    def run(self) -> list[Outcome]:
        image_plans = self.check()
        if lacks := self._lacks(image_plans):
            raise refusal(lacks)
        for warning in self._room().warnings:
            self._session.report({"type": "note", "subject": "", "message": warning, "level": "warning"})
        if self._options.kept:
            self._refuse_stale(self._options.kept, image_plans)
        if losing := self._losing():
            self._options.confirm(losing)
        reconcile(self._session, frozenset(request.name for request in self._playbook.vms))
        outcomes = self._built(image_plans)
        if self._cancelled.is_set():
            return self._cut_short(outcomes)
        if any(outcome.changed for outcome in outcomes):
            self.check()  # again, now that more is known of the images
        outcomes += self._left_out()
        for record in self._recorded(self._absent):
            self._session.announce(self._removal(record))
        outcomes += _destroy(self._session, self._absent, self._options.forks, self._cancelled)
        if self._cancelled.is_set():
            return self._cut_short(outcomes)
        view = self._session.view
        new = {member.vm.name for member in self.drafts if view.files.status(member.record.directory) is None}
        return outcomes + self._converge(self._settle(), new)

    def _built(self, image_plans: Mapping[str, ImagePlan]) -> list[Outcome]:
        """Every image built, as far as it can be; one that cannot is nobody's failure but its own VMs'."""
        outcomes: list[Outcome] = []
        for name, image in image_plans.items():
            todo = building.plan_of(self._session, image)
            made = building.build(self._session, image, self._cancelled) if todo.changes else self._told(todo)
            outcomes.append(made)
            if self._cancelled.is_set():
                break
            if made.error:
                self._unbuilt[name] = made.error
        return outcomes

    def _left_out(self) -> list[Outcome]:
        """Failed, and not begun: the VMs that would stand on an image that could not be built.

        One whose disk is made of an earlier image needs no other yet, and stays in.
        """
        plans = self._roster.image_plans
        failed = {
            member.request.name: member.request.image
            for member in self.drafts
            if member.request.image in self._unbuilt and member.image.digest == plans[member.request.image].digest
        }
        staying = tuple(request for request in self._roster.playbook.vms if request.name not in failed)
        self._roster = replace(self._roster, playbook=replace(self._roster.playbook, vms=staying))
        self._drafted = {name: draft for name, draft in self._drafted.items() if name not in failed}
        return [self._refused(name, image) for name, image in failed.items()]

    def _refused(self, name: str, image: str) -> Outcome:
        kind = HostError if isinstance(self._unbuilt[image], HostError) else BangerError
        return self._failed(f"vm/{name}", kind(f"the image {image} could not be built"))

    def _failed(self, subject: str, error: BangerError) -> Outcome:
        """Told of a subject that is not begun."""
        outcome = Outcome(subject, error=error)
        failed = {"subject": subject, "message": error.message, "hint": error.hint}
        for event in ({"type": "failed", **failed}, {"type": "ended", "subject": subject}, outcome.recap):
            self._session.report(event)
        return outcome

    def _losing(self) -> list[str]:
        """The VMs of which a disk would go."""
        losing = [record.name for record in self._recorded(self._absent)]
        if self._options.recreate:
            losing += [member.vm.name for member in self.drafts if self._roster.plan(member).loses_a_disk]
        return losing

    def _cut_short(self, outcomes: list[Outcome]) -> list[Outcome]:
        """What was done of a run that was interrupted, and what was not begun."""
        all_of_it = [f"image/{name}" for name in self._roster.image_plans]
        all_of_it += [f"vm/{name}" for name in (*self._absent, *(request.name for request in self._roster.wanted))]
        told = {outcome.subject for outcome in outcomes}
        unbegun = [subject for subject in all_of_it if subject not in told]
        return outcomes + tell_not_begun(unbegun, self._session.report)

    def check(self) -> dict[str, ImagePlan]:
        """Everything that is wrong, found on drafts of all images and VMs. Raises PlaybookError with all of it."""
        problems: list[Problem] = []
        plans, mounts = dict(self._given), dict[str, tuple[Mount, ...]]()
        modules = self._session.plugins.guest_modules()
        for request in self._playbook.images:
            config = GuestConfig()
            facts = {"image": tasks.ImageFacts(request.spec.name, "")}
            problems += self._roster.contribute(config, request, facts, modules)
            of_files = problems_of_files(config, (), [task.place for task in request.tasks])
            problems += of_files
            if of_files:
                continue
            name = request.spec.name
            try:
                plans[name] = self._plan_image(request.spec, config)
                mounts[name] = config.mounts
            except PlaybookError as error:
                problems += error.problems
        self._roster = replace(self._roster, image_plans=plans, image_mounts=mounts)
        problems += [p for r in self._roster.wanted for p in self._roster.missing_plugins(r)]
        if len(plans) == len(self._playbook.images) + len(self._given):
            members = self._drafts(problems)
            problems += problems_of_memory(members, self._session.view.memory())
        else:  # without their images they cannot be drafted
            playbook, declared = self._playbook, self._session.plugins.declared()
            requests = [image for image in playbook.images if image.spec.name in plans]
            problems += judgement.problems_of_vms(requests, self._roster.wanted, playbook.networks, declared)
        if problems:
            raise PlaybookError(problems)
        return plans

    def _plan_image(self, spec: ImageSpec, customisation: GuestConfig) -> ImagePlan:
        return images.plan_image(self._session.home, self._session.plugins, spec, customisation, self._digests)

    @property
    def drafts(self) -> list[Member]:
        """The VMs as they were put together to be checked."""
        return [member for _, member in self._drafted.values()]

    def _lacks(self, image_plans: Mapping[str, ImagePlan]) -> list[Lack]:
        """What this host lacks for what is to be made or started; nothing is asked about what stays as it is."""
        session, uses = self._session, dict[str, list[str]]()
        for image in image_plans.values():
            todo = building.plan_of(session, image)
            uses[todo.subject] = used_by_image(image, todo)
        for member in self.drafts:
            todo_of_vm = self._roster.plan(member) if member.before else None
            uses[f"vm/{member.vm.name}"] = used_by_vm(member, todo_of_vm)
        return lacking(session.plugins, session.view, uses)

    def _room(self) -> Room:
        return Room.of(self.drafts, self._session.view, self._session.home.root)

    def look(self, settled: bool) -> list[Outcome]:
        """Only say what is to be done. Unless all is `settled`, one that cannot be looked at ends it."""
        return [self._told(todo, member) for todo, member in self._seen(settled)]

    def keep(self, settled: bool) -> tuple[list[Outcome], PlanFile]:
        """The same, and have it to be kept."""
        plans = self._seen(settled)
        options = self._options
        kept = PlanFile(
            self._playbook.path.absolute(),
            options.restart,
            options.recreate,
            options.extra_vars,
            options.selection,
            self._roster.ids,
            {todo.subject: fingerprint(todo, member) for todo, member in plans},
        )
        return [self._told(todo, member) for todo, member in plans], kept

    def _seen(self, settled: bool) -> list[tuple[Plan, Member | None]]:
        """The plans, after what there is to be warned of. Raises the first plan's refusal unless all is settled."""
        image_plans = self.check()
        plans, lacks, room = self._plans(image_plans), self._lacks(image_plans), self._room()
        refusals = [todo.refusal for todo, _ in plans if todo.refusal]
        if refusals and not settled:
            raise refusals[0]
        for lack in lacks:
            self._session.report(lack.event)
        self._session.report(room.event)
        return plans

    def _plans(self, image_plans: Mapping[str, ImagePlan]) -> list[tuple[Plan, Member | None]]:
        """What is to be done about everything, in order."""
        session = self._session
        plans: list[tuple[Plan, Member | None]] = [
            *((building.plan_of(session, image), None) for image in image_plans.values()),
            *((self._removal(record), None) for record in self._recorded(self._absent)),
        ]
        return [*plans, *((self._roster.plan(member), member) for member in self.drafts)]

    def _refuse_stale(self, kept: PlanFile, image_plans: Mapping[str, ImagePlan]) -> None:
        now = {todo.subject: fingerprint(todo, member) for todo, member in self._plans(image_plans)}
        moved = sorted(name for name in {*now, *kept.fingerprints} if now.get(name) != kept.fingerprints.get(name))
        if moved:
            raise BangerError(
                f"the plan is stale: since it was made, the host or the playbook has changed for {', '.join(moved)}",
                hint=f"banger plan {self._playbook.path}",
            )

    def _drafts(self, problems: list[Problem]) -> list[Member]:
        """The VMs as they would be put together; nothing is recorded."""
        records = self._session.store.snapshot()
        allocated = self._roster.allocated(records)
        members = self._roster.members(allocated, records.by_name(), problems)
        self._drafted = {member.request.name: (allocated[member.request.name], member) for member in members}
        return members

    # --- VMs

    def _recorded(self, names: Sequence[str]) -> list[VmRecord]:
        return [record for record in self._session.store.snapshot().vms() if record.name in names]

    def _removal(self, record: VmRecord) -> Plan:
        session = self._session
        handles = session.handles.of(record.directory)
        return plan(f"vm/{record.name}", [], session.view, handles, unwanted=resources_of(session, record))

    def _settle(self) -> list[Member]:
        """Record what is wanted, make the keys, and put the members together."""
        session = self._session
        key = access.ensure_ssh_key(session.host, session.home) if self._roster.wanted else ""
        self._digests.save()
        built = {name: image for name, image in self._roster.image_plans.items() if name not in self._unbuilt}
        for image in built.values():
            if image.recipe:
                recipe.save(session.host, image.directory, image.recipe)
        with session.store.transaction() as records:
            known = records.by_name()
            allocated = self._roster.allocated(records)
            # What else changes of those that are known is not decided yet; a card is somebody's at once.
            new = [record for record in allocated.values() if record.name not in known]
            records.put(*new, *self._roster.cards(allocated, known))
            former = records.images()
            for name, image in built.items():
                records.put_image(name, image.digest)
            names = records.images()
        self._keep_names(former, names)
        for record in allocated.values():
            with suppress(StateError):  # a spoilt one is that VM's failure, when its turn comes
                access.ensure_host_key(session.host, record.directory, record.name)
        problems: list[Problem] = []
        made = {
            name: member
            for name, (record, member) in self._drafted.items()
            if (allocated[name], known.get(name)) == (record, member.before)
            and member.vm.host_key != access.UNMADE
            and key in member.vm.authorized_keys
        }
        members = self._roster.members(allocated, known, problems, made)
        if problems:  # they would have been found in the drafts, so only a changed host can lead here
            raise PlaybookError(problems)
        return members

    def _keep_names(self, former: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Beside each image of this run what it is called, and beside those that have lost a name to one."""
        view, home = self._session.view, self._session.home
        here = [digest for name in self._roster.image_plans for digest in (names.get(name, ""), former.get(name, ""))]
        for directory in (home.image_directory(digest) for digest in dict.fromkeys(here) if digest):
            if view.files.status(directory / FACTS):
                called = {name for name, digest in names.items() if digest == directory.name}
                saved_record.save_names(self._session.host, directory, called)

    def _converge(self, members: Sequence[Member], new: Collection[str]) -> list[Outcome]:
        """Plan and do it. `new`: the VMs whose directories were made only for the keys that their plans are made of."""
        session = self._session
        plans = {f"vm/{member.vm.name}": self._planned(member, new) for member in members}
        starting = [m for m in members if m.vm.running and plans[f"vm/{m.vm.name}"].changes]
        self._write(
            [*(m.record for m in members), *(m.record.with_runtime(state="running", last_error="") for m in starting)]
        )

        def task(member: Member) -> Callable[[Flag], Outcome]:
            todo = plans[f"vm/{member.vm.name}"]
            journal = VmJournal(session.handles, member.record)

            def run(cancelled: Flag) -> Outcome:
                if todo.refusal:
                    raise todo.refusal
                saved_guest.save(session.host, member.record.directory, member.config)
                saved_record.save(session.host, member.record)
                by_hand.save(session.host, member.vm.name, member.record.directory, member.resources)
                outcome = carry_out(todo, session.host, journal, session.report, cancelled)
                return replace(outcome, skipped=member.config.skipped)

            return run

        work = {f"vm/{member.vm.name}": task(member) for member in members}
        idle = [subject for subject, todo in plans.items() if not todo.changes]
        outcomes = in_parallel(work, self._options.forks, session.report, self._cancelled, idle)
        settled = [self._settled(m, outcome) for m, outcome in zip(members, outcomes, strict=True)]
        self._write(settled)
        for member, record in zip(members, settled, strict=True):
            if record.nic != member.record.nic:
                saved_record.save(session.host, record)
        return outcomes

    def _planned(self, member: Member, new: Collection[str]) -> Plan:
        """The VM's plan, announced if there is one."""
        todo = self._roster.plan(member)
        if todo.refusal:
            return todo
        if member.vm.name in new:
            todo = todo.made_with(member.vm.directory_key)
        self._session.announce(todo, diff=self._options.diff)
        return todo

    def _settled(self, member: Member, outcome: Outcome) -> VmRecord:
        """The record as it is after the run: what runs is found out, never assumed."""
        record, before = member.record, member.before
        vmm = vmm_process(self._session.view.processes, record, self._session.handles.of(record.directory))
        if before and vmm and vmm == member.vmm:  # it was not restarted after all, and still has its old card
            moved = record.nic != before.nic
            record = on_its_card(record, before) if moved else replace(record, network_options=before.network_options)
        error = str(outcome.error) if outcome.error else ""
        if isinstance(outcome.error, NotBegun):
            error = record.runtime.last_error
        return record.with_runtime(state="running" if vmm else "stopped", last_error=error)

    def _write(self, changed: Sequence[VmRecord]) -> None:
        now = {record.id: record for record in self._session.store.snapshot().vms()}
        last = {record.id: record for record in changed}
        if different := [record for record in last.values() if now.get(record.id) != record]:
            with self._session.store.transaction() as records:
                records.put(*different)

    def _told(self, todo: Plan, member: Member | None = None) -> Outcome:
        if todo.refusal:
            return self._failed(todo.subject, todo.refusal)
        self._session.announce(todo, dry=self._options.check, diff=self._options.diff)
        pending = len(todo.pending) + len(todo.blocked)
        kept = len(todo.actions) - todo.changes - pending
        skipped = member.config.skipped if member else 0
        outcome = Outcome(todo.subject, kept, todo.changes, pending, skipped=skipped)
        self._session.report(outcome.recap)
        return outcome
