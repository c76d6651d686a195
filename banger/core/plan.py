"""From resources and what is observed to ordered actions. Pure but for looking: it is given a host it cannot change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from banger.errors import BangerError, PluginError
from banger.host import HostView
from banger.resource import Absent, Drifted, Handle, Lifetime, Observation, Present, Resource


class Verb(Enum):
    """What will be done about one resource."""

    KEEP = "ok"
    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"
    PENDING = "pending"  # it differs, and mending it would need more than was asked for
    BLOCKED = "blocked"  # it should be made, and cannot be before something pending is mended


Allowance = Literal["restart", "recreate"]
"""What is only done when the user allows it."""


@dataclass(frozen=True, slots=True)
class Action:
    """One line of a plan. `handle` is what was observed, for what is there; `reason` says why in the user's words.

    `needs`: what it waits to be allowed.
    """

    verb: Verb
    resource: Resource
    handle: Handle
    reason: str = ""
    needs: Allowance | None = None
    begun: bool = False
    """Its thing came with what was recorded for this run, before the plan; it is not taken back where that fails."""

    @classmethod
    def waiting(cls, resource: Resource, why: str, needs: Allowance, handle: Handle) -> Action:
        return cls(Verb.PENDING, resource, handle, f"{why}: needs --{needs}", needs)

    @property
    def changes(self) -> bool:
        return self.verb in (Verb.CREATE, Verb.UPDATE, Verb.REMOVE)


@dataclass(frozen=True, slots=True)
class Plan:
    """All actions of one subject (`vm/web-1`, `image/debian-12`), in the order they are to happen."""

    subject: str
    actions: tuple[Action, ...]
    refusal: BangerError | None = None
    """Why nothing is known of what there is to do: this subject's failure, and no other's."""

    @property
    def changes(self) -> int:
        return sum(action.changes for action in self.actions)

    def made_with(self, key: str) -> Plan:
        """The same plan, where the thing of this key was made by this very run, for what had to be there before it."""

        def made(action: Action) -> Action:
            ours = action.resource.key == key and action.verb is Verb.KEEP
            return replace(action, verb=Verb.CREATE, begun=True) if ours else action

        return replace(self, actions=tuple(map(made, self.actions)))

    @property
    def loses_a_disk(self) -> bool:
        """Whether something goes that would have lasted, to stay away or to be made anew."""
        return any(a.verb is Verb.REMOVE and a.resource.lifetime is Lifetime.DISK for a in self.actions)

    @property
    def blocked(self) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.verb is Verb.BLOCKED)

    @property
    def pending(self) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.verb is Verb.PENDING)


def ordered(resources: Iterable[Resource]) -> list[Resource]:
    """Each after what it needs, otherwise as given. Needs outside the set are somebody else's.

    Raises PluginError for a cycle or a key used twice.
    """
    by_key: dict[str, Resource] = {}
    for resource in resources:
        if resource.key in by_key:
            raise PluginError(f"two resources have the key {resource.key!r}")
        by_key[resource.key] = resource
    sorter = TopologicalSorter(
        {key: [need for need in resource.needs if need in by_key] for key, resource in by_key.items()}
    )
    try:
        return [by_key[key] for key in sorter.static_order()]
    except CycleError as error:
        raise PluginError(f"resources stand on each other: {' -> '.join(error.args[1])}") from error


def plan(
    subject: str,
    wanted: Sequence[Resource],
    host: HostView,
    recorded: Mapping[str, Handle],
    *,
    unwanted: Sequence[Resource] = (),
    former: Sequence[Resource] = (),
    fallen: bool = False,
    user: str = "",
    restart: bool = False,
    recreate: bool = False,
) -> Plan:
    """What to do so that all of `wanted` and none of `unwanted` is there.

    `former`: what the recorded handles stand for. Whoever made a thing takes it away: one of these is removed in the
    place of a resource of its key, and one that goes by no key any more goes when `user`, a key, does not run on it.
    `fallen`: what ran on them has ended by itself, so all of them go before anything else (seed S6).

    What is unwanted but must stand while something wanted is written (a device over a disk's file) is scaffolding: put
    up for it and taken down in the end.

    A running thing is not changed under its user: where something it stands on must change, both wait until `restart`
    is asked for. What cannot change in place waits for `recreate`; what `keeps` a user's data is never made anew.
    """
    order = ordered(wanted)
    seen = {resource.key: resource.observe(host, recorded.get(resource.key)) for resource in order}
    dependents = _dependents(order)
    removals = _fallen(former, host, recorded) if fallen else []
    seen |= {each.resource.key: Absent() for each in removals if each.resource.key in seen}
    remade = _remade(order, seen, dependents, restart=restart or recreate, recreate=recreate)
    made_by = {resource.key: resource for resource in former}
    gone = [
        (each, each.observe(host, recorded.get(each.key)), "no longer wanted") for each in reversed(ordered(unwanted))
    ]
    gone += [(each, seen[each.key], "to be made anew") for each in reversed(order) if each.key in remade]
    down = {each.resource.key for each in removals}
    removals += [
        Action(Verb.REMOVE, made_by.get(each.key, each), there.handle, why)
        for each, there, why in gone
        if not isinstance(there, Absent) and each.key not in down
    ]
    seen |= dict.fromkeys(remade, Absent())
    known = {resource.key for resource in (*order, *unwanted)} | down
    in_use = not isinstance(seen.get(user, Absent()), Absent)
    removals += _strays([each for each in former if each.key not in known], host, recorded, in_use=in_use)
    by_hand = {resource.key: resource for resource in unwanted}
    actions: list[Action] = []
    scaffolding: list[Resource] = []
    waiting: dict[str, str] = {}  # keys of what must wait, and for what
    for resource in order:
        users = [user for user in dependents[resource.key] if user.lifetime is Lifetime.BOOT]
        action = _action(resource, seen, users)
        blocker = next((waiting[need] for need in resource.needs if need in waiting), None)
        if blocker and action.changes:
            action = Action(Verb.BLOCKED, resource, action.handle, f"waits for {blocker}")
        there = seen[resource.key]
        if blocker or (isinstance(there, Drifted) and not there.usable and action.verb is Verb.PENDING):
            waiting[resource.key] = blocker or f"{resource.key} ({action.reason})"
        if action.changes:
            missing = [each for each in _beneath(resource, by_hand) if each not in scaffolding]
            scaffolding += missing
            actions += [Action(Verb.CREATE, each, {}, f"for {resource.key}") for each in missing]
        actions.append(action)
    taken_down = [Action(Verb.REMOVE, each, {}, "no longer needed") for each in reversed(scaffolding)]
    return Plan(subject, (*removals, *actions, *taken_down))


def _fallen(former: Sequence[Resource], host: HostView, recorded: Mapping[str, Handle]) -> list[Action]:
    seen = [(each, each.observe(host, recorded.get(each.key))) for each in reversed(ordered(former))]
    why = "what ran on it has ended"
    return [Action(Verb.REMOVE, each, there.handle, why) for each, there in seen if not isinstance(there, Absent)]


def _strays(
    former: Sequence[Resource], host: HostView, recorded: Mapping[str, Handle], *, in_use: bool
) -> list[Action]:
    """What of this is still there goes, or waits for what runs on it to go."""
    why = "no longer wanted"
    seen = [(each, each.observe(host, recorded.get(each.key))) for each in former]
    return [
        Action.waiting(each, why, "restart", there.handle) if in_use else Action(Verb.REMOVE, each, there.handle, why)
        for each, there in seen
        if not isinstance(there, Absent)
    ]


def _beneath(resource: Resource, unwanted: Mapping[str, Resource]) -> list[Resource]:
    """What of the unwanted this one stands on, directly or not; the lowest first."""
    found: list[Resource] = []
    for need in resource.needs:
        if need in unwanted:
            below = [*_beneath(unwanted[need], unwanted), unwanted[need]]
            found += [each for each in below if each not in found]
    return found


def _action(resource: Resource, seen: Mapping[str, Observation], users: Sequence[Resource]) -> Action:
    in_use = [user.key for user in users if not isinstance(seen[user.key], Absent)]
    match seen[resource.key]:
        case Absent():
            if in_use:
                return Action.waiting(resource, f"is missing under {in_use[0]}", "restart", {})
            return Action(Verb.CREATE, resource, {})
        case Present(handle, verified):
            about_to_be_used = bool(users) and not in_use
            if verified or not about_to_be_used:
                return Action(Verb.KEEP, resource, handle)
            return Action(Verb.UPDATE, resource, handle, "may have changed since it was last in use")
        case Drifted(handle, differences, in_place, live=live):
            why = ", ".join(differences)
            if not in_place and resource.keeps:
                never = "never done, it holds data and is never made anew; write what there is, or delete the VM first"
                return Action(Verb.PENDING, resource, handle, f"{why}: {never}")
            if not in_place and resource.lifetime is Lifetime.DISK:
                return Action.waiting(resource, why, "recreate", handle)
            if (in_use and not live) or not in_place:
                return Action.waiting(resource, why, "restart", handle)
            return Action(Verb.UPDATE, resource, handle, why)


def _dependents(order: Sequence[Resource]) -> dict[str, list[Resource]]:
    """For each resource, everything that stands on it, directly or not, in order."""
    dependents: dict[str, list[Resource]] = {resource.key: [] for resource in order}
    for resource in reversed(order):
        for need in resource.needs:
            if need in dependents:
                mine = [resource, *dependents[resource.key]]
                dependents[need] += [user for user in mine if user not in dependents[need]]
    return dependents


def _remade(
    order: Sequence[Resource],
    seen: Mapping[str, Observation],
    dependents: Mapping[str, list[Resource]],
    *,
    restart: bool,
    recreate: bool,
) -> set[str]:
    """The keys to be taken away and made again, as far as that was asked for."""
    remade: set[str] = set()
    stranded: set[str] = set()  # what could not be started again on what will stay as it is
    for resource in order:
        users = dependents[resource.key]
        running = {user.key for user in users if user.lifetime is Lifetime.BOOT}
        match seen[resource.key]:
            case Present() | Drifted(in_place=True, live=True):
                continue
            case Drifted(in_place=False, usable=usable) if resource.lifetime is Lifetime.DISK:
                if recreate and not resource.keeps:
                    remade |= {resource.key} | {user.key for user in users if not user.keeps}
                elif not usable:
                    stranded |= running
            case Drifted(in_place=False):
                if restart:
                    remade |= {resource.key} | running
            case _:
                if restart:
                    remade |= running
    return remade - stranded
