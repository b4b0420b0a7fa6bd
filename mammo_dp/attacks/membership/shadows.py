# SPDX-License-Identifier: Apache-2.0
"""The models that membership attacks query: the attacked one, shadow heads, and reference runs."""

import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from classifier.backbones import head
from classifier.features import cached_features
from classifier.released import ReleasedClassifier, ReleasedError, load_classifier
from data_prep.datamodule import CropsDataset, collate_crops
from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.heads import (
    Examples,
    NoisySteps,
    PlainSteps,
    Recipe,
    halves,
    logits_of,
    train_heads,
)
from mammo_dp.attacks.membership.scores import LOSS_THRESHOLD, Observed, of_target
from mammo_dp.attacks.membership.signals import Signals
from mammo_dp.privacy.accounting.account import fits_of
from mammo_dp.privacy.statement.cohort import Cohort, hashed_patients
from mammo_dp.privacy.statement.document import require_ledger
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.seals import SealedFeatures
from mammo_dp.privacy.training.descent import plan_descent, undecided_norm
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.runs import RELEASED, RunRecord, file_sha256, read_run


def query(
    released: ReleasedClassifier,
    manifest: CropsManifest,
    member_split: Split,
    nonmember_split: Split,
) -> Signals:
    """Asks the model about each crop of two splits, without augmentation.

    Raises:
        AttackError: If a logit is not finite.
    """
    model, calibration = released.model, released.calibration
    columns: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("row", "patient", "member", "malignant", "signal")
    }
    for split in (member_split, nonmember_split):
        rows = manifest.rows(split)
        dataset = CropsDataset(manifest, rows, image_size=model.hparams["image_size"])
        collate = partial(collate_crops, image_size=dataset.image_size)
        with torch.inference_mode():
            for batch in DataLoader(dataset, 64, collate_fn=collate):
                logit = model(batch.image).double().numpy()
                if not np.isfinite(logit).all():
                    raise AttackError(
                        f"{type(model).__name__}: logits of split {split!r} are not finite. The "
                        "model has diverged; train it again."
                    )
                if calibration is not None:
                    logit = calibration(logit)
                malignant = batch.malignant.numpy()
                columns["row"].append(batch.row.numpy())
                columns["patient"].append(batch.unit.numpy())
                columns["member"].append(np.full(len(logit), split == member_split))
                columns["malignant"].append(malignant)
                # log(p_y / (1 - p_y)) of a sigmoid is the logit with the label's sign
                columns["signal"].append(np.where(malignant == 1, logit, -logit))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    alone = of_target(joined.pop("signal"), joined["malignant"])
    return Signals(columns=alone, **joined)


