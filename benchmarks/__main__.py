"""`python -m benchmarks`: measure, print the table, write it down."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.floor import NEEDED
from benchmarks.measure import Samples
from benchmarks.peers import Peers, first_and_second
from benchmarks.scene import Scene

_AGAIN = 3
"""How often what changes nothing is run for each run of what does."""


def main() -> None:
    options = _options()
    peers = Peers.installed() if options.peers else None
    with tempfile.TemporaryDirectory(prefix="banger-bench-", dir=options.scratch) as directory:
        run = _Run(Scene.prepare(Path(directory)), peers, options.peers_up_to, options.rounds)
        run.once()
        for done, vms in enumerate(options.sizes, 1):
            run.at(vms)
            if options.output:  # large sizes take long: what is known by now is kept
                document = run.document(options.sizes[:done], machine.describe(Path(directory)))
                Path(options.output).write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(run.text(options.sizes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--sizes", type=_sizes, default=[1, 10, 100], help="numbers of VMs (default: 1,10,100)")
    parser.add_argument("--rounds", type=int, help="of each size (default: 3; 2 from 100 VMs on, 1 above)")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="measure other tools, too (installs them)"
    )
    parser.add_argument("--peers-up-to", type=int, default=100, metavar="VMS", help="not with more (default: 100)")
    parser.add_argument("--scratch", help="a directory on the file system to measure on (default: the temporary one)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write all of it there, as JSON")
    return parser.parse_args()


def _sizes(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


class _Run:
    """One run of all there is to measure; commands and their floors take turns, so that both see the same machine."""

    def __init__(self, scene: Scene, peers: Peers | None, peers_up_to: int, rounds: int | None) -> None:
        self._scene = scene
        self._peers = peers
        self._peers_up_to = peers_up_to
        self._rounds = rounds
        self._samples = Samples()
        self._started: dict[int, int] = {}
        self._programs = self._warm_up()
        self._extra = self._programs - Counter(NEEDED)

    def _warm_up(self) -> Counter[str]:
        """Everything once, for bytecode and caches; tells which programs a first apply runs for one VM."""
        scene = self._scene
        playbook = scene.playbook(1)
        scene.banger("apply", playbook)
        scene.floor_of_first(1, {})
        for command in (["apply", "--check", playbook], ["apply", playbook], ["validate", playbook], ["--help"]):
            scene.banger(*command)
        if self._peers:
            for tool in self._peers.tools(scene).values():
                first_and_second(scene, tool, scene.six_files())
        scene.floor("noop", scene.bare, scene.directory / playbook)
        scene.floor("destroy", scene.bare)
        scene.banger("destroy", playbook)
        return scene.programs_per_vm()

    def once(self) -> None:
        """What needs no VMs, or none but in a playbook."""
        scene, add = self._scene, self._samples.add
        for _ in range((self._rounds or 3) * _AGAIN):
            add("--help", 0, scene.banger("--help"))
            add("bare: an interpreter", 0, scene.nothing())
            for vms in (1, 50):
                playbook = scene.long_playbook(vms)
                add("validate", vms, scene.banger("validate", playbook))
                add("bare: parsing", vms, scene.floor("parse", scene.directory / playbook))

    def at(self, vms: int) -> None:
        """A life of so many VMs, a few times over."""
        rounds = self._rounds or (3 if vms < 100 else 2 if vms == 100 else 1)
        for left in reversed(range(rounds)):
            sys.stderr.write(f"{vms} VMs: {left + 1} to go\n")
            self._life(vms, last=not left)

    def _life(self, vms: int, *, last: bool) -> None:
        scene, add = self._scene, self._samples.add
        playbook = scene.playbook(vms)
        add("first apply", vms, scene.banger("apply", playbook))
        if self._extra:
            add("bare: the same programs", vms, scene.floor_of_first(vms, self._extra))
        add("bare: what it needs", vms, scene.floor_of_first(vms, {}))
        for _ in range(_AGAIN):
            add("apply again", vms, scene.banger("apply", playbook))
            add("apply --check", vms, scene.banger("apply", "--check", playbook))
            add("bare: looking", vms, scene.floor("noop", scene.bare, scene.directory / playbook))
        if last:
            self._started[vms] = scene.processes_started("apply", playbook)
            self._beside(vms)
        add("destroy", vms, scene.banger("destroy", playbook))
        add("bare: removing", vms, scene.floor("destroy", scene.bare))

    def _beside(self, vms: int) -> None:
        if self._peers is None or vms > self._peers_up_to:
            return
        contents = self._scene.six_files()
        for name, tool in self._peers.tools(self._scene).items():
            sys.stderr.write(f"{vms} VMs: {name}\n")
            first, again = first_and_second(self._scene, tool, contents)
            self._samples.add(f"{name}: first apply", vms, first)
            self._samples.add(f"{name}: apply again", vms, again)

    # --- what came of it

    def rows(self, sizes: list[int]) -> list[report.Row]:
        return report.rows(self._samples, sorted({0, 1, 50, *sizes}))

    def targets(self, sizes: list[int]) -> list[report.Target]:
        return report.targets(self._samples, sizes, self._started)

    def text(self, sizes: list[int]) -> str:
        return report.render(self.rows(sizes), report.growth(self._samples, sizes), self.targets(sizes))

    def document(self, sizes: list[int], where: dict[str, Any]) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "machine": where | ({"peers": self._peers.versions()} if self._peers else {}),
            "rows": [
                {**asdict(row), "cpu_ratio": row.cpu_ratio, "wall_ratio": row.wall_ratio} for row in self.rows(sizes)
            ],
            "cpu_s_of_one_more_vm": report.growth(self._samples, sizes),
            "programs_per_vm": dict(self._programs),
            "processes_started_by_apply_again": self._started,
            "targets": [asdict(target) for target in self.targets(sizes)],
        }


if __name__ == "__main__":
    main()
