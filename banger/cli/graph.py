"""`banger graph`: what a playbook asks for, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from math import ceil
from pathlib import Path
from xml.sax.saxutils import escape

import click

from banger.cli.compose import open_session
from banger.cli.options import extra_vars_option, playbook_argument
from banger.cli.streams import only_ours
from banger.core.graph import Edge, Graph, Group, graph_of
from banger.core.report import silent
from banger.core.variables import parse_extra


@click.command()
@playbook_argument
@extra_vars_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "svg"]),
    default="mermaid",
    show_default=True,
    help="How to draw it: text for a Markdown file, or a picture.",
)
def graph(playbook: Path, extra_vars: tuple[str, ...], form: str) -> None:
    """Draw what PLAYBOOK asks for: images, networks, and of each VM its disks, guest files, card and VMM.

    An arrow leads from what is needed to what needs it. The host is only looked at.
    """
    with only_ours():
        drawn = graph_of(open_session(silent), playbook, parse_extra(extra_vars))
    click.echo(svg(drawn) if form == "svg" else mermaid(drawn))


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart; nodes have numbers, because any word could be one of Mermaid's own."""
    names = {key: f"n{index}" for index, key in enumerate(graph.keys)}
    lines = ["flowchart LR"]
    for index, group in enumerate(graph.groups):
        lines.append(f'    subgraph g{index} ["{_quoted(group.title)}"]')
        lines += [f'        {names[key]}["{_quoted(key)}"]' for key in group.keys]
        lines.append("    end")
    return "\n".join([*lines, *(f"    {names[needed]} --> {names[key]}" for needed, key in graph.edges)])


def _quoted(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;")


# --- SVG: shared things in a column at the left, a band for each VM, its nodes in columns from left to right ----------

_LETTER = 6.7  # of the font below, px
_FONT = "11px ui-monospace, 'DejaVu Sans Mono', monospace"
_BOX, _ROW = 24, 46  # height of a box, and from one row of boxes to the next
_GUTTER, _PAD, _TITLE = 36, 12, 18
_COLOURS = ("#0b6e99", "#a8480f", "#2e7d32", "#7b3fa0", "#a61e4d", "#5c5f00")
_FILLS = {"image": "#e7f3fa", "network": "#e9f6ea", "vm": "#f5f5f5"}


def svg(graph: Graph) -> str:
    """The graph as one SVG document that needs nothing else."""
    return _Picture(graph).text()


class _Picture:
    """Places every group and node first; a node is at (left, middle)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        shared = [group for group in graph.groups if group.kind != "vm"]
        bands = [group for group in graph.groups if group.kind == "vm"]
        self.sources = _shared_sources(graph, shared)
        self.at: dict[str, tuple[float, float]] = {}
        self.column: dict[str, int] = {}
        self.frames: list[tuple[Group, float, float, float, float]] = []  # left, top, width, height
        right, low = self._placed(shared, _PAD)
        self.trunk = right + _PAD
        left = self.trunk + 6 * len(self.sources) + _PAD if shared else _PAD
        self.width, lowest = self._placed(bands, left)
        self.width, self.height = max(self.width, right) + _PAD, max(low, lowest)

    def _placed(self, groups: Sequence[Group], left: float) -> tuple[float, float]:
        """Put these groups under each other, their columns aligned; where the widest ends, and the last."""
        columned = [(group, self._columns(group)) for group in groups]
        x, lefts = left + _PAD, []
        for aligned in zip_longest(*(columns for _, columns in columned), fillvalue=()):
            lefts.append(x)
            x += max(_width(key) for column in aligned for key in column) + _GUTTER
        right = x - _GUTTER + _PAD if lefts else left
        top = float(_PAD)
        for group, columns in columned:
            height = _TITLE + _ROW * max(map(len, columns), default=0)
            self.frames.append((group, left, top, right - left, height))
            for number, keys in enumerate(columns):
                for row, key in enumerate(keys):
                    self.at[key] = (lefts[number], top + _TITLE + _ROW * (row + 0.5) + 4)
                    self.column[key] = number
            top += height + _PAD
        return right, top

    def _columns(self, group: Group) -> list[list[str]]:
        layers = self.graph.layers(group.keys)
        columns: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
        for key in group.keys:
            columns[layers[key]].append(key)
        return columns

    def text(self) -> str:
        width, height = f"{self.width:.0f}", f"{self.height:.0f}"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
                f' width="{width}" height="{height}" style="font: {_FONT}">',
                '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
                ' orient="auto"><path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>',
                f'<rect width="{width}" height="{height}" fill="#fff"/>',
                *(self._frame(*frame) for frame in self.frames),
                *(self._edge(edge) for edge in self.graph.edges),
                *(self._node(key) for key in self.at),
                "</svg>",
            ]
        )

    def _frame(self, group: Group, left: float, top: float, width: float, height: float) -> str:
        return (
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"'
            f' fill="{_FILLS[group.kind]}" stroke="#999"/>'
            f'<text x="{left + 8:.0f}" y="{top + 15:.0f}" font-weight="bold">{escape(group.title)}</text>'
        )

    def _node(self, key: str) -> str:
        x, y = self.at[key]
        return (
            f'<g><rect x="{x:.0f}" y="{y - _BOX / 2:.0f}" width="{_width(key):.0f}" height="{_BOX}" rx="4"'
            f' fill="#fff" stroke="#333"/><text x="{x + 8:.0f}" y="{y + 4:.0f}">{escape(key)}</text></g>'
        )

    def _edge(self, edge: Edge) -> str:
        """Straight lines that pass between boxes: down in a gutter, and along above the row of what is reached."""
        (x, y), (to_x, to_y) = (self.at[key] for key in edge)
        x += _width(edge[0])
        top, colour = to_y - _BOX / 2, "#555"
        if edge[0] in self.sources and to_x > self.trunk:
            number = self.sources.index(edge[0])
            colour = _COLOURS[number % len(_COLOURS)]
            above = top - 4 - 3 * (number % 4)
            aside = f"h8V{y - _BOX / 2 - 5:.0f}" if self._is_beside(edge[0]) else ""
            trunk = self.trunk + 6 * number
            way = f"M{x:.0f} {y:.0f}{aside}H{trunk:.0f}V{above:.0f}H{to_x - 9:.0f}V{to_y - 6:.0f}H{to_x:.0f}"
        elif self.column[edge[1]] - self.column[edge[0]] == 1:
            way = f"M{x:.0f} {y:.0f}H{to_x - 18:.0f}V{to_y:.0f}H{to_x:.0f}"
        else:
            way = f"M{x:.0f} {y:.0f}h8V{top - 17:.0f}H{to_x - 14:.0f}V{to_y:.0f}H{to_x:.0f}"
        return (
            f'<path d="{way}" fill="none" stroke="{colour}" marker-end="url(#arrow)">'
            f"<title>{escape(' → '.join(edge))}</title></path>"
        )

    def _is_beside(self, key: str) -> bool:
        """Whether another node is to the right of it in its row."""
        (x, y) = self.at[key]
        return any(other_y == y and x < other_x < self.trunk for other_x, other_y in self.at.values())


def _shared_sources(graph: Graph, shared: Sequence[Group]) -> list[str]:
    """The keys of shared groups that VMs stand on, in order."""
    inside = {key for group in shared for key in group.keys}
    return list(dict.fromkeys(needed for needed, key in graph.edges if needed in inside and key not in inside))


def _width(key: str) -> int:
    return 16 + ceil(_LETTER * len(key))
