# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from classifier.evaluate import Estimate
from data_prep.manifest import CropsManifest
from mammo_dp.attacks.ladder.cells import Cell, Rung
from mammo_dp.attacks.ladder.figure import corridor
from mammo_dp.privacy.statement.seals import seal
from mammo_dp.report.collect import (
    BENCHMARK,
    FIDELITY,
    LADDER,
    RECONSTRUCTION,
    ReportError,
    Result,
    collect,
    found,
)
from mammo_dp.report.page import report
from mammo_dp.report.results import benchmark, benchmark_tables, fidelity, ladder, reconstruction
from mammo_dp.runs import close_run, open_run
from tests.report.conftest import Tree, write_sealed

Make = Callable[..., Tree]
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


def rung(name: str, epsilon: float, success: float) -> dict[str, Any]:
    measured = Estimate(success / 2, success / 3, success)
    cells = (
        Cell.of(measured, rung=1, attack="list", metric="named", bound=success, kind="guarantee"),
        Cell.of(measured, rung=3, attack="no prior", metric="NCC at 16 px", bound=0.2, blind=0.1),
        Cell.of(measured, rung=5, attack="rmia", metric="TPR at FPR 0.01", bound=success),
        Cell.of(
            Estimate(0, 0, 0.1), rung=5, attack="weak", metric="TPR at FPR 0.01", bound=success
        ),
    )
    return Rung(
        name=name,
        noise_multiplier=0.0 if name == "none" else 2.0,
        epsilon=epsilon,
        accountant="" if name == "none" else "PLD, dp-accounting 0.6.0",
        auroc=Estimate(0.6, 0.5, 0.7),
        patients=102,
        bounds={},
        cells=cells,
    ).as_json() | {"end_to_end": f"No guarantee behind <{name}>."}


def conditions() -> dict[str, Any]:
    return {"schema": 1, "unit": "patient", "adjacency": "zero-out", "delta": 1e-4}


def a_ladder() -> dict[str, Any]:
    between = {
        "noise": [8.0, 2.0],
        "kappa": 0.01,
        "worst_case": [0.1, 0.4],
        "relaxed": None,
        "prior": [0.2, 0.3],
        "scratch": {"16": [0.1, 0.2], "64": [0.0, 0.1]},
    }
    return conditions() | {
        "conditions": "per patient, δ = 0.0001, zero-out, by PLD, dp-accounting 0.6.0",
        "correlation": 0.7,
        "targets": 12,
        "refuted": ["budget 6: list reaches named <1>"],
        "budgets": [rung("6", 5.999, 0.4), rung("none", float("inf"), 1.0)],
        "between": between,
    }


def a_reconstruction() -> dict[str, Any]:
    qualities = {name: {"ncc": INTERVAL} for name in ("from_scratch", "centred", "prior")}
    budgets = [
        {
            "name": name,
            "mechanism": mechanism,
            "epsilon": epsilon,
            "accountant": accountant,
            "end_to_end": "No guarantee behind <run>." if mechanism else "",
            "isolated": {
                str(edge): {"attacks": qualities, "blind": {"blank": {"ncc": INTERVAL}}}
                for edge in (64, 16, 4)
            },
            "lists": {"named": {"success": INTERVAL, "bound": 0.7}} if mechanism else {},
        }
        for name, mechanism, epsilon, accountant in (
            ("6", {"steps": 3}, 5.999, "PLD, dp-accounting 0.6.0"),
            ("none", None, "infinity", ""),
        )
    ]
    return conditions() | {
        "split": "train",
        "patients": 8,
        "threat_models": {"isolated": "A server <b> with `prior`."},
        "caveats": ["A thumbnail may be read."],
        "budgets": budgets,
    }