log = logging.getLogger(__name__)
VIEWS = 4  # of a model that was trained on ever fresh views
_KNOWN = ("CropClassifier", "DPCropClassifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """A finished fit of a classifier, with all that its repetition needs.

    Attributes:
        record: The run.
        released: What it released.
        settings: Hyper-parameters of the model.
        statement: Statement about the cohort that it was trained on.
    """

    record: RunRecord
    released: ReleasedClassifier
    settings: Mapping[str, Any]
    statement: PrivacyStatement

    @classmethod
    def read(cls, folder: Path, statement: PrivacyStatement) -> "TrainedRun":
        """Reads ``run.json``, the weights, and all hyper-parameters beside them.

        Raises:
            ReleasedError: If the run released no classifier.
        """
        released = ReleasedClassifier.read(folder / RELEASED)
        stored = torch.load(folder / RELEASED, map_location="cpu", weights_only=True)
        return cls(
            record=read_run(folder),
            released=released,
            settings=stored.get("hyper_parameters", {}),
            statement=statement,
        )

    @property
    def no_shadows(self) -> str:
        """Why shadow heads would not resemble the model; empty if they do."""
        kind = str(self._of("model").get("class_path", "")).rpartition(".")[2]
        if kind not in _KNOWN:
            return f"{kind or 'a model of unknown kind'} is not trained as a head by this attack"
        if (trained := self.settings["trainable"]) != "head":
            return f"trainable is {trained!r}, so that each shadow would be a whole fit"
        if "clipping" in self.settings and self.statement.own is None:
            return "no account holds for its steps, so it is not known what they were"
        if not self.statement.is_own:
            return "the head was fitted to other crops than these, which an earlier stage saw"
        return ""

    @property
    def augment(self) -> str:
        """Pipeline of the training views."""
        return str(self.data.get("augment", "light"))

    @property
    def views(self) -> int:
        """Views of a crop that the adversary asks about: the fixed ones of a cached training."""
        if "views" in self.settings:
            return int(self.settings["views"])
        return 1 if self.augment == "none" else VIEWS

    @property
    def data(self) -> Mapping[str, Any]:
        """Arguments of the data module."""
        return dict(self._of("data").get("init_args", {}))

    def recipe(self, crops: int, share: float) -> Recipe:
        """How to train a head on a part of the crops.

        Args:
            crops: Crops that the run was trained on.
            share: Crops of a shadow over these; plain steps of few crops shrink with it, so that
                each crop is seen as often.
        """
        settings, trainer = self.settings, self._of("trainer")
        kind: NoisySteps | PlainSteps
        if own := fits_of(self.statement.own):
            steps = own[0].steps
            kind = NoisySteps(
                unit=self.statement.unit,
                noise_multiplier=own[0].noise_multiplier,
                sampling_rate=own[0].sampling_rate,
                clip=Clip(norm=self._clipping_norm(), rule=settings["clipping"]),
            )
        else:
            size = int(self.data.get("batch_size", 32))
            steps = trainer.get("max_steps") or -1
            if steps < 1:
                steps = (trainer.get("max_epochs") or 1) * math.ceil(crops / size)
            passes, part = steps / math.ceil(crops / size), share * crops
            steps = max(1, round(passes * part / min(size, part)))
            kind = PlainSteps(batch_size=size, gradient_clip=trainer.get("gradient_clip_val"))
        return Recipe(
            steps=steps,
            kind=kind,
            learning_rate=self._learning_rate(),
            warmup_steps=settings["warmup_steps"],
            weight_decay=settings["weight_decay"],
            optimizer=settings.get("optimizer", "adamw"),
            ema_decay=settings.get("ema_decay"),
            malignant_weight=settings.get("malignant_weight", 1.0),
        )

    def _clipping_norm(self) -> float:
        """As set, or as it followed from the features."""
        if (given := self.settings["clipping_norm"]) is not None:
            return float(given)
        return undecided_norm(head(self.released.model.net).in_features)

    def _learning_rate(self) -> float:
        """As set, or as it followed from the noise of the run."""
        if (given := self.settings["learning_rate"]) is not None:
            return float(given)
        units, (own,) = self.statement.guarantee.units, fits_of(self.statement.own)
        assert units is not None  # of a cohort that was trained on
        return plan_descent(
            noise_multiplier=own.noise_multiplier,
            clipping_norm=self._clipping_norm(),
            expected_units=own.sampling_rate * units,
            steps=own.steps,
            features=head(self.released.model.net).in_features,
            score_noise=self.settings["score_noise"],
        ).rate

    def start(self) -> Tensor:
        """Head before the first step, bias last: that of the initial weights, or zero."""
        given = self.record.inputs.get("weights")
        if given is not None and Path(given.path).is_file():
            with contextlib.suppress(ReleasedError):  # weights of another task have another head
                layer = head(load_classifier(given.path).net)
                return torch.cat([layer.weight[0], layer.bias]).detach()
        return torch.zeros(head(self.released.model.net).in_features + 1)

    def _of(self, part: str) -> Mapping[str, Any]:
        return dict(self.record.config.get(part, {}))


def shadow_heads(
    run: TrainedRun,
    manifest: CropsManifest,
    signals: Signals,
    *,
    count: int,
    cache: Path,
    seed: int,
    progress: bool = False,
) -> Observed:
    """Trains heads as the run trained its own, on random halves of all patients.

    Args:
        run: The attacked run, with a frozen body.
        manifest: Crops of members and non-members.
        signals: Which crops, and whose.
        count: Number of heads, even.
        cache: Folder of features; that of the run holds those of its training crops.
        seed: Of halves, draws and noise.
        progress: Whether to show bars.
    """
    parts = [signals.row[signals.member == who] for who in (True, False)]
    if not np.array_equal(np.concatenate(parts), signals.row):
        raise AttackError("signals: members do not stand first. Query the model again.")
    net = run.released.model.net
    features = torch.cat(
        [
            cached_features(
                net,
                manifest,
                rows.tolist(),
                folder=cache,
                image_size=run.data.get("image_size") or run.settings["image_size"],
                augment=run.augment,  # type: ignore[arg-type]  # checked when the run was made
                views=run.views,
                seal=SealedFeatures(),
            )
            for rows in parts
        ]
    )
    _, patient = np.unique(signals.patient, return_inverse=True)
    examples = Examples(features=features, malignant=signals.malignant, patient=patient)
    inside = halves(examples.patients, count, seed)
    trained_on = len(parts[0])
    recipe = run.recipe(trained_on, len(signals.row) / 2 / trained_on)
    heads = train_heads(examples, inside, recipe, run.start(), seed=seed, progress=progress)
    layer = head(net)
    own = torch.cat([layer.weight[0], layer.bias])[None].detach()
    return Observed(
        malignant=signals.malignant,
        target=logits_of(own, features)[0].double().numpy(),
        models=logits_of(heads, features).double().numpy(),
        inside=inside[:, patient],
    )


def reference_runs(
    manifest: CropsManifest,
    signals: Signals,
    runs: Sequence[Path],
    member_split: Split,
    nonmember_split: Split,
) -> Observed:
    """Asks runs of the same kind that were trained on other patients, or on some of them.

    Args:
        manifest: Crops of members and non-members.
        signals: What the attacked model said about which crops, and whose they are.
        runs: Folders of fits. Whom a stage of their lineage saw, they say in their statement.
        member_split: Split of the members.
        nonmember_split: Split of the others.

    Raises:
        AttackError: If a patient was in every reference, so that none says what is usual, or it
            is not known which patients a reference saw.
        PrivacyError: If the statement of a reference says nothing about its weights.
    """
    models, inside = [], []
    cohorts = [Cohort.of_manifest(manifest, split) for split in (member_split, nonmember_split)]
    patients = hashed_patients(manifest, signals.row.tolist())
    for folder in runs:
        ledger = require_ledger(folder, file_sha256(folder / RELEASED))
        reference = ReleasedClassifier.read(folder / RELEASED)
        models.append(query(reference, manifest, member_split, nonmember_split))
        seen = _seen(folder, ledger, cohorts)
        inside.append(np.array([patient in seen for patient in patients]))
    sign = np.where(signals.malignant == 1, 1.0, -1.0)

    def logits(asked: Signals) -> NDArray[np.float64]:
        return (sign * asked.of(LOSS_THRESHOLD.name))[:, None]

    observed = Observed(
        malignant=signals.malignant,
        target=logits(signals),
        models=np.stack([logits(asked) for asked in models]),
        inside=np.stack(inside),
    )
    if observed.seen_by[1] < 1:
        raise AttackError(
            f"references: some patients were in the training of all {len(runs)}, so nothing says "
            "what is usual for them. Add one that was trained on another split or data set."
        )
    return observed


def _seen(folder: Path, ledger: PrivacyLedger, cohorts: Sequence[Cohort]) -> set[str]:
    """Keyed hashes of the patients whom a reference saw."""
    found: set[str] = set()
    for cohort in cohorts:
        met = ledger.met(cohort)
        if met.patients is None:
            raise AttackError(
                f"{folder}: {met.surely} Whom of {cohort.name} is not known here. Restore its "
                "privacy_evidence.json, or give a reference on patients that are known."
            )
        if met.perhaps:
            log.warning("%s: nobody knows whom of %s it saw: %s", folder, cohort.name, met.perhaps)
        found |= met.patients
    return found
