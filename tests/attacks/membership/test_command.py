# SPDX-License-Identifier: Apache-2.0
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier.module import CropClassifier
from classifier.released import Calibration
from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.command import attack_membership, membership
from mammo_dp.attacks.membership.results import Result, read_result, score
from mammo_dp.attacks.membership.scores import LOSS_THRESHOLD
from mammo_dp.attacks.membership.shadows import query
from mammo_dp.attacks.membership.signals import Signals, read_signals, write_signals
from mammo_dp.attacks.statistics import Bounds
from mammo_dp.main import main
from mammo_dp.privacy.statement.ledger import Access
from mammo_dp.runs import RELEASED, read_run
from tests.attacks.membership.targets import model, released, write_run

NAME = LOSS_THRESHOLD.name
NO_BOUND = Bounds(epsilon=math.inf, delta=1e-4, advantage=1, tpr_at_fpr={0.01: 1, 0.001: 1})
TIGHT = Bounds(epsilon=1, delta=1e-4, advantage=0.1, tpr_at_fpr={0.01: 0.02, 0.001: 0.003})


def planted(shift: float, units: int = 600, others: int = 200) -> Signals:
    """Signals of members are ``shift`` standard deviations above those of others."""
    rng = np.random.default_rng(1)
    member = np.arange(units + others) < units
    return Signals(
        row=np.arange(units + others),
        patient=np.arange(units + others),
        member=member,
        malignant=rng.integers(0, 2, units + others),
        columns={NAME: rng.standard_normal(units + others) + shift * member},
    )


def scored(signals: Signals, bounds: Bounds, seed: int = 0) -> Result:
    return score(signals, [LOSS_THRESHOLD], unit="patient", bounds=bounds, seed=seed)


def test_an_overfitted_model_gives_its_members_away(
    noise: CropsManifest, overfitted: CropClassifier
) -> None:
    signals = query(released(overfitted), noise, "train", "val")
    result = scored(signals, NO_BOUND, seed=1)
    assert result.strongest.found.auc.low > 0.6
    assert all(abs(blind.auc.value - 0.5) < 0.2 for blind in result.blind.values())


def test_an_untrained_model_gives_nobody_away(noise: CropsManifest) -> None:
    signals = query(released(model(1)), noise, "train", "val")
    result = scored(signals, TIGHT)
    assert result.strongest.found.auc.low < 0.5 < result.strongest.found.auc.high
    assert not result.exceeds_bound


def test_signal_is_the_logit_scaled_confidence_of_the_true_label(
    noise: CropsManifest, overfitted: CropClassifier
) -> None:
    signals = query(released(overfitted), noise, "train", "val")
    for row in noise.rows("val")[:5]:
        image = torch.from_numpy(noise.image(row) / 65535 * 2 - 1).float()[None, None]
        with torch.no_grad():
            p = torch.sigmoid(overfitted(image).double()).item()
        p = p if noise.crops[row].malignant else 1 - p
        (at,) = np.flatnonzero(signals.row == row)
        assert signals.of(NAME)[at] == pytest.approx(math.log(p / (1 - p)), rel=1e-3)
        assert not signals.member[at]


def test_a_calibrated_model_is_asked_for_what_it_released(noise: CropsManifest) -> None:
    plain = query(released(model(2)), noise, "train", "val")
    fitted = Calibration(slope=0.5, intercept=1.0)
    calibrated = query(released(model(2), fitted), noise, "train", "val")
    sign = np.where(plain.malignant == 1, 1, -1)
    np.testing.assert_allclose(calibrated.of(NAME), 0.5 * plain.of(NAME) + sign)


def test_score_of_a_patient_is_the_mean_over_its_crops(noise: CropsManifest) -> None:
    signals = query(released(model(2)), noise, "train", "val")
    naive: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for row, member, value in zip(signals.row, signals.member, signals.of(NAME), strict=True):
        patient = noise.crops[row].patient_id
        naive[bool(member)].setdefault(patient, []).append(float(value))
    members, others = signals.scores(signals.of(NAME), "patient")
    assert sorted(members) == pytest.approx(sorted(np.mean(v) for v in naive[True].values()))
    assert sorted(others) == pytest.approx(sorted(np.mean(v) for v in naive[False].values()))
    assert len(signals.scores(signals.of(NAME), "crop")[0]) == len(noise.rows("train"))


def test_a_leak_beyond_the_bound_is_a_finding_and_the_null_is_not() -> None:
    assert scored(planted(2.0), TIGHT).exceeds_bound
    assert not scored(planted(2.0), NO_BOUND).exceeds_bound
    null = scored(planted(0.0), TIGHT)
    assert not null.exceeds_bound
    assert null.strongest.found.auc.low < 0.5 < null.strongest.found.auc.high