def a_benchmark() -> dict[str, Any]:
    cost = {
        "epsilon": 5.999,
        "epsilon_patient": 5.999,
        "unit": "patient",
        "delta": 1e-4,
        "adjacency": "zero-out",
        "accountant": "PLD, dp-accounting 0.6.0",
        "advantage": 0.5,
        "tpr": 0.2,
        "reconstruction": 0.07,
        "exclusions": ["predictions", "the phantoms"],
    }
    row = {
        "set": "val",
        "regime": "dp",
        "budget": 6.0,
        "unit": "patient",
        "seeds": [0, 1],
        "missing": [2],
        "failed": [],
        "metrics": {
            "auroc": INTERVAL
            | {"seed_deviation": 0.01, "patients": 10, "crops": 20, "malignant": 8},
            "auroc, view CC": INTERVAL | {"patients": 9, "crops": 11, "malignant": 4},
        },
        "end_to_end": cost,
        "perhaps_seen": ["It is unknown whose data X used."],
    }
    nothing: dict[str, Any] = {"metrics": {}, "end_to_end": None}
    failed = row | nothing | {"regime": "real", "budget": "none", "failed": [2], "perhaps_seen": []}
    waiting = row | nothing | {"budget": 60.0}
    difference = {
        "evaluated": "val",
        "regime": "real",
        "other": "dp",
        "budget": "none",
        "unit": "",
        "auroc": {"value": 0.1, "low": 0.02, "high": 0.3},
        "unlike": ["trainable"],
        "seeds": 2,
        "spread": None,
    }
    published = {
        "source": "Somebody 2024",
        "data": "theirs",
        "unit": "image",
        "guarantee": "last stage",
        "regime": "DP",
        "auroc": {"6": 0.57},
    }
    content = {
        "schema": 3,
        "title": "A small one",
        "regimes": {"dp": "DP on patients", "real": "Not private"},
        "reference": "real",
        "sets": [{"name": "val", "said": "val is for research."}],
        "rows": [row, failed, waiting],
        "differences": [difference],
        "published": [published],
        "failures": {"real, seed 2": "it broke"},
        "skipped": {},
    }
    return content | {"seal": seal(content)}


def a_fidelity() -> dict[str, Any]:
    score = {"found": INTERVAL, "bound": {"value": 3.0, "low": 2.0, "high": 4.0}, "crops": 20}
    followed = {"found": {"value": 0.25, "low": 0.125, "high": 0.375}, "crops": 40}
    copying = {"copying": {"copies": False}}
    return {
        "schema": 4,
        "notice": "No epsilon covers <this>.",
        "level": 0.95,
        "slices": 16,
        "crops_of_a_half": {"benign": 12, "malignant": 8},
        "real": copying,
        "sources": {
            "eps1": {"scores": {"frechet": score}, **copying},
            "published": {"scores": {"frechet": score}, "copying": {"copies": True}},
        },
        "controllability": {
            "words": "Asked against measured.",
            "attributes": {
                "size_share": {
                    "measure": "correlation",
                    "ceiling": {"found": INTERVAL, "crops": 200},
                    "sources": {"eps1": followed},
                }
            },
        },
    }


def write(folder: Path, name: str, content: dict[str, Any], crops: Path | None = None) -> None:
    inputs = {"data": crops} if crops else {}
    record = open_run(folder, command="attack", config={}, inputs=inputs)
    write_sealed(folder / name, content)
    (folder / "sheet.png").write_bytes(b"picture")
    close_run(record)


def test_a_ladder_becomes_a_table_of_chances_and_its_strongest_membership_attack(
    tmp_path: Path,
) -> None:
    write(tmp_path / "ladder", LADDER, a_ladder())
    (result,) = found(tmp_path, LADDER)
    picture = corridor(result.stored, ["6.00", "∞"], name="corridor")
    said = ladder(result, picture=picture, show_patients=False)
    assert said["head"] == ["Budget", "6", "none"]
    rows = {row[0]: row[1:] for row in said["rows"]}
    assert list(rows)[4:] == [
        "1, list: named",
        "5, rmia: TPR at FPR 0.01",
        "3, no prior: NCC at 16 px",
    ]
    assert rows["ε"] == ["6.00", "∞"]
    assert rows["AUROC (102 patients)"][0] == "0.600"
    assert rows["95 % interval"][0] == "0.500 to 0.700"
    assert rows["1, list: named"] == ["0.200 / 0.400 / —", "0.500 / 1.000 / —"]
    assert "per patient, δ = 0.0001, zero-out, by PLD, dp-accounting 0.6.0" in said["note"]
    assert said["note"].endswith(
        "6, end to end: No guarantee behind <6>. none, end to end: No guarantee behind <none>."
    )
    assert "any adversary, who guesses right with probability 0.01" in said["picture"]
    assert "sign is hidden" not in said["picture"]
    assert said["findings"] == ["budget 6: list reaches named <1>"]
    assert 'aria-labelledby="corridor-title corridor-desc"' in said["picture"]


