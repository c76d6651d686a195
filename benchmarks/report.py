"""From costs to what one reads: rows of ratios, and the targets with what was measured of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.measure import Cost, Samples

FLOORS = {
    "first apply": "bare: what it needs",
    "first apply, the same programs": "bare: the same programs",
    "apply again": "bare: looking",
    "apply --check": "bare: looking",
    "destroy": "bare: removing",
    "validate": "bare: parsing",
    "--help": "bare: an interpreter",
}
"""What each command is compared with; the second row of a first apply is the same command, and another floor."""
PEERS = ("ansible-core", "pyinfra")
_SAME = ", the same programs"


@dataclass(frozen=True, slots=True)
class Row:
    """banger beside `other`, whose cost is the unit of the ratios. `runs`: how often banger was measured."""

    what: str
    vms: int
    banger: Cost
    other: str
    cost: Cost
    runs: int

    @property
    def cpu_ratio(self) -> float:
        return self.banger.cpu_s / self.cost.cpu_s

    @property
    def wall_ratio(self) -> float:
        return self.banger.wall_s / self.cost.wall_s


@dataclass(frozen=True, slots=True)
class Target:
    """Something to be held; `met` is None when this run did not measure it."""

    what: str
    measured: str
    met: bool | None


def rows(samples: Samples, sizes: Iterable[int]) -> list[Row]:
    """Every command at every size beside its floor, then beside each other tool."""
    found = []
    for vms in sizes:
        for what, floor in FLOORS.items():
            found.append(_row(samples, what, vms, floor))
        for peer in PEERS:
            found += [_row(samples, what, vms, f"{peer}: {what}") for what in ("first apply", "apply again")]
    return [row for row in found if row]


def _row(samples: Samples, what: str, vms: int, other: str) -> Row | None:
    command = what.removesuffix(_SAME)
    ours, theirs = samples.best(command, vms), samples.best(other, vms)
    return Row(what, vms, ours, other, theirs, samples.count(command, vms)) if ours and theirs else None


def growth(samples: Samples, sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """What one more VM costs (s of CPU) between each size and the next, by command, floor or other tool."""
    commands = ("first apply", "apply again", "apply --check", "destroy")
    peers = tuple(f"{peer}: {what}" for peer in PEERS for what in ("first apply", "apply again"))
    names = dict.fromkeys(
        name for what in FLOORS if what.removesuffix(_SAME) in commands for name in (what, FLOORS[what])
    )
    found = {what: _per_vm(samples, what, sizes) for what in (*names, *peers)}
    return {what: costs for what, costs in found.items() if costs}


def _per_vm(samples: Samples, what: str, sizes: Sequence[int]) -> dict[str, float]:
    found = {}
    for fewer, more in pairwise(sizes):
        low, high = samples.best(what, fewer), samples.best(what, more)
        if low and high:
            found[f"{fewer} to {more}"] = (high.cpu_s - low.cpu_s) / (more - fewer)
    return found


def targets(samples: Samples, sizes: Sequence[int], started: Mapping[int, int]) -> list[Target]:
    """What banger promises itself, and how far this run shows it."""
    again, ansible = samples.best("apply again", 100), samples.best("ansible-core: apply again", 100)
    first, floor = samples.best("first apply", 100), samples.best("bare: what it needs", 100)
    validate, largest = samples.best("validate", 50), samples.best("apply again", 1000)
    times = ansible.cpu_s / again.cpu_s if again and ansible else None
    over = first.cpu_s / floor.cpu_s if first and floor else None
    each = list(_per_vm(samples, "apply again", [size for size in sizes if size >= 10]).values())
    steeper = each[-1] / each[0] if len(each) > 1 else None
    return [
        _least("apply again of 100 VMs: times faster than ansible-core, at least 100", times, 100),
        _most("apply again of 100 VMs: CPU seconds, at most 0.6", _cpu(again), 0.6),
        _most("apply again: one more VM, from 100 on as from 10 on, at most 1.2 times", steeper, 1.2),
        _most("first apply of 100 VMs: times its floor, at most 1.5", over, 1.5),
        _most("apply again: processes started, none", max(started.values(), default=None), 0),
        _most("validate of 50 VMs: CPU seconds, at most 0.3", _cpu(validate), 0.3),
        _most("apply again of 1000 VMs: peak MB, at most 150", largest.peak_bytes / 1e6 if largest else None, 150),
    ]


def _cpu(cost: Cost | None) -> float | None:
    return cost.cpu_s if cost else None


def _least(what: str, measured: float | None, limit: float) -> Target:
    return Target(what, _number(measured), None if measured is None else measured >= limit)


def _most(what: str, measured: float | None, limit: float) -> Target:
    return Target(what, _number(measured), None if measured is None else measured <= limit)


def _number(measured: float | None) -> str:
    return "not measured" if measured is None else f"{measured:.3g}"


def render(table: Sequence[Row], more: Mapping[str, Mapping[str, float]], aims: Sequence[Target]) -> str:
    """As text. A ratio is what banger costs in units of the other: `2.00x` is twice as much, `1/20.0` a twentieth.

    `more`: what one more VM costs, as `growth` tells it.
    """
    head = ("VMs", "command", "CPU s", "wall s", "peak MB", "beside", "CPU s", "wall s", "CPU", "wall")
    lines = [head, *(_cells(row) for row in table)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [_line(line, widths, left={1, 5}) for line in lines]
    spans = list(dict.fromkeys(span for costs in more.values() for span in costs))
    if spans:
        lines = [("one more VM, CPU ms", *spans)]
        for what, costs in more.items():
            lines.append((what, *(f"{1000 * costs[span]:.2f}" if span in costs else "" for span in spans)))
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        text += ["", *(_line(line, widths, left={0}) for line in lines)]
    words = {True: "met", False: "MISSED", None: "-"}
    text += ["", *(f"{words[aim.met]:<7} {aim.what}: {aim.measured}" for aim in aims)]
    return "\n".join(text) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    """`left`: the columns that are words."""
    columns = enumerate(zip(cells, widths, strict=True))
    padded = (cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in columns)
    return "  ".join(padded).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    ours, theirs = row.banger, row.cost
    return (
        str(row.vms) if row.vms else "",
        row.what,
        *_costs(ours),
        f"{ours.peak_bytes / 1e6:.0f}",
        row.other,
        *_costs(theirs),
        _ratio(row.cpu_ratio),
        _ratio(row.wall_ratio),
    )


def _costs(cost: Cost) -> tuple[str, str]:
    return f"{cost.cpu_s:.3f}", f"{cost.wall_s:.3f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio >= 1 else f"1/{1 / ratio:.1f}"
