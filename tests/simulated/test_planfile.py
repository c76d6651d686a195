"""A plan that is kept: done exactly so later, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from banger.core import lifecycle, planfile
from banger.core.apply import Outcome
from banger.core.converge import ApplyOptions, keep_plan
from banger.core.converge import apply as apply_playbook
from banger.core.planfile import PlanFile
from banger.errors import BangerError, UsageError
from tests.simulated.world import World


def kept(world: World, path: Path, **options: object) -> Path:
    """The file a plan was kept in; making it has changed nothing."""
    effects = len(world.host.effects)
    _, plan = keep_plan(world.session(), path, ApplyOptions(forks=1, **options))  # type: ignore[arg-type]
    assert world.host.effects[effects:] == []
    file = world.directory / "kept.plan"
    file.write_text(plan.text())
    return file


def apply(world: World, file: Path) -> dict[str, Outcome]:
    plan = planfile.read(file)
    assert plan is not None
    options = replace(ApplyOptions(forks=1, kept=plan), **plan.options())
    return {outcome.subject: outcome for outcome in apply_playbook(world.session(), plan.playbook, options)}


def test_kept_plan_is_done_with_its_options(world: World) -> None:
    file = kept(world, world.write(), extra_vars={"unused": "x"})
    ids = json.loads(file.read_text())["ids"]
    assert all(outcome.error is None for outcome in apply(world, file).values())
    assert {name: world.record(name).id for name in ("web", "db")} == ids
    changed = kept(world, world.write("you"), restart=True)
    apply(world, changed)
    assert world.content("web", "root.ext4", "/upper/etc/greeting") == b"hello you from web\n"
    assert world.runs("web")


def test_kept_plan_of_what_was_done_already_is_stale(world: World) -> None:
    file = kept(world, world.write())
    apply(world, file)
    with pytest.raises(BangerError, match=r"the plan is stale: .* changed for image/tiny, vm/db, vm/web"):
        apply(world, file)


def test_kept_plan_knows_an_included_playbook_and_what_that_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    included = world.write()
    (world.directory / "motd.j2").write_text("hello\n")
    plays = f"{included.read_text()}    - template: {{src: motd.j2, dest: /etc/motd}}\n"
    included.write_text(plays)
    (world.directory / "site.yml").write_text("- include: playbook.yml\n")
    monkeypatch.chdir(world.directory)
    file = kept(world, Path("site.yml"))
    included.write_text(plays.replace("{name: web}", "{name: web, memory: 1GiB}"))
    with pytest.raises(BangerError, match=r"the plan is stale: .* changed for vm/web"):
        apply(world, file)
    included.write_text(plays)
    (world.directory / "motd.j2").write_text("good bye\n")
    with pytest.raises(BangerError, match=r"the plan is stale: .* changed for vm/db, vm/web"):
        apply(world, file)
    (world.directory / "motd.j2").write_text("hello\n")
    assert all(outcome.error is None for outcome in apply(world, file).values())


@pytest.mark.parametrize("what", ["playbook", "content", "host"])
def test_kept_plan_is_refused_when_anything_has_moved(world: World, what: str) -> None:
    world.apply(world.write(state="stopped"))
    lifecycle.stop(world.session(), ["web"], 1)
    file = kept(world, world.write("you", state="stopped"))
    if what == "playbook":
        world.write("you", "stopped", ("- {name: web}", "- {name: web, memory: 1GiB}"))
    elif what == "content":
        world.write("them", "stopped")
    else:
        lifecycle.start(world.session(), ["web"], 1)
    effects = len(world.host.effects)
    with pytest.raises(BangerError, match="the plan is stale") as refused:
        apply(world, file)
    assert "vm/web" in refused.value.message
    assert world.host.effects[effects:] == []


def test_playbook_is_no_plan_and_a_spoilt_plan_says_so(world: World) -> None:
    path = world.write()
    assert planfile.read(path) is None
    assert planfile.read(world.directory / "nothing") is None
    file = kept(world, path)
    for spoilt in (file.read_text()[:-20], file.read_text().replace('"banger_plan": 1', '"banger_plan": 2')):
        file.write_text(spoilt)
        with pytest.raises(UsageError, match="is no plan that can be read"):
            planfile.read(file)


def test_kept_plan_has_no_key_in_it(world: World) -> None:
    world.apply(world.write())
    text = kept(world, world.write("you")).read_text()
    assert "PRIVATE" not in text and "simulated private key" not in text and "hello" not in text
    assert isinstance(planfile.read(world.directory / "kept.plan"), PlanFile)
