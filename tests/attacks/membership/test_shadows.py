# SPDX-License-Identifier: Apache-2.0
"""Attacks by shadow heads and reference runs, through the command."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from classifier.backbones import head
from classifier.features import body_features
from classifier.module import CropClassifier
from classifier.whitened import WhitenedFeatures
from data_prep.crop_image import save_crop_image
from data_prep.datamodule import CropsDataset, collate_crops
from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.command import attack_membership
from mammo_dp.attacks.membership.heads import NoisySteps
from mammo_dp.attacks.membership.results import Result, read_result
from mammo_dp.attacks.membership.scores import (
    ATTACKS,
    LOSS_THRESHOLD,
    completed,
    of_target,
    read_observed,
)
from mammo_dp.attacks.membership.shadows import TrainedRun
from mammo_dp.attacks.membership.signals import read_signals, write_signals
from mammo_dp.main import main
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.document import read_statements, write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.lineage import PHANTOMS
from mammo_dp.privacy.training.classifier import DPCropClassifier
from tests.attacks.membership.targets import model, write_run
from tests.fixtures import write_cohort
from tests.gan.checkpoints import save
from tests.stated import seal_again

NAME = LOSS_THRESHOLD.name
OF_TARGET = of_target(np.zeros(1), np.zeros(1, dtype=np.int64))


@pytest.fixture(scope="module")
def head_run(tmp_path_factory: pytest.TempPathFactory, noise: CropsManifest) -> Path:
    net = model(3, trainable="head", learning_rate=0.05, weight_decay=0.0)
    rows = noise.rows("train")
    dataset = CropsDataset(noise, rows)
    batch = collate_crops([dataset[i] for i in range(len(rows))])
    features = body_features(net.net, batch.image)
    layer = head(net.net)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(
            layer(features).squeeze(1), batch.malignant.float()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return write_run(tmp_path_factory.mktemp("head") / "run", net.eval(), noise)


@pytest.mark.parametrize("batch_size", [9, 24, 100_000])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_shadow_sees_each_crop_as_often_as_the_run_did(
    head_run: Path, batch_size: int, share: float
) -> None:
    (statement,) = read_statements(head_run)
    run = TrainedRun.read(head_run, replace(statement, own=None))
    config = {**run.record.config, "data": {"init_args": {"batch_size": batch_size}}}
    recipe = replace(run, record=replace(run.record, config=config)).recipe(36, share)
    assert recipe.optimizer == "adamw"
    crops, epochs = 36 * share, 60
    assert recipe.steps * min(batch_size, crops) == epochs * crops


def attack_head(run: Path, crops: CropsManifest, out: Path, **changes: Any) -> Result:
    settings = {"shadows": 8} | changes
    return attack_membership(run=run, crops=crops.folder, out=out, **settings)


def test_a_frozen_body_lets_every_attack_train_shadow_heads(
    tmp_path: Path, noise: CropsManifest, head_run: Path
) -> None:
    result = attack_head(head_run, noise, tmp_path / "out")
    assert [outcome.attack.name for outcome in result.outcomes] == list(ATTACKS)
    assert (result.models, dict(result.not_tried)) == (8, {})
    stored = read_result(tmp_path / "out" / "attack.json")
    assert stored["attacks"]["rmia"]["threat_model"] == ATTACKS["rmia"].threat_model
    assert {
        o.attack.name: o.found.auc.value for o in result.outcomes if o.found.auc.value <= 0.5
    } == {}
    for name, found in stored["attacks"].items():
        assert 0.3 < found["control"] < min(0.7, found["auc"]["value"]), name
    assert "(control 0." in result.lines()[0]
    assert "no leak" in result.lines()[-1]
    again = attack_head(head_run, noise, tmp_path / "out")
    assert again.as_json() == result.as_json()


def test_saved_logits_are_scored_again_without_a_model(
    tmp_path: Path, noise: CropsManifest, head_run: Path
) -> None:
    out = tmp_path / "out"
    first = attack_head(head_run, noise, out)
    signals = read_signals(out / "scores.csv")
    plain = replace(signals, columns={NAME: signals.of(NAME)})
    again = completed(plain, read_observed(out / "models.npz"))
    for name, column in again.columns.items():
        np.testing.assert_allclose(column, signals.of(name), rtol=1e-4, atol=1e-4)
    assert list(again.columns) == [outcome.attack.name for outcome in first.outcomes]
    for saved in ("scores.csv", "models.npz"):  # of a folder from before the last attack came
        write_signals(out / "scores.csv", plain)
        later = attack_head(head_run, noise, out)
        if saved == "scores.csv":
            assert [outcome.attack.name for outcome in later.outcomes] == list(ATTACKS)
        else:
            assert list(later.not_tried) == list(ATTACKS)[1:]
            assert all("not here any more" in why for why in later.not_tried.values())
        (out / "models.npz").unlink(missing_ok=True)


def test_reference_runs_stand_in_for_shadow_heads(
    tmp_path: Path, noise: CropsManifest, overfitted: CropClassifier
) -> None:
    run = write_run(tmp_path / "run", overfitted, noise)
    other = [
        write_run(tmp_path / f"other{seed}", model(seed), noise, split="test") for seed in (5, 6)
    ]
    result = attack_head(run, noise, tmp_path / "out", shadows=None, references=other)
    assert [o.attack.name for o in result.outcomes] == [*OF_TARGET, "rmia", "lira-offline"]
    assert {
        o.attack.name: o.found.auc.value for o in result.outcomes if o.found.auc.value <= 0.6
    } == {}
    assert (result.models, result.outcomes[0].control) == (2, None)
    assert "control" not in "".join(result.lines())
    assert "either side" in result.not_tried["lira-online"]
    start = Access.of_training("start", noise, "train", released="1" * 64)
    knew = write_run(tmp_path / "knew", model(7), noise)
    began = write_run(tmp_path / "began", model(8), noise, split="test", earlier=[start])
    for place, reference in enumerate((knew, began)):
        with pytest.raises(AttackError, match="some patients were in the training of all 1"):
            attack_head(run, noise, tmp_path / f"no{place}", shadows=None, references=[reference])


def test_one_model_is_not_two_and_the_attacked_one_is_no_reference(
    tmp_path: Path, noise: CropsManifest
) -> None:
    """Two equal models have no variance, and the attacked one finds its own answers usual."""
    run = write_run(tmp_path / "run", model(7), noise)
    other = write_run(tmp_path / "other", model(8), noise, split="test")
    copied = shutil.copytree(other, tmp_path / "copied")
    own = shutil.copytree(run, tmp_path / "own")
    for references in ([other, other], [other, copied], [other, own]):
        with pytest.raises(AttackError, match="holds the same weights as "):
            attack_head(run, noise, tmp_path / "out", shadows=None, references=references)
    assert not (tmp_path / "out").exists()


def test_a_reference_without_evidence_saw_those_whom_its_statement_is_about(
    tmp_path: Path, noise: CropsManifest
) -> None:
    run = write_run(tmp_path / "run", model(7), noise)
    knew = write_run(tmp_path / "knew", model(8), noise)
    stored = json.loads((knew / "privacy.json").read_text())
    for access in stored["accesses"]:  # as where their number is no public one
        access["cohort"]["patients"] = None
    seal_again(knew / "privacy.json", stored)
    (knew / "privacy_evidence.json").unlink()
    with pytest.raises(AttackError, match="some patients were in the training of all 1"):
        attack_head(run, noise, tmp_path / "out", shadows=None, references=[knew])


def test_a_reference_that_saw_nobody_knows_whom_is_refused(
    tmp_path: Path, noise: CropsManifest, caplog: pytest.LogCaptureFixture
) -> None:
    copies = Access(stage="gan", cohort=Cohort.of_imported(noise, "x"), released="1" * 64)
    run = write_run(tmp_path / "run", model(7), noise)
    saw, other = (
        write_run(tmp_path / name, model(8), noise, split="test", earlier=[earlier])
        for name, earlier in (("saw", copies), ("other", Access.of_unknown("gan", "")))
    )
    with pytest.raises(
        AttackError, match=r"as copies of their crops show. Whom of .* is not known"
    ):
        attack_head(run, noise, tmp_path / "out", shadows=None, references=[saw])
    attack_head(run, noise, tmp_path / "more", shadows=None, references=[other])
    assert "nobody knows whom of phantom-archive/train it saw: It is unknown" in caplog.text


def test_a_reference_is_known_by_its_patients_not_by_the_pixels_of_their_crops(
    tmp_path: Path, noise: CropsManifest
) -> None:
    shutil.copytree(noise.folder, tmp_path / "again")
    crops = [
        replace(
            crop,
            sha256=save_crop_image(tmp_path / "again" / crop.file, ~noise.image(row)),
            fingerprint="",
        )
        for row, crop in enumerate(noise.crops)
    ]
    again = CropsManifest.write(tmp_path / "again", crops)
    run = write_run(tmp_path / "run", model(7), noise)
    knew = write_run(tmp_path / "knew", model(8), again)
    with pytest.raises(AttackError, match="some patients were in the training of all 1"):
        attack_head(run, noise, tmp_path / "out", shadows=None, references=[knew])


def test_heads_on_crops_that_the_run_never_saw_do_not_stand_beside_it(
    tmp_path: Path, noise: CropsManifest, head_run: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(head_run, run)
    stored = json.loads((run / "privacy.json").read_text())
    stored["statements"][0]["own"] = False  # an earlier stage saw them
    seal_again(run / "privacy.json", stored)
    result = attack_head(run, noise, tmp_path / "out", shadows=None)
    assert "fitted to other crops than these" in result.not_tried["rmia"]
    with pytest.raises(AttackError, match="shadows=8: the head was fitted to other crops"):
        attack_head(run, noise, tmp_path / "other")


@pytest.mark.parametrize("count", [-2, 2, 3])
def test_numbers_of_shadows_that_make_no_pairs_are_refused(
    count: int, tmp_path: Path, noise: CropsManifest, head_run: Path
) -> None:
    with pytest.raises(AttackError, match=f"shadows={count}. Give an even number from 4 on"):
        attack_head(head_run, noise, tmp_path / "out", shadows=count)


def test_no_shadows_leave_the_loss_threshold(
    tmp_path: Path, noise: CropsManifest, head_run: Path
) -> None:
    result = attack_head(head_run, noise, tmp_path / "out", shadows=0)
    assert [outcome.attack.name for outcome in result.outcomes] == list(OF_TARGET)
    assert result.not_tried["rmia"] == "no shadow heads were asked for"


@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training")
def test_a_run_of_the_shipped_configuration_is_attacked_as_it_was_trained(
    tmp_path: Path, noise: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its norm and its rate stand in no configuration: they follow from features and noise."""
    phantoms = write_cohort(tmp_path / "phantoms", origin="phantom")
    net = CropClassifier(
        backbone="crop_measurements",
        backbone_args={"components": 4},
        image_size=32,
        trainable="head",
    )
    images = torch.stack([CropsDataset(phantoms, [row])[0].image for row in range(24)])
    assert isinstance(net.net, WhitenedFeatures)
    net.net.whiten(net.net.numbers(images))
    (tmp_path / "start").mkdir()
    start = save(tmp_path / "start" / "last.ckpt", net)
    write_statement(start.parent, PrivacyLedger(exclusions=(PHANTOMS,)), artefact=start)
    words = ["fit", "--config", "configs/classifier/dp_finetune.yaml", "--run_dir"]
    words += [str(tmp_path / "run"), "--data.init_args.crops", str(noise.folder)]
    words += ["--data.init_args.image_size", "32", "--model.init_args.weights", str(start)]
    words += ["--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
    assert main([*words, "--model.init_args.delta", "1e-3"]) == 0
    (statement,) = read_statements(tmp_path / "run")
    recipe = TrainedRun.read(tmp_path / "run", statement).recipe(36, 0.5)
    trained = DPCropClassifier.load_from_checkpoint(
        tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True
    )
    assert isinstance(recipe.kind, NoisySteps)
    assert recipe.kind.clip.norm == trained.clipping_norm == pytest.approx(math.sqrt(5) / 2)
    assert f"at rate {recipe.learning_rate:.3g} on 4 features" in capsys.readouterr().out
    result = attack_head(tmp_path / "run", noise, tmp_path / "out")
    assert dict(result.not_tried) == {}
