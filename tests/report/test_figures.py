# SPDX-License-Identifier: Apache-2.0
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from classifier.evaluate import Estimate
from mammo_dp.drawing import (
    SERIES,
    WIDTH,
    as_svg,
    mark,
    new_figure,
    series,
    shortened,
    style,
    text_width,
    ticks,
)
from mammo_dp.report.collect import collect
from mammo_dp.report.figures import draw_lineage, utility_privacy
from mammo_dp.report.lineage import Node
from mammo_dp.report.page import figures
from tests.report.conftest import Tree, write_sealed

Make = Callable[..., Tree]
SVG = "{http://www.w3.org/2000/svg}"
NAMES = {"utility", "calibration", "roc", "bounds", "curves", "stress", "lineage"}


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
        assert not re.search(
            r"href=\"(?!#)|src=|url\((?!#)|http(?!://www\.w3\.org/2000/svg)|\d{4}-\d\d", svg
        )
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        labels = (root.get("aria-labelledby") or "").split()
        told = {node.get("id"): "".join(node.itertext()) for node in root.iter()}
        assert labels == [f"{name}-title", f"{name}-desc"]
        assert all(told[label] for label in labels)


def test_figures_follow_the_readers_colours_and_fonts_and_share_no_id(
    drawn: dict[str, str],
) -> None:
    ids: list[str] = []
    for svg in drawn.values():
        rules = svg[svg.index("<style>") : svg.index("</style>")]
        assert "prefers-color-scheme:dark" in rules
        assert "print" in rules
        outside = svg.replace(rules, "")
        assert not re.search(r"#[0-9a-f]{6}(?![0-9a-f])|font-family", outside)
        stated = set(re.findall(r"--(\w+):", rules)) | {"paper"}
        assert set(re.findall(r"var\(--(\w+)", outside)) <= stated
        found = re.findall(r' id="([^"]+)"', svg)
        assert set(re.findall(r"#(\w+)", outside)) <= set(found)
        ids += found
    assert len(set(ids)) == len(ids)


def test_every_mark_lies_within_the_canvas(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)
        _, _, width, height = map(float, (root.get("viewBox") or "").split())
        shapes = {node for defs in root.iter(f"{SVG}defs") for node in defs.iter()}
        for node in root.iter():
            if node in shapes:  # around the place of a marker
                continue
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", node.get("d") or "")]
            across = [*numbers[::2], float(node.get("x") or 0)]
            down = [*numbers[1::2], float(node.get("y") or 0)]
            assert -0.5 <= min(across) <= max(across) <= width + 0.5
            assert -0.5 <= min(down) <= max(down) <= height + 0.5


def test_words_lie_within_the_canvas_and_below_the_axis(drawn: dict[str, str]) -> None:
    """Whatever the font: by an upper estimate of the width of each word."""
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        _, _, width, _ = map(float, (root.get("viewBox") or "").split())
        level = [n for n in root.iter(f"{SVG}text") if "rotate" not in (n.get("transform") or "")]
        for node in level:
            size = float(re.findall(r"font-size: ([\d.]+)", node.get("style") or "")[0])
            wide = text_width(node.text or "", size)
            anchor = re.findall(r"text-anchor: (\w+)", node.get("style") or "")[0]
            left = float(node.get("x") or 0) - wide * {"start": 0, "middle": 0.5, "end": 1}[anchor]
            assert left + wide <= width + 12, (name, node.text)
            assert left >= -12, (name, node.text)


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
    write_sealed(path, json.loads(path.read_text()) | {"statements": [inherited]})
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
    with style():
        figure = new_figure(100, 100)
        axes = figure.subplots()
        axes.set_xlabel("a < b & c")
        mark(axes, 0, Estimate(1, 0, 2), colour=SERIES[0], marker="o", words='"<script>"')
        svg = as_svg(figure, name="x", title="t < u", description="d & e")
    assert "a &lt; b &amp; c" in svg
    assert "<script>" not in svg
    root = ElementTree.fromstring(svg)
    assert '"<script>"' in [node.text for node in root.iter(f"{SVG}title")]


