# SPDX-License-Identifier: Apache-2.0
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from mammo_dp.report.compare import collect
from mammo_dp.report.figures import attack_curves, risk, utility_privacy
from tests.report.conftest import Tree

Make = Callable[..., Tree]
DRAW = (utility_privacy, risk, attack_curves)


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]


@pytest.mark.parametrize("draw", DRAW)
def test_figure_is_the_same_twice_and_loads_nothing(tree: Tree, draw: Callable) -> None:  # type: ignore[type-arg]
    rows = collect(tree.runs)
    svg = draw(rows)
    assert svg == draw(rows)
    links = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', svg)
    assert links
    assert all((a or b).startswith("#") for a, b in links)
    assert "background" not in svg
    assert "prefers-color-scheme: dark" in svg


def test_utility_figure_names_axis_units_series_and_infinity(tree: Tree) -> None:
    found = texts(utility_privacy(collect(tree.runs)) or "")
    assert "ε of the private training stage (unit patient, δ = 0.0001)" in found
    assert "AUROC on val, 95 % interval" in found
    for label in ("from phantom crops", "from synthetic crops", "not private, from phantom crops"):
        assert label in found
    assert "hollow: end-to-end ε is infinite" in found


def test_hollow_is_not_in_the_legend_where_every_epsilon_holds(make_tree: Make) -> None:
    found = texts(utility_privacy(collect(make_tree(starts=("phantom",)).runs)) or "")
    assert not any("infinite" in text for text in found)


def test_risk_figure_names_each_attacked_run(tree: Tree) -> None:
    found = texts(risk(collect(tree.runs)) or "")
    assert {"baseline", "dp/eps6_phantom", "dp/eps6_gan"} <= set(found)
    assert any("unit patient" in text for text in found)


def test_ids_of_the_figures_do_not_collide_on_one_page(tree: Tree) -> None:
    rows = collect(tree.runs)
    ids = [set(re.findall(r'\bid="([^"]*)"', draw(rows) or "")) for draw in DRAW]
    assert all(ids)
    assert len(set.union(*ids)) == sum(map(len, ids))


def test_no_figure_without_what_it_shows(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    rows = collect(tree.runs)
    assert utility_privacy(rows) is None
    rows[0].__dict__["attacker"] = None
    rows[0].__dict__["attack"] = None
    assert risk(rows) is None
    assert attack_curves(rows) is None
