"""Building one image: under its locks, base and customisation each kept when the other fails."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from threading import Event as Flag

from banger.core import images
from banger.core.apply import NoJournal, Outcome, carry_out, in_parallel
from banger.core.images import ImagePlan
from banger.core.locks import discard, locked
from banger.core.plan import Plan, plan
from banger.core.session import Session


def plan_of(session: Session, image: ImagePlan) -> Plan:
    """What there is to do for this image."""
    return plan(f"image/{image.name}", images.needed(session.view, image), session.view, {})


def build(session: Session, image: ImagePlan, cancelled: Flag) -> Outcome:
    """Do it. A base is minutes of work, so it stays when what comes after it fails."""
    locks = [session.home.lock(f"image-{name}") for name in dict.fromkeys((image.base.name, image.directory.name))]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(locked(lock, purpose="building an image"))
        todo = plan_of(session, image)  # whoever held the locks may have built it
        session.announce(todo)

        def task(cancelled: Flag) -> Outcome:
            total = Outcome(todo.subject)
            for action in todo.actions:
                done = carry_out(replace(todo, actions=(action,)), session.host, NoJournal(), session.report, cancelled)
                total = replace(total, ok=total.ok + done.ok, changed=total.changed + done.changed, error=done.error)
                if done.error:
                    break
            return total

        (outcome,) = in_parallel({todo.subject: task}, 1, session.report, cancelled)
        for lock in locks:
            discard(lock)
    return outcome
