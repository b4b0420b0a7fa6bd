"""A chain of real runs, and ways to tamper with it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mammo_dp.privacy.statement.recompute import Findings, recompute
from mammo_dp.privacy.statement.seals import seal
from mammo_dp.runs import config_sha256, file_sha256

Verify = Callable[..., dict[str, Any]]

BODY: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
    "image_size": 32,
}
PLAIN: dict[str, Any] = {
    "model": {"class_path": "mammo_dp.CropClassifier", "init_args": BODY},
    "data": {
        "class_path": "mammo_dp.CropsDataModule",
        "init_args": {"augment": "none", "batch_size": 8},
    },
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "limit_val_batches": 0,
        "enable_progress_bar": False,
    },
}
GAN: dict[str, Any] = PLAIN | {
    "model": {
        "class_path": "mammo_dp.MCGAN",
        "init_args": {"image_size": 32, "channels": 4, "latent": 8},
    }
}
DP: dict[str, Any] = {
    "model": {
        "class_path": "mammo_dp.DPCropClassifier",
        "init_args": {**BODY, "trainable": "head", "target_epsilon": 8.0, "delta": 1e-3},
    },
    "data": {
        "class_path": "mammo_dp.DPCropsDataModule",
        "init_args": {"augment": "none", "rate": 1.0},  # rate 1 is accounted fastest
    },
    "trainer": PLAIN["trainer"] | {"max_epochs": None, "max_steps": 4},
}
LINES = (
    "prepare phantom_archive --out archive --patients 9 --height 320 --width 256",
    "prepare cbis_ddsm --root archive --out real --size 32 --spacing_mm 0.1 --workers 1",
    "prepare phantoms --per_class 8 --size 32 --out phantoms",
    "fit --config plain.yaml --data.init_args.crops phantoms --run_dir pretrain",
    "fit --config dp.yaml --data.init_args.crops real --run_dir dp "
    "--model.init_args.weights pretrain/checkpoints/last.ckpt",
    "fit --config dp.yaml --data.init_args.crops phantoms --run_dir rehearsal",
    "fit --config gan.yaml --data.init_args.crops real --run_dir gan",
    "generate --checkpoint gan/checkpoints/last.ckpt --per_class 4 --out generated",
)


def files(found: dict[str, Any]) -> set[str]:
    return {finding["where"] for finding in found["findings"]}


def said(found: dict[str, Any], file: str) -> str:
    return " ".join(one["what"] for one in found["findings"] if one["where"] == file)


def edit(path: str, change: Callable[[Any], object]) -> None:
    stored = json.loads(Path(path).read_text())
    change(stored)
    Path(path).write_text(json.dumps(stored, indent=2) + "\n")


def rehash(folder: str) -> None:
    """Makes ``run.json`` agree with the files again."""

    def change(stored: dict[str, Any]) -> None:
        for name in stored["outputs"]:
            stored["outputs"][name] = file_sha256(Path(folder) / name)

    edit(f"{folder}/run.json", change)


def forge(folder: str, change: Callable[[dict[str, Any]], object], *, key: bool) -> None:
    """Makes numbers, words and hashes follow from an altered statement; seals it with the key."""
    path = Path(folder) / "privacy.json"
    evidence = json.loads(path.with_name("privacy_evidence.json").read_text())
    edit(str(path), change)
    follows = recompute(path, Findings())
    content = dict(follows.derived)
    content["seal"] = seal(content) if key else follows.stored["seal"]
    path.write_text(json.dumps(content, indent=2) + "\n")
    path.with_name("PRIVACY.md").write_text(follows.text)
    accesses = len(content["accesses"])
    cohorts = accesses * [None] + evidence["cohorts"]
    evidence["cohorts"] = cohorts[len(cohorts) - accesses :]
    forge_evidence(folder, lambda stored: stored.update(evidence))


def forge_evidence(folder: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Alters the evidence of a statement, ties it to the statement again and seals it."""
    path = Path(folder) / "privacy_evidence.json"
    stored = json.loads(path.read_text())
    del stored["seal"]
    change(stored)
    stored.pop("seal", None)
    stored["statement_sha256"] = file_sha256(path.with_name("privacy.json"))
    path.write_text(json.dumps({**stored, "seal": seal(stored)}, indent=2) + "\n")
    rehash(folder)


def reconfigure(name: str, value: object, folder: str = "dp") -> None:
    """Alters a configured value in ``run.json`` and ``config.yaml``, with their hashes."""
    *parts, last = name.split(".")

    def change(stored: dict[str, Any]) -> None:
        at = stored["config"]
        for part in parts:
            at = at[part]
        at[last] = value
        stored["config_sha256"] = config_sha256(stored["command"], stored["config"], stored["seed"])
        Path(folder, "config.yaml").write_text(yaml.safe_dump(stored["config"]))

    edit(f"{folder}/run.json", change)
    changed = json.loads(Path(folder, "run.json").read_text())["config_sha256"]
    forge_evidence(folder, lambda stored: stored["run"].update(config_sha256=changed))


def rewrite_crops(folder: str, change: Callable[[list[dict[str, str]]], object]) -> str:
    path = Path(folder) / "crops.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    change(rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(buffer.getvalue())
    return file_sha256(path)


def mechanism(stored: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stored["accesses"][-1]["mechanism"]
    return found