def test_a_reconstruction_shows_a_thumbnail_and_the_finest_beside_blind_guesses(
    tmp_path: Path,
) -> None:
    write(tmp_path / "attack", RECONSTRUCTION, a_reconstruction())
    said = reconstruction(found(tmp_path, RECONSTRUCTION)[0], show_patients=False)
    assert said["head"][2:5] == ["16 px: no prior", "16 px: prior", "16 px: blind"]
    assert said["head"][5].startswith("64 px")
    assert [row[:2] for row in said["rows"]] == [["6", "6.00"], ["no privacy", "∞"]]
    assert said["rows"][0][-2:] == ["0.500", "0.700"]
    assert said["rows"][1][-2:] == ["—", "1"]
    assert said["note"].endswith(" 6, end to end: No guarantee behind <run>.")


def test_sheets_of_real_patients_are_embedded_only_on_demand(
    tmp_path: Path, make_cohort: Callable[..., CropsManifest]
) -> None:
    for name, origin in (("phantoms", "phantom-archive"), ("real", "cbis-ddsm")):
        crops = make_cohort(name, origin=origin, crops=12, size=16).folder
        write(tmp_path / "runs" / name, RECONSTRUCTION, a_reconstruction(), crops)
    phantoms, real = found(tmp_path / "runs", RECONSTRUCTION)

    def sheet(result: Result, *, show: bool) -> dict[str, Any]:
        (only,) = reconstruction(result, show_patients=show)["sheets"]
        return dict(only)

    assert sheet(phantoms, show=False)["source"].startswith("data:image/png")
    withheld = sheet(real, show=False)
    assert (withheld["source"], withheld["real"]) == ("", True)
    assert "--show_patients true" in withheld["notice"]
    assert "internal use only" in sheet(real, show=True)["notice"]
    make_cohort("phantoms", origin="phantom-archive", crops=10, size=16)  # others since
    assert sheet(phantoms, show=False)["source"] == ""
    (real.folder / "sheet.png").unlink()
    assert "is missing" in sheet(real, show=True)["notice"]


def test_epsilons_of_a_benchmark_are_those_that_it_wrote(tmp_path: Path) -> None:
    write(tmp_path / "grid", BENCHMARK, a_benchmark())
    path = tmp_path / "grid" / BENCHMARK
    stored = json.loads(path.read_text())
    stored["rows"][0]["end_to_end"]["epsilon"] = 0.5
    path.write_text(json.dumps(stored))
    with pytest.raises(ReportError, match=r"benchmark\.json: .*does not fit its seal"):
        found(tmp_path, BENCHMARK)


@pytest.mark.parametrize("name", [LADDER, RECONSTRUCTION])
def test_an_attack_whose_epsilon_somebody_changed_is_not_reported(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path / "attack", name, a_ladder() if name == LADDER else a_reconstruction())
    path = tmp_path / "attack" / name
    path.write_text(path.read_text().replace("5.999", "0.5"))
    with pytest.raises(ReportError, match=r"\.json: .*does not fit its seal"):
        found(tmp_path, name)