def test_no_line_connects_models_that_were_measured_on_different_patients(
    make_tree: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    plot = Axes.plot

    def counted(axes: Axes, *data: Any, **style: Any) -> list[Line2D]:
        lengths.append(len(data[0]))
        return plot(axes, *data, **style)

    monkeypatch.setattr(Axes, "plot", counted)
    _, one, six, sixty = collect(make_tree((1, 6, 60), ("phantom",)).runs)
    utility_privacy([one, six, sixty])
    assert lengths.count(3) == 1
    elsewhere = replace(sixty, measured={**sixty.measured, "split": "test"})
    text = utility_privacy([one, six, elsewhere])
    assert lengths.count(3) == 1
    assert "AUROC on test, val, 95 % interval" in texts(text or "")


def test_a_value_without_an_interval_has_no_line() -> None:
    found = []
    for low in (0.0, math.nan):
        with style():
            figure = new_figure(100, 100)
            axes = figure.subplots()
            mark(axes, 0, Estimate(1, low, 2), colour=SERIES[0], marker="o")
            found.append(len(axes.lines))
    assert found == [2, 1]


def test_labels_that_would_touch_are_left_out() -> None:
    with style():
        axes = new_figure(WIDTH, 100).subplots()
        axes.set_xscale("log")
        axes.set_xlim(100, 1)
        ticks(axes.xaxis, [90, 89, 10, 2], ["90.0", "89.0", "10.0", "2.00"])
        shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == ["90.0", "", "10.0", "2.00"]


def test_long_words_lose_their_middle_and_then_fit() -> None:
    words = "a_very_long_name_of_a_run"
    short = shortened(words, 80, 12)
    assert text_width(short, 12) <= 80
    assert (short[0], short[-1]) == ("a", "n")
    assert "…" in short
    assert shortened("short", 80, 12) == "short"


def test_a_parent_stands_above_its_child_and_boxes_do_not_overlap() -> None:
    nodes = {
        "c": Node(title="c", lines=[], kind="other", parents={"a": "data", "b": "weights"}),
        "b": Node(title="b", lines=[], kind="other", parents={"a": "data"}),
        "a": Node(title="a", lines=[], kind="other"),
        "d": Node(title="d", lines=[], kind="other", parents={"c": "x", "e": "y"}),
        "e": Node(title="e", lines=[], kind="other"),
    }
    root = ElementTree.fromstring(draw_lineage(nodes, "words"))
    boxes = {}
    for group in root.iter(f"{SVG}g"):
        path, title = group.find(f"{SVG}path"), group.find(f"{SVG}title")
        assert path is not None
        assert title is not None
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d") or "")]
        x, y = min(numbers[::2]), min(numbers[1::2])
        boxes[title.text] = [x, y, max(numbers[::2]) - x, max(numbers[1::2]) - y]
    for child, node in nodes.items():
        for parent in node.parents:
            assert boxes[parent][1] + boxes[parent][3] < boxes[child][1]
    for one in boxes.values():
        for other in boxes.values():
            if one is not other and one[1] == other[1]:
                assert one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]


def test_losses_on_distorted_crops_say_which_exclude_no_loss(drawn: dict[str, str]) -> None:
    words = " ".join(texts(drawn["stress"]))
    assert "noise" in words
    assert "gain" in words
    told = ElementTree.fromstring(drawn["stress"])
    desc = next(node for node in told.iter() if node.get("id") == "stress-desc").text or ""
    assert re.search(r"noise: -0\.\d+ \[-0\.\d+, ", desc)
    assert "gain: 0.000 [0.000, 0.000]" in desc


def test_more_series_than_colours_are_told_apart_by_their_markers() -> None:
    looks = [series(place) for place in range(2 * len(SERIES))]
    assert len(set(looks)) == len(looks)
    assert looks[0][0] == looks[len(SERIES)][0]
