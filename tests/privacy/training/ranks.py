"""Fits on two processes: first the one that the words ask for, then those below.

The first process calls :func:`script`. Lightning starts the second one as it does for the script
``mammo-dp``, ``python ranks.py fit ...``; both go through all fits in step.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported

# isort: split
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.nn.utils import parameters_to_vector

import mammo_dp.main
from classifier.features import rank_zero_first
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.plugins import DPDDPStrategy
from mammo_dp.privacy.training.sampling import new_key
from tests.privacy.training.fits import data, model, trainer

STEPS = 8
# Environment variable with cohort, folder for what was found, and accelerator, as JSON.
SETTINGS = "MAMMO_DP_TEST_RANKS"
DONE = "the fit through the front door is done"
# Settings of model and data; so few patients that a share is often empty, and nobody within the
# steps of the last. One rate for most: each takes a second to calibrate.
FITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "patients": ({"optimizer": "sgd", "learning_rate": 0.1}, {"rate": 0.4}),
    "crops": ({"max_physical_batch": 2}, {"rate": 0.4, "unit": "crop"}),
    "averaged": ({"trainable": "norm_bias", "ema_decay": 0.9, "warmup_steps": 2}, {"rate": 0.4}),
    "features": ({"trainable": "head", "views": 2}, {"rate": 0.4, "augment": "light"}),
    "nobody": ({}, {"rate": 0.01}),
}


class Watch(Callback):
    """Keeps the rows that each step of this process saw; cuts the power before a step."""

    def __init__(self, cut: int | None = None) -> None:
        self.rows: list[list[int]] = []
        self.cut = cut

    def on_train_batch_start(self, *arguments: Any) -> None:
        if len(self.rows) == self.cut:
            raise PowerCutError
        self.rows.append(arguments[2].row.tolist())


class PowerCutError(Exception):
    pass


class OwnKeys(DPCropsDataModule):
    """Draws on each rank apart, as Opacus' sampler for several devices does."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.key = new_key()


def fit(
    cohort: CropsManifest,
    folder: Path,
    name: str,
    *,
    seed: int | None = 3,
    cut: int | None = None,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """One of the fits; returns what this process saw, spent and ended with."""
    model_settings, data_settings = FITS[name]
    net, watch = model(**model_settings), Watch(cut)
    keep = ModelCheckpoint(folder, filename="resume", every_n_train_steps=3)
    chosen = {"max_steps": STEPS, "callbacks": [watch, keep], "enable_checkpointing": True}
    run = trainer(folder, **chosen, **settings)
    run.fit(net, data(cohort, insecure_seed=seed, **data_settings), ckpt_path=ckpt_path)
    return {
        "rows": watch.rows,
        "weights": parameters_to_vector(net.net.parameters()).detach(),
        "account": net.accountant.history,
    }


def refusal(start: Callable[[], object]) -> str:
    """Message of the refusal that a start ends with."""
    try:
        start()
    except PrivacyError as error:
        return str(error)
    return "not refused"


def main(cohort: CropsManifest, out: Path, accelerator: str) -> None:
    """All fits of this process; what was found goes to ``rank0.pt`` and ``rank1.pt``."""

    def two(**settings: Any) -> dict[str, Any]:
        chosen = {"accelerator": accelerator, "devices": 2, "strategy": DPDDPStrategy()}
        return {**chosen, "use_distributed_sampler": False, **settings}

    rank = int(os.environ.get("LOCAL_RANK", "0"))
    found: dict[str, Any] = {}
    for name in FITS:
        torch.manual_seed(rank)  # the weights of rank 0 are those of the single process
        found[name] = fit(cohort, out, name, **two())
    for name in ("once", "again"):
        torch.manual_seed(0)
        found[name] = fit(cohort, out, "patients", seed=None, **two())

    torch.manual_seed(rank)
    with suppress(PowerCutError):
        fit(cohort, out / "cut", "patients", cut=5, **two())
    resume = out / "cut" / "resume.ckpt"
    found["resumed"] = fit(cohort, out / "cut", "patients", ckpt_path=resume, **two())

    apart = OwnKeys(str(cohort.folder), rate=0.4)
    found["apart"] = refusal(lambda: trainer(out, **two()).fit(model(), apart))
    replaced = two(use_distributed_sampler=True)
    found["replaced"] = refusal(lambda: fit(cohort, out, "patients", **replaced))

    with rank_zero_first(trainer(out, **two()).strategy):
        found["first"] = not (out / "written").exists()
        (out / "written").touch()
    torch.save(found, out / f"rank{rank}.pt")


def script(*words: str) -> None:
    """What ``python ranks.py WORDS`` does; the process that calls it becomes that one."""
    sys.argv = [__file__, *words]
    sys.modules["__main__"].__spec__ = None  # Lightning asks how this process was started
    torch.set_num_threads(1)
    assert mammo_dp.main.main() == 0
    print(DONE, file=sys.stderr, flush=True)
    crops, found_in, device = json.loads(os.environ[SETTINGS])
    main(CropsManifest.read(Path(crops)), Path(found_in), device)


if __name__ == "__main__":
    script(*sys.argv[1:])
