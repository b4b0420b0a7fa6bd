# SPDX-License-Identifier: Apache-2.0
import json
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from mammo_dp.report.compare import collect
from mammo_dp.report.content import figures
from mammo_dp.report.drawings.lineage import Node, draw_lineage
from mammo_dp.report.drawings.svg import Drawing, Scale, shortened, text_width
from mammo_dp.report.drawings.utility import utility_privacy
from tests.report.conftest import Tree

Make = Callable[..., Tree]
NAMES = {"utility", "calibration", "roc", "bounds", "curves", "lineage"}


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]


@pytest.fixture(scope="module")
def drawn(tree: Tree) -> dict[str, str]:
    rows = collect(tree.runs)
    return figures(rows, rows[1])


def test_figures_are_the_same_twice_load_nothing_and_say_what_they_show(
    tree: Tree, drawn: dict[str, str]
) -> None:
    rows = collect(tree.runs)
    assert drawn.keys() == NAMES
    assert drawn == figures(rows, rows[1])
    for name, svg in drawn.items():
        assert not re.search(r"href|src=|url\(|http(?!://www\.w3\.org/2000/svg)", svg)
        assert "prefers-color-scheme:dark" in svg
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        labels = (root.get("aria-labelledby") or "").split()
        told = {node.get("id"): "".join(node.itertext()) for node in root.iter()}
        assert labels == [f"{name}-title", f"{name}-desc"]
        assert all(told[label] for label in labels)


def test_every_mark_lies_within_the_canvas(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)
        _, _, width, height = map(float, (root.get("viewBox") or "").split())
        for node in root.iter():
            for names, limit in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "cy"), height)):
                for name in names:
                    assert 0 <= float(node.get(name) or 0) <= limit


def test_utility_figure_names_axis_units_series_and_infinity(drawn: dict[str, str]) -> None:
    found = texts(drawn["utility"])
    assert "ε end to end (unit patient, δ = 0.0001, zero-out)" in found
    assert "AUROC on val, 95 % interval" in found
    assert {"from phantom crops", "from synthetic crops", "∞", "no guarantee", "5.48"} <= {*found}
    assert "hollow: private last stage, no guarantee" in found
    assert "cross: trained without privacy" in found


def test_no_lane_where_every_epsilon_holds(make_tree: Make) -> None:
    rows = collect(make_tree(starts=("phantom",)).runs)
    found = texts(utility_privacy([row for row in rows if row.is_private]) or "")
    assert "∞" not in found
    assert not any("hollow" in text for text in found)


def test_a_model_of_synthetic_crops_without_guarantee_has_a_place_in_the_lane(
    make_tree: Make,
) -> None:
    tree = make_tree(starts=("phantom",))
    tree.test("pretrain_gan", 0.6)
    path = tree.runs / "pretrain_gan" / "privacy.json"
    inherited = tree.statement("c" * 64, None, voided=True)  # the generator's, not its own
    path.write_text(json.dumps(json.loads(path.read_text()) | {"statements": [inherited]}))
    svg = utility_privacy(collect(tree.runs)) or ""
    assert "pretrain_gan: AUROC 0.600" in svg
    assert "from random weights" in texts(svg)


def test_attack_figures_name_each_attacked_run_and_each_attack(drawn: dict[str, str]) -> None:
    found = texts(drawn["bounds"])
    assert {"baseline", "dp/eps6_phantom", "dp/eps6_gan"} <= set(found)
    assert any("unit patient" in text for text in found)
    assert "loss-threshold" in texts(drawn["curves"])


def test_no_figure_without_what_it_shows(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    rows = collect(tree.runs)
    rows[0].__dict__["attacker"] = None
    rows[0].__dict__["attack"] = None
    (rows[0].evaluation.folder / "predictions.csv").unlink()
    assert figures(rows, rows[0]).keys() == {"lineage"}


def test_words_are_escaped_in_drawings() -> None:
    drawing = Drawing(100)
    drawing.text((1, 1), "a < b & c")
    drawing.titled('"<script>"', 0)
    svg = drawing.svg("x", "t < u", "d & e")
    assert "a &lt; b &amp; c" in svg
    assert "<script>" not in svg
    ElementTree.fromstring(svg)


def test_scales_hit_their_ends_and_logarithms_keep_ratios() -> None:
    linear = Scale(low=2, high=4, start=0, end=100)
    assert [linear(v) for v in (2, 3, 4, 9)] == [0, 50, 100, 100]
    assert linear.ticks(4) == [2, 2.5, 3, 3.5, 4]
    log = Scale(low=0.01, high=100, start=0, end=80, log=True)
    assert log(1) == pytest.approx(40)
    assert log.ticks(9) == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_long_words_lose_their_middle_and_then_fit() -> None:
    words = "a_very_long_name_of_a_run"
    short = shortened(words, 80, 12)
    assert text_width(short, 12) <= 80
    assert (short[0], short[-1]) == ("a", "n")
    assert "…" in short
    assert shortened("short", 80, 12) == "short"


def test_a_parent_stands_above_its_child_and_boxes_do_not_overlap() -> None:
    nodes = {
        "c": Node(title="c", lines=[], css="muted", parents={"a": "data", "b": "weights"}),
        "b": Node(title="b", lines=[], css="muted", parents={"a": "data"}),
        "a": Node(title="a", lines=[], css="muted"),
        "d": Node(title="d", lines=[], css="muted", parents={"c": "x", "e": "y"}),
        "e": Node(title="e", lines=[], css="muted"),
    }
    root = ElementTree.fromstring(draw_lineage(nodes, "words"))
    boxes = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        rect = group.find("{http://www.w3.org/2000/svg}rect")
        title = group.find("{http://www.w3.org/2000/svg}title")
        assert rect is not None
        assert title is not None
        boxes[title.text] = [float(rect.get(k) or 0) for k in ("x", "y", "width", "height")]
    for child, node in nodes.items():
        for parent in node.parents:
            assert boxes[parent][1] + boxes[parent][3] < boxes[child][1]
    for one in boxes.values():
        for other in boxes.values():
            if one is not other and one[1] == other[1]:
                assert one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
