# SPDX-License-Identifier: Apache-2.0
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mammo_dp.attacks.statistics import AUDIT_SCHEMA
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.statement.seals import identity_of_run
from mammo_dp.report.collect import ReportError, collect, lineage, setting
from mammo_dp.report.figures import utility_privacy
from mammo_dp.report.sentences import attacker, choose, findings, lead, summary
from mammo_dp.report.tables import MAIN, NONE, comma_separated, main_cells
from mammo_dp.runs import RunInput, RunRecord, close_run, open_run
from tests.report.conftest import BECAUSE, Tree, write_sealed

Make = Callable[..., Tree]


def test_each_evaluation_finds_its_model_statement_and_attack(tree: Tree) -> None:
    rows = collect(tree.runs)
    assert [row.name for row in rows] == ["baseline", "dp/eps6_phantom", "dp/eps6_gan"]
    baseline, phantom, gan = rows
    assert [row.metrics["auroc"].value for row in rows] == pytest.approx([0.752, 0.61, 0.63])
    assert math.isnan(baseline.metrics["calibration_slope"].low)
    assert (baseline.is_private, phantom.is_private, gan.is_private) == (False, True, True)
    assert all(row.attack and row.split == "val" for row in rows)
    assert [row.start for row in rows] == ["phantom crops", "phantom crops", "synthetic crops"]
    assert [row.training for row in rows] == ["not private", "DP, per patient", "DP, per patient"]


def test_a_metric_that_came_after_a_test_has_no_number_for_it(make_tree: Make) -> None:
    tree = make_tree()
    file = tree.runs / "baseline/test_val/metrics.json"
    older = json.loads(file.read_text())
    del older["brier"]
    file.write_text(json.dumps(older))
    baseline = collect(tree.runs)[0]
    assert math.isnan(baseline.metrics["brier"].value)
    assert dict(zip(MAIN, main_cells(baseline), strict=True))["Brier"] == NONE


def test_end_to_end_and_own_epsilon_differ_where_an_ancestor_was_not_private(
    tree: Tree,
) -> None:
    _, phantom, gan = collect(tree.runs)
    assert phantom.own
    assert gan.own
    alone = compose([Mechanism(noise_multiplier=4.33, sampling_rate=1 / 9, steps=2700)]).epsilon(
        1e-4
    )
    assert phantom.own.epsilon == 5.48
    assert math.isinf(gan.own.epsilon)
    assert phantom.own.own_epsilon == gan.own.own_epsilon == pytest.approx(alone)
    assert gan.own.because == BECAUSE
    assert (gan.own.advantage, gan.own.tpr, gan.own.reconstruction) == (1, 1, 1)
    assert (phantom.own.advantage, phantom.own.tpr) == (0.499, 0.164)
    assert phantom.own.reconstruction == 0.058  # at 1/578, not at the other kappa


def test_a_model_without_patients_has_no_statement_and_is_not_private(make_tree: Make) -> None:
    tree = make_tree()
    tree.test("pretrain_phantom", 0.55)
    row = next(row for row in collect(tree.runs) if row.name == "pretrain_phantom")
    assert (row.own, row.training, row.attack) == (None, "no patient", None)
    assert row.start == "random weights"


def test_lineage_reaches_the_data_of_the_pretraining(tree: Tree) -> None:
    row = collect(tree.runs)[1]
    found = [
        (depth, role, source.command if isinstance(source, RunRecord) else source.path)
        for depth, role, source in lineage(row.model)
    ]
    assert found == [
        (0, "this run", "fit"),
        (1, "data", "prepare cohort"),
        (1, "weights", "fit"),
        (2, "data", "prepare phantoms"),
    ]


def test_lineage_names_what_no_recorded_run_made(make_tree: Make) -> None:
    tree = make_tree()
    (tree.data("phantoms") / "run.json").unlink()
    sources = [source for *_, source in lineage(collect(tree.runs)[1].model)]
    assert isinstance(sources[-1], RunInput)


def test_weights_that_changed_since_are_not_called_by_their_old_name(make_tree: Make) -> None:
    tree = make_tree()
    run = tree.runs / "pretrain_phantom" / "run.json"
    record = json.loads(run.read_text())
    record["outputs"]["checkpoints/last.ckpt"] = "f" * 64
    run.write_text(json.dumps(record))
    assert collect(tree.runs)[1].start == "given weights"


