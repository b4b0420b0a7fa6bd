"""``kill -9`` in the middle of each stage, then the same command again."""

import json
import signal
import time
from pathlib import Path

import pytest
import yaml

# Imported once, and not by each process.
import data_prep.prepare  # noqa: F401
import gan.generate  # noqa: F401
import mammo_dp.attacks.membership.command
import mammo_dp.privacy.training.classifier
import mammo_dp.report.page
import mammo_dp.training_cli  # noqa: F401
from tests.started import Started, run_command

BODY = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3},
    "image_size": 32,
}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
PIPELINE = {
    "description": "Every kind of stage, tiny.",
    "configs": {
        "mcgan": {
            "model": {
                "class_path": "mammo_dp.MCGAN",
                "init_args": {"image_size": 32, "channels": 4, "latent": 8},
            },
            "data": {
                "class_path": "mammo_dp.CropsDataModule",
                "init_args": {"augment": "gan", "batch_size": 4},
            },
            "trainer": {"max_epochs": 2, "limit_val_batches": 0, **QUIET},
        },
        "pretrain": {
            "model": {"class_path": "mammo_dp.CropClassifier", "init_args": BODY},
            "data": {
                "class_path": "mammo_dp.CropsDataModule",
                "init_args": {"augment": "none", "batch_size": 4},
            },
            "trainer": {"max_epochs": 2, **QUIET},
        },
        "dp": {
            "model": {
                "class_path": "mammo_dp.DPCropClassifier",
                "init_args": {
                    **BODY,
                    "trainable": "norm_bias",
                    "target_epsilon": 6,
                    "views": 1,
                    "delta": 1e-3,
                },
            },
            "data": {
                "class_path": "mammo_dp.DPCropsDataModule",
                "init_args": {"augment": "none", "rate": 0.5},
            },
            "trainer": {"max_steps": 10, "limit_val_batches": 0, **QUIET},
        },
    },
    "stages": [
        "prepare phantom_archive --out {out}/archive --patients 16 --height 320 --width 256",
        "prepare cbis_ddsm --root {out}/archive --out {out}/real --size 32 --val_fraction 0.4"
        " --workers 1",
        "fit --config {configs}/mcgan.yaml --data.init_args.crops {out}/real --run_dir {out}/mcgan",
        "generate --checkpoint {out}/mcgan/checkpoints/last.ckpt --per_class 8 --out {out}/fake",
        "fit --config {configs}/pretrain.yaml --data.init_args.crops {out}/fake"
        " --run_dir {out}/pretrain",
        "fit --config {configs}/dp.yaml --data.init_args.crops {out}/real"
        " --model.init_args.weights {out}/pretrain/checkpoints/last.ckpt --run_dir {out}/runs/dp",
        "test --run {out}/runs/dp --data.init_args.evaluate_split test",
        "attack membership --run {out}/runs/dp --crops {out}/real --nonmember_split test",
        "report --runs {out}/runs --out {out}/report --sheets.real {out}/real",
    ],
}
# A stage is under way when so many files of this kind exist, and is killed then.
UNDER_WAY = [
    ("archive/**/*.dcm", 9),
    ("real/images/*.png", 4),
    ("mcgan/checkpoints/resume.ckpt", 1),
    ("fake/images/*.png", 5),
    ("pretrain/checkpoints/resume.ckpt", 1),
    ("runs/dp/checkpoints/resume.ckpt", 1),
    ("runs/dp/test_test/run.json", 1),
    ("runs/dp/attack_membership/run.json", 1),
    ("report/run.json", 1),
]


def start(out: str) -> Started:
    words = ["pipeline", "tiny.yaml", "--out", out]
    return Started(run_command, words, log=Path("log.txt"))


@pytest.mark.slow
def test_killed_pipeline_finishes_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    for pattern, count in UNDER_WAY:
        process = start("killed")
        while len(list(Path("killed").glob(pattern))) < count:
            assert process.poll() is None, f"ended before {pattern}: {process.said()[-3000:]}"
            time.sleep(0.005)
        assert process.kill() == -signal.SIGKILL, f"ended at {pattern}: {process.said()[-3000:]}"
    for out in ("killed", "whole"):
        process = start(out)
        assert process.wait() == 0, f"{out}: {process.said()[-3000:]}"

    def released(name: str) -> set[str]:
        return {
            path.relative_to(tmp_path / name).as_posix()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and not {"logs", "features"} & set(path.parts)
        }

    assert released("killed") == released("whole")
    one, other = (
        json.loads((tmp_path / name / "runs/dp/privacy.json").read_text())["statements"]
        for name in ("killed", "whole")
    )
    fields = ("epsilon", "delta", "unit", "units", "noise_multiplier", "sampling_rate", "steps")
    for mine, theirs in zip(one, other, strict=True):
        assert [mine[name] for name in fields] == [theirs[name] for name in fields]
        assert mine["steps"] == 10
        assert mine["epsilon"] == "infinity"  # the generator saw these patients without DP
    for data in ("real", "fake"):  # deterministic stages give the same bytes
        one_csv, other_csv = (tmp_path / name / data / "crops.csv" for name in ("killed", "whole"))
        if data == "real":
            assert one_csv.read_bytes() == other_csv.read_bytes()
        assert len(one_csv.read_text().splitlines()) == len(other_csv.read_text().splitlines())
