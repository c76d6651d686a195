"""What a playbook asks for as a graph: the very resources of an apply, and two ways to draw them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from banger.cli import cli
from banger.cli.graph import mermaid, svg
from banger.core.graph import Graph, Group, graph_of
from banger.errors import PlaybookError
from tests.simulated.world import World

Draw = Callable[[str], Graph]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("w"))


@pytest.fixture
def drawn(world: World) -> Draw:
    world.blocked = set()

    def draw(text: str) -> Graph:
        path = world.directory / "p.yml"
        path.write_text(text)
        return graph_of(world.session(), path, {})

    return draw


IMAGE = "- images: [{name: tiny, source: tiny, work_seed: 32MiB}]\n"
TWO = f"""{IMAGE}
- defaults: {{image: tiny, storage: overlay, network: user, vmm: qemu}}
  vms: [{{name: web, work_disk: 64MiB}}, {{name: db, state: stopped}}, {{name: gone, state: absent}}]
"""
MERMAID = """\
flowchart LR
    subgraph g0 ["image tiny"]
        n0["BASE"]
        n1["IMAGE"]
    end
    subgraph g1 ["network user"]
        n2["network/user"]
    end
    subgraph g2 ["VM web"]
        n3["web/directory"]
        n4["web/root/upper"]
        n5["web/root/guest-files"]
        n6["web/work/disk"]
        n7["web/work/guest-files"]
        n8["web/vmm"]
        n9["web/ready"]
    end
    subgraph g3 ["VM db"]
        n10["db/directory"]
        n11["db/root/upper"]
        n12["db/root/guest-files"]
    end
    n1 --> n4
    n1 --> n6
    n1 --> n11
    n2 --> n8
    n0 --> n1
    n3 --> n4
    n3 --> n6
    n4 --> n5
    n6 --> n7
    n5 --> n8
    n7 --> n8
    n8 --> n9
    n10 --> n11
    n11 --> n12"""

TEN = f"""{IMAGE}
- images: [{{name: small, source: tiny}}]
- defaults: {{image: tiny, storage: overlay, network: user, vmm: qemu, work_disk: 64MiB}}
  vms:
    - {{name: "web-{{{{ item }}}}", loop: [1, 2, 3, 4, 5]}}
    - {{name: "db-{{{{ item }}}}", loop: [1, 2], image: small, work_disk: none, storage: file}}
    - {{name: "micro-{{{{ item }}}}", loop: [1, 2], storage: dm, network: tap, vmm: firecracker}}
    - {{name: "off", state: stopped}}
"""


def test_mermaid_of_two_vms_is_as_written_here(drawn: Draw) -> None:
    graph = drawn(TWO)
    base, image = graph.groups[0].keys
    assert mermaid(graph) == MERMAID.replace("BASE", base).replace("IMAGE", image)


def test_mermaid_takes_any_key() -> None:
    text = mermaid(Graph((Group("vm", "end", ('a"b', "c#1")),), (('a"b', "c#1"),)))
    assert text.splitlines()[1:] == [
        '    subgraph g0 ["VM end"]',
        '        n0["a#quot;b"]',
        '        n1["c#35;1"]',
        "    end",
        "    n0 --> n1",
    ]


def test_graph_has_the_resources_that_an_apply_makes(world: World) -> None:
    path = world.write()
    keys = graph_of(world.session(), path, {}).keys
    assert not world.home.root.exists(), "the host is only looked at"
    assert world.host.files.list(world.directory) == []
    world.apply(path)
    made = [action["resource"] for event in world.events if event["type"] == "plan" for action in event["actions"]]
    assert set(keys) - {"network/user"} == set(made)
    assert graph_of(world.session(), path, {}).keys == keys, "what is there already is shown too"


def test_shared_things_are_there_once(drawn: Draw) -> None:
    graph = drawn(TEN)
    assert len(graph.keys) == len(set(graph.keys))
    shared = {group.title: group.keys for group in graph.groups if group.kind != "vm"}
    assert list(shared) == ["image tiny", "image small", "network user", "network tap"]
    assert [key.rpartition("/")[2] for key in shared["image tiny"]] == ["rootfs", "customised", "vmlinux"]
    assert shared["image small"] == (), "it is the other one's base"
    kernel = shared["image tiny"][-1]
    assert [key for needed, key in graph.edges if needed == kernel] == ["micro-1/vmm", "micro-2/vmm"]
    assert ("network/tap", "micro-1/network/tap") in graph.edges
    assert (shared["image tiny"][0], "db-1/root/copy") in graph.edges


def test_edges_that_others_imply_are_left_out(drawn: Draw) -> None:
    edges = drawn(TWO).edges
    assert ("web/root/guest-files", "web/vmm") in edges
    assert ("web/directory", "web/vmm") not in edges


def test_layer_is_the_longest_way() -> None:
    graph = Graph((Group("vm", "v", ("a", "b", "c", "d")),), (("a", "b"), ("b", "c"), ("a", "d"), ("c", "d")))
    assert graph.layers(graph.keys) == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert graph.layers(["b", "d"]) == {"b": 0, "d": 0}


def test_wrong_playbook_is_refused_as_by_apply(drawn: Draw) -> None:
    with pytest.raises(PlaybookError) as refused:
        drawn(f"{IMAGE}- vms: [{{name: v, image: tiny, network: user, storage: nope, vmm: qemu}}]\n")
    (problem,) = refused.value.problems
    assert "storage_nope" in problem.message


# --- SVG


def boxes(root: ET.Element) -> dict[str, tuple[float, float, float, float]]:
    """The nodes' boxes by key: left, top, right, bottom."""
    found = {}
    for node in root.iter(f"{SVG}g"):
        box, text = node.find(f"{SVG}rect"), node.find(f"{SVG}text")
        assert box is not None and text is not None
        x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert str(text.text) not in found
        found[str(text.text)] = (x, y, x + width, y + height)
    return found


