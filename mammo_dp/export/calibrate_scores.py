# SPDX-License-Identifier: Apache-2.0
"""``calibrate-scores``: a private fit of slope and intercept (Platt scaling) for a run's scores."""

import json
from pathlib import Path

from classifier.released import ReleasedClassifier, settings_of
from data_prep.manifest import Split
from mammo_dp.export import PredictError
from mammo_dp.export.shared_classifier import CONFIG, SharedClassifier
from mammo_dp.privacy.statement.document import read_statement
from mammo_dp.runs import RELEASED
from mammo_dp.training_cli import train

STEPS = 20  # in simulations 10 to 50 did equally well for two numbers
# Of the classifier's own training, which is over.
_TRAINING = {
    *("trainable", "last_blocks", "lora_rank"),
    *("learning_rate", "weight_decay", "warmup_steps"),
}


def calibrate_scores(
    *,
    run: str,
    crops: str,
    out: str,
    split: Split = "val",
    target_epsilon: float = 1.0,
    delta: float | None = None,
    public_size: int | None = None,
) -> None:
    """Calibrates the probabilities of a run on a cohort, with differential privacy per patient.

    Writes a run folder like that of a fit: its checkpoint holds the classifier, slope and
    intercept, and its statement covers the patients of both. Patients other than those of the
    classifier get the epsilon given here, those of the classifier keep theirs; patients of both are
    accounted for twice.

    Args:
        run: Run folder of a fit.
        crops: Folder of crops of the cohort to calibrate on.
        out: Run folder to write.
        split: Split of these crops; not one that a generator or classifier was fitted on, if its
            scores shall hold for others.
        target_epsilon: Epsilon per patient at delta, for this step alone.
        delta: Probability that the bound of epsilon fails, below 1 / patients; that of the run's
            statement if not given.
        public_size: Declared number of patients, fixed without a look at the data; this step then
            holds for adding or removing a patient. Without it their number is public, and a
            neighbour has one patient's data blanked.

    Raises:
        PredictError: If the run is an export or was calibrated already.
    """
    shared = SharedClassifier.read(run)
    if shared.path.name == CONFIG or shared.released.calibration is not None:
        raise PredictError(
            f"{run}: is {'an export' if shared.path.name == CONFIG else 'calibrated already'}. "
            "Give the run folder of the fit that came before."
        )
    body = settings_of(shared.released.model)
    stated = read_statement(run)["delta"] if delta is None else delta
    config = {
        "model": {
            "class_path": "mammo_dp.DPCalibration",
            "init_args": {name: value for name, value in body.items() if name not in _TRAINING}
            | {"weights": str(shared.path), "target_epsilon": target_epsilon, "delta": stated},
        },
        "data": {
            "class_path": "mammo_dp.DPCropsDataModule",
            "init_args": {
                "crops": crops,
                "train_split": split,
                "image_size": shared.image_size,
                "rate": 1.0,
                "public_size": public_size,
                "augment": "none",
            },
        },
        "trainer": {"max_steps": STEPS, "accelerator": "cpu", "limit_val_batches": 0},
        "run_dir": out,
    }
    train(["fit", "--config", json.dumps(config)])
    fitted = ReleasedClassifier.read(Path(out) / RELEASED).calibration
    assert fitted is not None
    print(f"{out}: slope {fitted.slope:.3f}, intercept {fitted.intercept:+.3f}.")
    print(read_statement(out)["summary"])