def test_setting_is_found_at_any_depth() -> None:
    assert setting({"a": {"b": {"c": 3}}, "d": 4}, "c") == 3
    assert setting({"a": {"b": 1}}, "c") is None


def test_a_folder_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no finished evaluation .* among 0 run folders"):
        collect(tmp_path)
    with pytest.raises(ReportError, match="is no folder"):
        collect(tmp_path / "absent")


def test_an_unfinished_evaluation_is_no_row(make_tree: Make) -> None:
    tree = make_tree()
    run = tree.runs / "baseline" / "test_val" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"finished": None}))
    assert "baseline" not in [row.name for row in collect(tree.runs)]


def test_a_run_without_statement_is_refused(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    (tree.runs / "baseline" / "privacy.json").unlink()
    with pytest.raises(ReportError, match=r"privacy\.json: cannot be read .* Run the fit again"):
        collect(tree.runs)


def test_a_statement_of_an_early_version_is_refused(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    path = tree.runs / "baseline" / "privacy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    with pytest.raises(ReportError, match=r"privacy\.json: has schema 1, known is 3. Run the fit"):
        collect(tree.runs)


def test_weights_that_were_replaced_after_the_test_are_refused(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    weights = tree.runs / "baseline" / "checkpoints" / "last.ckpt"
    weights.write_text("of a fit without DP")
    with pytest.raises(ReportError, match=r"last\.ckpt: is not what was measured"):
        collect(tree.runs)
    weights.unlink()  # too large to be passed on, and nobody says anything of others
    assert collect(tree.runs)


def test_a_statement_about_another_checkpoint_is_refused(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    path = tree.runs / "baseline" / "privacy.json"
    stored = json.loads(path.read_text())
    stored["artefact"]["sha256"] = "0" * 64
    write_sealed(path, stored)
    with pytest.raises(ReportError, match="is about another checkpoint"):
        collect(tree.runs)


def test_no_number_of_an_altered_statement_is_reported(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    path = tree.runs / "baseline" / "privacy.json"
    stored = json.loads(path.read_text())
    stored["statements"][0]["epsilon"] = 0.1
    path.write_text(json.dumps(stored))
    with pytest.raises(ReportError, match=r"does not fit its seal.*No number of it is reported"):
        collect(tree.runs)


@pytest.mark.parametrize("moved", [False, True])
def test_a_release_is_reported_by_its_own_statement_and_not_by_its_candidate_s(
    make_tree: Make, moved: bool
) -> None:
    tree = make_tree()
    fit = tree.runs / "dp/eps6_phantom"
    shutil.rmtree(fit / "attack_membership")
    candidate, released = tree.runs / "chosen/candidate", tree.runs / "chosen/released"
    shutil.copytree(fit, candidate, ignore=shutil.ignore_patterns("test_val", "stress_val"))
    shutil.copytree(candidate, released)
    path = candidate / "privacy.json"
    stored = json.loads(path.read_text())
    write_sealed(path, stored | {"statements": [tree.statement("c" * 64, None, voided=False)]})
    tree.test("chosen/candidate", 0.7)
    tree.test("chosen/released", 0.7)
    elsewhere = tree.runs / "measured"
    shutil.copytree(released / "test_val", elsewhere)
    runs = tree.runs
    if moved:
        shutil.rmtree(elsewhere)
        runs = tree.runs.rename(tree.root / "elsewhere")
    rows = {row.evaluation.folder: row for row in collect(runs) if "dp" not in row.name}
    assert not rows[runs / "chosen/candidate/test_val"].is_private
    assert rows[runs / "chosen/released/test_val"].epsilon == 5.48
    assert rows[runs / "chosen/released/test_val"].name == "chosen/released"
    if not moved:
        assert rows[elsewhere].name == "chosen/released"


def test_an_evaluation_whose_model_is_elsewhere_is_refused(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    run = tree.runs / "baseline" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"outputs": {}}))
    with pytest.raises(ReportError, match="is no output of a finished run"):
        collect(tree.runs)


def test_an_evaluation_without_a_checkpoint_is_refused(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    run = tree.runs / "baseline" / "test_val" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"inputs": {}}))
    with pytest.raises(ReportError, match="names no checkpoint"):
        collect(tree.runs)


def test_a_strong_attack_cannot_hide_behind_a_weaker_one(make_tree: Make) -> None:
    tree = make_tree()
    weak = tree.runs / "dp/eps6_phantom" / "attack_membership"
    weak.rename(weak.with_name("attack_first"))
    strong = tree.attack("dp/eps6_phantom", shift=3.0)
    row = next(row for row in collect(tree.runs) if row.name == "dp/eps6_phantom")
    assert row.attacker
    assert row.attacker.folder == strong
    assert "dp/eps6_phantom" in findings([row])[0]


def test_what_descends_from_a_private_model_alone_keeps_its_guarantee(make_tree: Make) -> None:
    tree = make_tree()
    tree.test("pretrain_phantom", 0.7)
    path = tree.runs / "pretrain_phantom" / "privacy.json"
    inherited = tree.statement("c" * 64, 6, voided=False)  # of the crops' labels, as after relabel
    write_sealed(path, json.loads(path.read_text()) | {"statements": [inherited]})
    rows = collect(tree.runs)
    row = choose(rows, None)
    assert (row.name, row.own) == ("pretrain_phantom", None)
    assert row.guarantee
    assert "This model has the largest AUROC of those with a guarantee" in lead(row, rows, None)
    assert "started from random weights, reaches AUROC 0.700" in summary(rows)[0]
    assert "pretrain_phantom: 0.700" in (utility_privacy(rows) or "")


def test_an_audit_stands_beside_the_model_whose_statement_it_is_about(make_tree: Make) -> None:
    tree = make_tree()
    run = tree.runs / "dp/eps6_phantom"
    record = open_run(
        run / "attack_audit",
        command="attack audit",
        config={},
        inputs={"privacy": run / "privacy.json"},
    )
    audit = {
        "schema": AUDIT_SCHEMA,
        "canaries": 1000,
        "stage": {
            "epsilon": 5.4801,
            "unit": "patient",
            "delta": 1e-4,
            "adjacency": "zero-out",
            "accountant": "PLD",
        },
        "best": {"epsilon": 2.03, "ceiling": 3.18},
        "refutes": False,
        "run": identity_of_run(record),
    }
    write_sealed(record.folder / "audit.json", audit)
    close_run(record)
    rows = {row.name: row for row in collect(tree.runs)}
    assert rows["dp/eps6_gan"].audit is None
    said = attacker(rows["dp/eps6_phantom"])[-1]
    assert "ε ≥ 2.03 (ceiling 3.18, this stage claims 5.49 per patient, δ 0.0001" in said
    assert "audited_epsilon_at_least" in comma_separated(list(rows.values()))
    assert findings(list(rows.values())) == []
    rows["dp/eps6_phantom"].__dict__["audit"] = audit | {"refutes": True}
    assert "refutes its epsilon" in findings(list(rows.values()))[0]
    path = record.folder / "audit.json"
    path.write_text(path.read_text().replace("5.4801", "0.5"))
    with pytest.raises(ReportError, match=r"audit\.json: .*does not fit its seal"):
        collect(tree.runs)
    other = identity_of_run(replace(record, inputs={}))
    write_sealed(path, audit | {"run": other})
    with pytest.raises(ReportError, match=r"audit\.json: .*result of another run"):
        collect(tree.runs)
    write_sealed(path, audit | {"schema": 1})
    with pytest.raises(ReportError, match=r"audit\.json: .*schema 1.* Run the audit again"):
        collect(tree.runs)


def test_distorted_crops_stand_beside_the_test_of_the_same_crops(make_tree: Make) -> None:
    tree = make_tree()
    rows = collect(tree.runs)
    assert {row.name: row.stress is not None for row in rows} == {
        "baseline": False,
        "dp/eps6_phantom": True,
        "dp/eps6_gan": True,
    }
    path = tree.runs / "dp/eps6_gan/stress_val/run.json"
    path.write_text(path.read_text().replace('"evaluate_split": "val"', '"evaluate_split": "test"'))
    assert {row.name for row in collect(tree.runs) if row.stress} == {"dp/eps6_phantom"}
    stored = tree.runs / "dp/eps6_phantom/stress_val/stress.json"
    stored.write_text(stored.read_text().replace('"schema": 1', '"schema": 0'))
    (row,) = (row for row in collect(tree.runs) if row.name == "dp/eps6_phantom")
    with pytest.raises(ReportError, match=r"stress\.json: cannot be read"):
        row.stress  # noqa: B018  reads
