"""The benchmarks run, measure what they say, and tell a missed target from one that is met."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import Cost, Samples, measure
from benchmarks.report import Target, growth, render, rows, targets
from benchmarks.scene import Scene
from tests.capabilities import programs, require

ROOT = Path(__file__).parents[2]


def test_a_cost_has_the_children_in_it(tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(3_000_000))'])"
    busy, _ = measure([sys.executable, "-c", script], env={}, cwd=tmp_path)
    idle, _ = measure([sys.executable, "-c", script.replace("3_000_000", "1")], env={}, cwd=tmp_path)
    assert busy.cpu_s > idle.cpu_s
    assert busy.peak_bytes > 2**20


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 3:\nbecause"):
        measure([sys.executable, "-c", "print('because'); raise SystemExit(3)"], env={}, cwd=tmp_path)


def test_targets_are_held_against_what_was_measured() -> None:
    samples = Samples()
    for vms, cpu_s in ((10, 0.5), (100, 1.4), (1000, 19.4)):
        samples.add("apply again", vms, Cost(cpu_s + 1, 3.0, 10**6 * vms))
        samples.add("apply again", vms, Cost(cpu_s, 2.0, 10**6 * vms))
    samples.add("ansible-core: apply again", 100, Cost(140.0, 100.0, 1))
    told = {target.what.split(":")[0] + target.what[-4:]: (target.measured, target.met) for target in _targets(samples)}
    assert told == {
        "apply again of 100 VMs 100": ("100", True),
        "apply again of 100 VMs 0.6": ("1.4", False),
        "apply againimes": ("2", False),  # 0.02 s each from 100 on, 0.01 s before
        "first apply of 100 VMs 1.5": ("not measured", None),
        "apply againnone": ("0", True),
        "validate of 50 VMs 0.3": ("not measured", None),
        "apply again of 1000 VMs 150": ("1e+03", False),
    }


def test_the_table_tells_which_is_the_cheaper() -> None:
    samples = Samples()
    samples.add("destroy", 1, Cost(0.3, 0.4, 10**6))
    samples.add("bare: removing", 1, Cost(0.1, 0.1, 10**6))
    samples.add("apply again", 1, Cost(0.3, 0.4, 10**6))
    samples.add("pyinfra: apply again", 1, Cost(0.9, 4.0, 10**6))
    samples.add("destroy", 11, Cost(0.5, 0.4, 10**6))
    text = render(rows(samples, [1]), growth(samples, [1, 11]), _targets(samples))
    assert [line.split()[-2:] for line in text.splitlines()[1:3]] == [["3.00x", "4.00x"], ["1/3.0", "1/10.0"]]
    assert "20.00" in text  # ms for one more


def _targets(samples: Samples) -> list[Target]:
    return targets(samples, [10, 100, 1000], {10: 0, 100: 0})


def test_an_apply_that_changes_nothing_starts_no_process(tmp_path: Path) -> None:
    require(programs("mke2fs", "debugfs", "ssh-keygen"))
    scene = Scene.prepare(tmp_path)
    playbook = scene.playbook(2)
    assert scene.processes_started("apply", playbook) > 0
    assert scene.processes_started("apply", playbook) == 0


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    require(programs("mke2fs", "debugfs", "ssh-keygen"))
    argv = [sys.executable, "-m", "benchmarks", "--sizes", "1", "--rounds", "1", "--no-peers"]
    done = subprocess.run(
        [*argv, "--scratch", str(tmp_path), "-o", str(tmp_path / "out.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    compared = {row["what"] for row in document["rows"]}
    assert compared >= {"first apply", "apply again", "apply --check", "destroy", "validate", "--help"}
    assert document["programs_per_vm"]["mke2fs -q"] == 1
    assert document["processes_started_by_apply_again"] == {"1": 0}
    assert document["machine"]["kernel"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]