def test_a_benchmark_keeps_failures_and_turns_differences_to_the_reference(
    tmp_path: Path,
) -> None:
    write(tmp_path / "grid", BENCHMARK, a_benchmark())
    said = benchmark(found(tmp_path, BENCHMARK)[0])
    main, differences, subgroups, _, published = said["tables"]
    assert main.rows[0][:5] == (
        "DP on patients",
        "6",
        "patient",
        "2 of 3",
        "0.500 [0.400, 0.600]",
    )
    assert dict(zip(main.head, main.rows[0], strict=True))["ε end to end"] == "6.00 per patient"
    assert [cells[4] for cells in main.rows[1:]] == ["failed", "not finished"]
    assert {len(row) for row in main.rows} == {len(main.head)}
    assert differences.rows[0][:2] == ("DP on patients", "Not private")
    assert differences.rows[0][5] == "-0.100 [-0.300, -0.020]"
    assert "20 crops of 10 patients, 8 malignant" in main.note
    assert main.note.endswith(
        "Nobody knows whether these patients are new to: DP on patients. It is unknown whose data "
        "X used."
    )
    assert subgroups.rows[0][3:] == ("view CC", "9", "11", "0.500 [0.400, 0.600]")
    assert published.rows[0][-1] == "Somebody 2024"
    assert said["missing"] == ["Failed: real, seed 2. it broke"]


def test_what_no_epsilon_of_a_benchmark_covers_is_said_once_with_its_regimes(
    tmp_path: Path,
) -> None:
    stored = a_benchmark()
    dp, real, _ = stored["rows"]
    twice = dp | {"budget": 12.0}
    real["end_to_end"] = dp["end_to_end"] | {"exclusions": ["predictions", "class weights"]}
    excluded = benchmark_tables(stored | {"rows": [dp, twice, real]})[-2]
    assert excluded.rows == [
        ("all", "predictions"),
        ("DP on patients", "the phantoms"),
        ("Not private", "class weights"),
    ]


def test_a_fidelity_shows_measures_beside_real_crops_and_control_beside_its_ceiling(
    tmp_path: Path,
) -> None:
    said = fidelity(Result(folder=tmp_path, name="fidelity", stored=a_fidelity()))
    near, asked = said["tables"]
    assert near.head == ("Measure", "Real, other patients", "eps1", "published")
    assert near.rows == [
        ["Fréchet distance", "3 [2, 4]", "0.5 [0.4, 0.6]", "0.5 [0.4, 0.6]"],
        ["copies training crops", "no", "no", "yes"],
    ]
    assert "20 crops on each side (8 malignant); 95% intervals" in near.note
    assert asked.rows == [
        ["size_share, correlation", "0.50 [0.40, 0.60]", "0.25 [0.12, 0.38]", "—"]
    ]
    assert all("volumes of 16 slices the middle" in table.note for table in said["tables"])


def test_the_page_shows_all_of_them_escaped(make_tree: Make) -> None:
    tree = make_tree(epsilons=(6,), starts=("phantom",))
    write(tree.runs / "ladder", LADDER, a_ladder())
    write(tree.runs / "reconstruction", RECONSTRUCTION, a_reconstruction())
    write(tree.runs / "grid", BENCHMARK, a_benchmark())
    write(tree.runs / "fidelity", FIDELITY, a_fidelity())
    report(runs=str(tree.runs), out=str(tree.root / "out"))
    html = (tree.root / "out" / "report.html").read_text()
    for section in ("corridor", "reconstruction", "fidelity", "benchmark"):
        assert f'<h2 id="{section}">' in html
    assert "A server &lt;b&gt; with <code>prior</code>." in html
    assert "it broke" in html
    assert "No epsilon covers &lt;this&gt;." in html
    assert "Finding: budget 6: list reaches named &lt;1&gt;." in html


def test_another_schema_is_refused_with_a_remedy(tmp_path: Path) -> None:
    write(tmp_path / "ladder", LADDER, a_ladder() | {"schema": 2})
    with pytest.raises(ReportError, match=r"ladder\.json: cannot be read .*schema 2, known is 1"):
        found(tmp_path, LADDER)


def test_cells_of_a_grid_are_rows_only_where_nothing_else_is(make_tree: Make) -> None:
    tree = make_tree()
    (tree.runs / "dp" / BENCHMARK).write_text(json.dumps(a_benchmark()))
    assert [row.name for row in collect(tree.runs)] == ["baseline"]
    assert {row.name for row in collect(tree.runs / "dp")} == {"eps6_phantom", "eps6_gan"}