def test_several_attacks_share_the_error_and_the_strongest_is_named() -> None:
    null, leak = planted(0.0), planted(2.0)
    attacks = [replace(LOSS_THRESHOLD, name=name) for name in ("weak", "strong")]
    columns = {"weak": null.of(NAME), "strong": leak.of(NAME)}
    result = score(replace(null, columns=columns), attacks, unit="patient", bounds=TIGHT)
    stored = result.as_json()
    assert (stored["strongest"], stored["exceeds_bound"]) == ("strong", True)
    assert stored["level_of_each_test"] == pytest.approx(0.975)
    assert not stored["attacks"]["weak"]["exceeds_bound"]
    with pytest.raises(AttackError, match="none of attack 'other', only weak, strong"):
        replace(null, columns=columns).of("other")


def test_a_finding_of_one_attack_may_be_none_of_one_attack_among_eight() -> None:
    shifts = np.linspace(0.6, 2.4, 10)

    def found(attacks: int) -> list[bool]:
        copies = [replace(LOSS_THRESHOLD, name=str(i)) for i in range(attacks)]
        results = []
        for shift in shifts:
            signals = planted(float(shift), 60, 40)
            columns = dict.fromkeys(map(str, range(attacks)), signals.of(NAME))
            shared = replace(signals, columns=columns)
            results.append(score(shared, copies, unit="patient", bounds=TIGHT).exceeds_bound)
        return results

    alone, among = found(1), found(8)
    assert sum(among) < sum(alone) < len(shifts)


def test_crops_of_a_patient_add_up_where_they_are_log_likelihood_ratios(
    noise: CropsManifest,
) -> None:
    signals = query(released(model(2)), noise, "train", "val")
    summed, _ = signals.scores(signals.of(NAME), "patient", "sum")
    mean, _ = signals.scores(signals.of(NAME), "patient")
    crops, _ = signals.scores(np.ones(len(signals.row)), "patient", "sum")
    assert set(crops) == {1, 2}
    np.testing.assert_allclose(summed, mean * crops)


def test_labels_alone_succeed_where_the_splits_differ_in_labels() -> None:
    signals = planted(0.0)
    skewed = Signals(
        row=signals.row,
        patient=signals.patient,
        member=signals.member,
        malignant=signals.member.astype(np.int64),
        columns=signals.columns,
    )
    result = scored(skewed, NO_BOUND)
    assert result.blind["label-only"].auc.value == 1.0
    assert "bound" not in result.as_json()["blind"]["label-only"]["auc"]


def test_signals_survive_the_file_bit_by_bit(tmp_path: Path) -> None:
    signals = planted(0.3, 20, 10)
    write_signals(tmp_path / "scores.csv", signals)
    back = read_signals(tmp_path / "scores.csv")
    np.testing.assert_array_equal(back.of(NAME), signals.of(NAME))
    for name in ("row", "patient", "member", "malignant"):
        np.testing.assert_array_equal(getattr(back, name), getattr(signals, name))
    (tmp_path / "scores.csv").write_text("row,patient\n1,2\n")
    with pytest.raises(AttackError, match="is no table of signals"):
        read_signals(tmp_path / "scores.csv")


def test_command_writes_scores_without_identifiers_and_aggregates_with_the_bounds(
    tmp_path: Path, noise: CropsManifest, overfitted: CropClassifier
) -> None:
    run = write_run(tmp_path / "run", overfitted, noise)
    arguments = ["attack", "membership", "--run", str(run), "--crops", str(noise.folder)]
    assert main(arguments) == 0
    out = run / "attack_membership"
    result = read_result(out / "attack.json")
    assert result["unit"] == "patient"
    assert (result["members"], result["nonmembers"]) == (24, 24)
    found = result["attacks"]["loss-threshold"]
    assert found["advantage"]["bound"] == found["tpr_at_fpr"]["0.01"]["bound"] == 1
    assert 0.5 < found["per_crop"]["auc"] <= 1
    bound = result["bound_from"]
    assert (bound["epsilon"], bound["delta"], bound["unit"]) == ("infinity", 1e-4, "patient")
    assert bound["sentence"].startswith("No guarantee, epsilon = infinity, for each patient of")
    assert "probabilities" in found["threat_model"]
    assert "trainable is 'all'" in result["not_tried"]["lira-online"]
    assert "P1" not in (out / "scores.csv").read_text()
    assert read_run(out).is_finished
    before = (out / "attack.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (out / "attack.json").stat().st_mtime_ns == before
    assert main([*arguments, "--seed", "1"]) == 1


def test_an_interrupted_attack_scores_the_saved_signals_again(
    tmp_path: Path, noise: CropsManifest, overfitted: CropClassifier
) -> None:
    run = write_run(tmp_path / "run", overfitted, noise)
    membership(run=str(run), crops=str(noise.folder))
    out = run / "attack_membership"
    first = read_result(out / "attack.json")["attacks"][NAME]
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"finished": None, "outputs": {}}))
    (out / "attack.json").unlink()
    write_signals(out / "scores.csv", planted(0.0, 24, 24))
    membership(run=str(run), crops=str(noise.folder))
    second = read_result(out / "attack.json")["attacks"][NAME]
    assert second["auc"]["value"] < 0.8 < first["auc"]["value"]