def lines(root: ET.Element) -> dict[str, list[tuple[float, float]]]:
    """The corners of each edge's line, by its title."""
    found = {}
    for path in root.iter(f"{SVG}path"):
        title = path.find(f"{SVG}title")
        if title is None:  # the arrow's head
            continue
        x = y = 0.0
        corners = []
        for command, first, second in re.findall(r"([MHVh])([-\d.]+)(?: ([-\d.]+))?", path.attrib["d"]):
            if command == "M":
                x, y = float(first), float(second)
            elif command == "V":
                y = float(first)
            else:
                x = float(first) + (x if command == "h" else 0.0)
            corners.append((x, y))
        found[str(title.text)] = corners
    return found


def test_svg_of_ten_vms_has_every_key_and_edge_and_nothing_covers_anything(drawn: Draw) -> None:
    graph = drawn(TEN)
    text = svg(graph)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), "it needs nothing else"
    root = ET.fromstring(text)
    placed, drawn_lines = boxes(root), lines(root)
    assert set(placed) == set(graph.keys)
    assert set(drawn_lines) == {f"{needed} → {key}" for needed, key in graph.edges}
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for key, (left, top, right, bottom) in placed.items():
        assert 0 <= left < right <= width and 0 <= top < bottom <= height, key
        for other, (l2, t2, r2, b2) in placed.items():
            assert other == key or right < l2 or r2 < left or bottom < t2 or b2 < top, f"{key} is on {other}"
    for title, corners in drawn_lines.items():
        ends = title.split(" → ")
        assert corners[0][0] == placed[ends[0]][2] and corners[-1][0] == placed[ends[1]][0], title
        for (x1, y1), (x2, y2) in pairwise(corners):
            for key, (left, top, right, bottom) in placed.items():
                apart = max(x1, x2) <= left or min(x1, x2) >= right or max(y1, y2) <= top or min(y1, y2) >= bottom
                assert apart, f"{title} goes through {key}"


def test_svg_takes_any_key() -> None:
    root = ET.fromstring(svg(Graph((Group("vm", "v", ("a<b>&", 'c"')),), (("a<b>&", 'c"'),))))
    assert set(boxes(root)) == {"a<b>&", 'c"'}


def test_command_draws_both_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "home"))
    path = tmp_path / "p.yml"
    path.write_text(
        "- images: [{name: i, source: debootstrap}]\n"
        "  vms: [{name: '{{ who }}', image: i, storage: overlay, network: user, vmm: qemu}]\n"
    )
    done = CliRunner().invoke(cli, ["graph", str(path), "-e", "who=web"])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "flowchart LR"), done.output
    assert '["web/vmm"]' in done.stdout
    done = CliRunner().invoke(cli, ["graph", str(path), "-e", "who=web", "--format", "svg"])
    assert "web/vmm" in boxes(ET.fromstring(done.stdout))
    assert not (tmp_path / "home").exists()
