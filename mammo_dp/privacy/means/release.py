# SPDX-License-Identifier: Apache-2.0
"""``release-means``: noisy class means of features of patients' crops, one access for any use.

``means.pt`` holds the noisy sums, the mechanism that made them and the network whose features they
are, so it is all that `match-means` needs. It is written in one move, and what a killed process was
writing is its answer: noise is drawn again only where nothing was written. The exact sums never
leave the memory. The file is sealed together with the question that it answers, so that a run that
was interrupted takes up no other.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from classifier.module import CropClassifier
from classifier.released import ReleasedClassifier, load_classifier, settings_of
from classifier.unit_features import features_of
from data_prep.manifest import CropsManifest, Split
from data_prep.recorded import read_recorded
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.means.query import LARGEST_CHANGE, NoisySums, exact_sums
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, stage_name
from mammo_dp.privacy.statement.lineage import collect_parents, inputs_ledger, require_bound
from mammo_dp.privacy.statement.recompute import RESTORE
from mammo_dp.privacy.statement.seals import Binding
from mammo_dp.privacy.statement.verify import Evidence, StageCheck
from mammo_dp.privacy.training.sampling import (
    FRESH_KEY,
    NOISE,
    PoissonSampling,
    draw,
    new_key,
    noisy,
)
from mammo_dp.runs import MADE_BY, RunRecord, file_sha256, part_of, write_bytes_atomically

MEANS = "means.pt"
_RANDOMNESS = {"noise": FRESH_KEY, "sampling": "none: every patient is in the one query"}


def release_means(
    crops: str,
    checkpoint: str,
    out: str,
    *,
    split: Split = "train",
    public_size: int | None = None,
    target_epsilon: float | None = None,
    target_advantage: float | None = None,
    target_tpr: float | None = None,
    target_fpr: float = 0.01,
    delta: float = 1e-4,
    allow_unbounded: bool = False,
) -> None:
    """Releases noisy means of features of each class, once, for synthetic crops to match.

    One Gaussian query of all patients. What is made of the result, such as by `mammo-dp
    match-means`, is post-processing and may be repeated as often as one likes.

    Args:
        crops: Folder of the patients' crops, both classes in ``split``.
        checkpoint: Of a crop classifier whose body gives the features, best of phantoms, such as
            a fit of configs/classifier/pretrain.yaml. Its features are brought to length 1.
        out: Folder to write, new or of the same command.
        split: Whose patients are asked.
        public_size: Declared number of patients, > 0, fixed without a look at the data; the
            statement then holds for adding or removing a patient. Without it their number is
            public, and a neighbour has one patient's data blanked.
        target_epsilon: Epsilon per patient at ``delta``, > 0.
        target_advantage: Largest true minus false positive rate of a test whether a patient was
            asked, in ``(0, 1)``.
        target_tpr: Largest probability to recognise a patient who was asked at a false positive
            rate of ``target_fpr``, in ``(target_fpr, 1)``.
        target_fpr: False positive rate that ``target_tpr`` refers to, in ``(0, 1)``.
        delta: Probability that the bound of epsilon fails, below 1 / patients.
        allow_unbounded: Whether to take a classifier that saw these patients without DP; the
            statement then says that epsilon is infinite.
    """
    manifest = CropsManifest.read(crops)
    manifest.require_classes(split)
    budget = PrivacyBudget(
        delta=delta,
        epsilon=target_epsilon,
        advantage=target_advantage,
        tpr=target_tpr,
        fpr=target_fpr,
    )
    sampling = PoissonSampling.from_manifest(manifest, split, rate=1.0, public_size=public_size)
    planned = Mechanism(
        noise_multiplier=budget.noise_multiplier(sampling, steps=1),
        sampling_rate=1.0,
        steps=1,
        clipping_norm=LARGEST_CHANGE,
    )
    if not allow_unbounded:
        require_bound(
            collect_parents([crops, checkpoint]),
            Access.of_training(
                "means", manifest, split, mechanism=planned, public_size=public_size
            ),
            delta,
        )
    path = Path(out) / MEANS
    binding = Binding(
        identity={
            "kind": "released means",
            "crops": manifest.sha256,
            "checkpoint": file_sha256(checkpoint),
            "split": split,
            "public_size": public_size,
            "mechanism": planned.as_json(),
        },
        remedy="It may also be the answer to another question. Restore it, or choose a new folder, "
        "whose answer comes on top of this one",
    )
    part = part_of(path)
    if part.exists() and not part.stat().st_size:  # of an answer nobody can have read a byte
        part.unlink()
    for drawn in (path, part):
        if drawn.exists():  # by a process that died before its statement: no second draw
            binding.require(drawn)
            drawn.replace(path)
            return
    model = load_classifier(checkpoint)
    features = features_of(model, manifest, [row for rows in sampling.rows_of for row in rows])
    of_patients = np.split(features, np.cumsum([len(rows) for rows in sampling.rows_of])[:-1])
    sums = exact_sums(
        (own, np.array([manifest.crops[row].malignant for row in rows]))
        for own, rows in zip(of_patients, sampling.rows_of, strict=True)
    )
    noise = planned.noise_multiplier * LARGEST_CHANGE
    released = NoisySums(sums=noisy(sums, noise, draw(new_key(), 0, NOISE)), noise=noise)
    ReleasedMeans(released=released, mechanism=planned, model=model).write(path, binding)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedMeans:
    """Content of ``means.pt``.

    Attributes:
        released: The noisy sums.
        mechanism: The query as it was executed.
        model: Whose features they are, in evaluation mode.
    """

    released: NoisySums
    mechanism: Mechanism
    model: CropClassifier

    @property
    def net(self) -> nn.Module:
        """The network that gives the features."""
        net: nn.Module = self.model.net
        return net

    def write(self, path: Path, binding: Binding) -> None:
        """Writes the file in one move, sealed.

        Args:
            path: The file.
            binding: The question that it answers.
        """
        content = {
            "note": MADE_BY,
            "sums": torch.from_numpy(self.released.sums),
            "mechanism": asdict(self.mechanism),
            "settings": settings_of(self.model),
            "net": self.net.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes_atomically(path, binding.sealed(buffer.getvalue()))

    @classmethod
    def read(cls, path: str | Path) -> "ReleasedMeans":
        """Loads the file; no code in it is run.

        Raises:
            PrivacyError: If the file is missing, damaged or something else.
        """
        content = _content(Path(path))
        mechanism = Mechanism(**content["mechanism"])
        found = ReleasedClassifier.of(
            content["net"], content["settings"], calibration=None, where=str(path)
        )
        sums = content["sums"].double().numpy()
        return cls(
            released=NoisySums(
                sums=sums, noise=mechanism.noise_multiplier * (mechanism.clipping_norm or 1.0)
            ),
            mechanism=mechanism,
            model=found.model,
        )


def _content(path: Path) -> Mapping[str, Any]:
    remedy = "Give the means.pt of `mammo-dp release-means`"
    if not path.is_file():
        raise PrivacyError(f"{path}: is no file. {remedy}.")
    read = read_recorded(path)
    try:
        content: Mapping[str, Any] = torch.load(
            io.BytesIO(read), map_location="cpu", weights_only=True
        )
        Mechanism(**content["mechanism"])
        shape = content["sums"].shape
        if len(shape) != 2 or not {"net", "settings"} <= set(content):
            raise ValueError("sums, network or settings are missing")
    except Exception as error:  # torch raises half a dozen kinds for what is no such file
        raise PrivacyError(
            f"{path}: holds no released means ({type(error).__name__}: {error}). {remedy}."
        ) from error
    return content


def write_means_statement(record: RunRecord) -> None:
    """Writes the statement of released means: one query of the patients.

    Args:
        record: The run that filled the folder.

    Raises:
        PrivacyError: If the means cannot be read.
    """
    released = record.folder / MEANS
    asked = Access.of_training(
        stage_name("class means of features", file_sha256(released)),
        CropsManifest.read(record.inputs["crops"].path),
        record.config["split"],
        mechanism=Mechanism(**_content(released)["mechanism"]),
        released=file_sha256(released),
        public_size=record.config["public_size"],
    )
    write_statement(
        record.folder,
        inputs_ledger(record).plus(asked),
        delta=record.config["delta"],
        artefact=released,
        randomness=_RANDOMNESS,
        run=record,
    )


def check_means(evidence: Evidence) -> bool:
    """Compares the statement of released means with the patients and the query that was executed.

    Returns:
        Whether there was an account.
    """
    record, config = evidence.record, evidence.record.config
    evidence.check_cohort("crops", config.get("split", "train"))
    where = record.folder / MEANS
    try:
        done = Mechanism(**_content(where)["mechanism"])
    except PrivacyError as error:
        evidence.findings.add(where, f"cannot be read ({error})", RESTORE)
        return False
    evidence.compare_account(where, [[done.noise_multiplier, done.sampling_rate, done.steps]])
    path, stored = evidence.path, evidence.stored
    evidence.findings.compare(path, "configured delta", stored["delta"], config.get("delta"))
    for access in evidence.own:
        size = config.get("public_size")
        evidence.findings.compare(path, "configured public_size", access.public_size, size)
    evidence.findings.compare(path, "randomness", stored["randomness"], _RANDOMNESS)
    return True


MEANS_RELEASED = StageCheck(check=check_means)