def test_the_bounds_come_from_the_statement_of_the_cohort(
    tmp_path: Path, noise: CropsManifest, overfitted: CropClassifier
) -> None:
    risk = {
        "advantage": 0.11,
        "tpr_at_fpr": {"0.01": 0.02, "0.001": 0.002},
        "reconstruction_robustness": {},
    }
    run = write_run(tmp_path / "run", overfitted, noise, epsilon=0.9, risk=risk)
    membership(run=str(run), crops=str(noise.folder), out=str(tmp_path / "out"))
    result = read_result(tmp_path / "out" / "attack.json")["attacks"][NAME]
    assert result["advantage"]["bound"] == 0.11
    assert result["tpr_at_fpr"]["0.001"]["bound"] == 0.002
    assert result["auc"]["bound"] == pytest.approx(0.5 + 0.11 - 0.11**2 / 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nonmember_split", "train"], "choose two splits"),
        (["--nonmember_split", "test"], "split 'test' holds no crop"),
        (["--shadows", "8"], "trainable is 'all', so that each shadow would be a whole fit"),
    ],
)
def test_arguments_that_would_measure_nothing_are_refused(
    flags: list[str],
    message: str,
    tmp_path: Path,
    noise: CropsManifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_run(tmp_path / "run", model(), noise)
    arguments = ["attack", "membership", "--run", str(run), "--crops", str(noise.folder), *flags]
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert not (run / "attack_membership").exists()  # free for the right flags


def test_crops_that_the_run_says_nothing_about_are_refused(
    tmp_path: Path, noise: CropsManifest, make_cohort: Callable[..., CropsManifest]
) -> None:
    run = write_run(tmp_path / "run", model(), noise)
    with pytest.raises(AttackError, match="has no statement about"):
        membership(run=str(run), crops=str(make_cohort().folder))


def test_bounds_of_an_altered_statement_are_refused(tmp_path: Path, noise: CropsManifest) -> None:
    run = write_run(tmp_path / "run", model(), noise)
    stored = json.loads((run / "privacy.json").read_text())
    stored["statements"][0]["delta"] = 1e-3
    (run / "privacy.json").write_text(json.dumps(stored))
    with pytest.raises(AttackError, match="does not fit its seal"):
        membership(run=str(run), crops=str(noise.folder))


def test_nonmembers_that_a_stage_has_seen_are_refused(tmp_path: Path, noise: CropsManifest) -> None:
    earlier = Access.of_training("start", noise, "val", released="1" * 64)
    run = write_run(tmp_path / "run", model(), noise, earlier=[earlier])
    with pytest.raises(AttackError, match=r"start was trained on these patients. That is split 'v"):
        membership(run=str(run), crops=str(noise.folder))


def test_nonmembers_whom_an_unknown_stage_may_have_seen_are_named(
    tmp_path: Path, noise: CropsManifest, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", model(), noise, earlier=[Access.of_unknown("other", "")])
    membership(run=str(run), crops=str(noise.folder))
    assert (
        "Nobody knows whether 'val' are non-members: It is unknown whose data other" in caplog.text
    )


def test_nonmembers_of_whom_an_earlier_stage_saw_some_are_refused(
    tmp_path: Path, noise: CropsManifest
) -> None:
    moved = noise.rows("val")[0]  # as another share of val would have it
    crops = [
        replace(crop, split="train") if crop.patient == noise.crops[moved].patient else crop
        for crop in noise.crops
    ]
    shutil.copytree(noise.folder, tmp_path / "earlier")
    other = CropsManifest.write(tmp_path / "earlier", crops)
    earlier = Access.of_training("start", other, "train", released="1" * 64)
    run = write_run(tmp_path / "run", model(), noise, earlier=[earlier])
    with pytest.raises(AttackError, match="start was trained on some of these patients"):
        membership(run=str(run), crops=str(noise.folder))


def test_synthetic_crops_are_refused(
    tmp_path: Path, make_cohort: Callable[..., CropsManifest]
) -> None:
    phantoms = make_cohort(origin="phantom")
    with pytest.raises(AttackError, match="24 crops of split 'train' are synthetic"):
        attack_membership(run=tmp_path, crops=phantoms.folder)


def test_weights_that_the_statement_is_not_about_are_refused_before_a_folder_is_made(
    tmp_path: Path, noise: CropsManifest
) -> None:
    """Their success would stand beside the bounds of others."""
    run = write_run(tmp_path / "run", model(), noise)
    other = write_run(tmp_path / "other", model(), noise)
    shutil.copyfile(other / RELEASED, run / RELEASED)
    with (run / RELEASED).open("ab") as file:
        file.write(b"x")
    with pytest.raises(AttackError, match=r"privacy.json: is not about what is attacked"):
        membership(run=str(run), crops=str(noise.folder))
    assert not (run / "attack_membership").exists()


def test_a_model_that_diverged_is_refused(noise: CropsManifest) -> None:
    net = model()
    with torch.no_grad():
        next(net.net.parameters()).fill_(math.nan)
    with pytest.raises(AttackError, match="not finite"):
        query(released(net), noise, "train", "val")
