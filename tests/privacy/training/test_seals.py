"""Training state and cached features are used only where they belong."""

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

from classifier.features import cached_features
from data_prep.manifest import CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.seals import RESUME, Binding, SealedFeatures
from mammo_dp.privacy.training.plugins import SealedCheckpointIO
from mammo_dp.privacy.training.sampling import new_key
from mammo_dp.runs import open_run, read_run
from tests.fixtures import write_cohort
from tests.privacy.training.fits import data, model, quiet, trainer

pytestmark = [
    *quiet,
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # a fit that was copied
]

BODY: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
    "image_size": 32,
    "trainable": "head",
}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 0}
PRIVATE: dict[str, Any] = {
    "model": {
        "class_path": "mammo_dp.DPCropClassifier",
        "init_args": {**BODY, "target_epsilon": 8.0, "delta": 1e-3, "views": 2},
    },
    "data": {
        "class_path": "mammo_dp.DPCropsDataModule",
        "init_args": {"augment": "light", "rate": 0.5},
    },
    "trainer": {"max_steps": 6, **QUIET},
}
PLAIN: dict[str, Any] = {
    "model": {"class_path": "mammo_dp.CropClassifier", "init_args": BODY},
    "data": {
        "class_path": "mammo_dp.CropsDataModule",
        "init_args": {"augment": "none", "batch_size": 8},
    },
    "trainer": {"max_epochs": 4, **QUIET},
}


Own = Callable[..., tuple[list[str], Path]]


class PowerCutError(Exception):
    pass


class Cut(Callback):
    """Ends a fit as a power cut does, once, after some steps."""

    steps = 0

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if 0 < Cut.steps <= trainer.global_step:
            Cut.steps = 0
            raise PowerCutError


def line(
    folder: Path, content: dict[str, Any], crops: Path, name: str, **settings: object
) -> list[str]:
    config = folder / f"{name}.yaml"
    trainer = {**content["trainer"], "callbacks": [{"class_path": f"{__name__}.Cut"}]}
    config.write_text(yaml.safe_dump({**content, "trainer": trainer}))
    flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
    crops_flag = ["--data.init_args.crops", str(crops)]
    return ["fit", "--config", str(config), *crops_flag, "--run_dir", str(folder / name), *flags]


def unfinished(words: list[str], steps: int = 5) -> Path:
    """A fit that was cut after some steps; returns its training state."""
    Cut.steps = steps
    with pytest.raises(PowerCutError):
        run(words)
    state = Path(words[words.index("--run_dir") + 1]) / RESUME
    assert state.is_file()
    return state


@pytest.fixture(scope="module")
def cut_fits(
    cohort: CropsManifest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Folders with a fit that was cut after some steps, each made when it is first asked for."""
    made: dict[tuple[str, int, str], Path] = {}

    def cut(content: dict[str, Any], steps: int, **settings: object) -> Path:
        key = (content["model"]["class_path"], steps, str(settings))
        if key not in made:
            folder = tmp_path_factory.mktemp("cut")
            crops = settings.pop("crops", cohort.folder)
            assert isinstance(crops, Path)
            unfinished(line(folder, content, crops, "own", **settings), steps)
            made[key] = folder
        return made[key]

    return cut


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of other patients."""
    return write_cohort(tmp_path_factory.mktemp("other"), seed=5).folder


@pytest.fixture
def own(tmp_path: Path, cohort: CropsManifest, cut_fits: Callable[..., Path]) -> Own:
    """The test's own copy of a fit that was cut: its command, and its training state."""

    def copied(content: dict[str, Any], steps: int = 5) -> tuple[list[str], Path]:
        shutil.copytree(cut_fits(content, steps) / "own", tmp_path / "own", symlinks=True)
        return line(tmp_path, content, cohort.folder, "own"), tmp_path / "own" / RESUME

    return copied


def other_identity(**changes: object) -> Binding:
    return replace(BINDING, identity={**BINDING.identity, **changes})


BINDING = Binding(
    identity={
        "kind": "training state",
        "command": "fit",
        "config_sha256": "a" * 64,
        "inputs": {"data": "b" * 64},
    },
    remedy="Delete the file",
)


def archive(**content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(300.0), **content}, buffer)
    return buffer.getvalue()


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "state.ckpt"
    path.write_bytes(BINDING.sealed(archive()))
    return path


def test_a_sealed_file_is_an_archive_like_any_other(sealed: Path) -> None:
    assert BINDING.doubt(sealed) == ""
    assert BINDING.require(sealed) == archive()
    for memory_map in (False, True):
        found = torch.load(sealed, weights_only=True, mmap=memory_map)
        assert torch.equal(found["weight"], torch.arange(300.0))
    with zipfile.ZipFile(sealed) as file:
        assert file.testzip() is None
        assert set(json.loads(file.comment)) == {"key_id", "hmac_sha256"}


def test_every_byte_of_a_sealed_file_counts(sealed: Path) -> None:
    whole = sealed.read_bytes()
    places = [*range(0, len(whole), 41), *range(len(whole) - 140, len(whole))]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1
        sealed.write_bytes(bytes(changed))
        assert BINDING.doubt(sealed), place
    for cut in (0, 1, 21, 22, 100, len(whole) // 2, len(whole) - 1):
        sealed.write_bytes(whole[:cut])
        assert BINDING.doubt(sealed), cut
    sealed.write_bytes(whole + b"\0")
    assert BINDING.doubt(sealed)
    sealed.write_bytes(whole)
    assert not BINDING.doubt(sealed)


@pytest.mark.parametrize(
    "changes",
    [
        {"config_sha256": "c" * 64},
        {"inputs": {"data": "c" * 64}},
        {"inputs": {"data": "b" * 64, "weights": "c" * 64}},
        {"inputs": {"weights": "b" * 64}},
        {"command": "evolve"},
        {"kind": "features"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_file_of_another_run_does_not_fit(sealed: Path, changes: dict[str, object]) -> None:
    with pytest.raises(PrivacyError, match=r"does not fit its seal.*Delete the file\."):
        other_identity(**changes).require(sealed)


def test_a_seal_is_of_one_key(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMMO_DP_COHORT_KEY", "11" * 32)
    with pytest.raises(PrivacyError, match=r"is sealed under key .*, and the cohort key here is"):
        BINDING.require(sealed)


def test_a_seal_cannot_be_moved_to_other_content(sealed: Path) -> None:
    seal = sealed.read_bytes()[len(archive()) - 2 :]
    sealed.write_bytes(archive(weight=torch.zeros(300))[:-2] + seal)
    torch.load(sealed, weights_only=True)
    assert "does not fit" in BINDING.doubt(sealed)
    sealed.write_bytes(archive())
    assert "has no seal" in BINDING.doubt(sealed)


def test_the_folder_is_no_part_of_the_identity(tmp_path: Path, cohort: CropsManifest) -> None:
    bindings = []
    for name in ("a", "b/c"):
        record = open_run(
            tmp_path / name, command="fit", config={"x": 1}, inputs={"data": cohort.folder}, seed=3
        )
        bindings.append(Binding.of_run(record))
    assert bindings[0] == bindings[1]


def test_a_write_that_is_killed_leaves_the_state_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seal stands in the file itself: no moment has new content and an old seal."""
    path, files = tmp_path / "resume.ckpt", SealedCheckpointIO(BINDING)
    state = {"optimizer_states": [], "weight": torch.zeros(3)}
    files.save_checkpoint(state, path)

    def killed(self: Path, content: object) -> None:
        if isinstance(content, bytes):
            self.touch()  # opened, and nothing written
        raise PowerCutError

    for write in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, write, killed)
            with pytest.raises(PowerCutError):
                files.save_checkpoint({**state, "weight": torch.ones(3)}, path)
        assert files.load_checkpoint(path)["weight"].sum() == 0
    files.save_checkpoint({**state, "weight": torch.ones(3)}, path)
    assert files.load_checkpoint(path)["weight"].sum() == 3


def test_weights_alone_carry_no_seal(tmp_path: Path) -> None:
    SealedCheckpointIO(BINDING).save_checkpoint({"state_dict": {}}, tmp_path / "last.ckpt")
    assert "has no seal" in BINDING.doubt(tmp_path / "last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("content", [PRIVATE, PLAIN], ids=["private", "plain"])
def test_a_cut_fit_resumes_from_its_own_state_and_from_no_other(
    tmp_path: Path,
    own: Own,
    cut_fits: Callable[..., Path],
    other: Path,
    content: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, state = own(content)
    as_left = state.read_bytes()
    steps = {"trainer.max_steps": 7} if content is PRIVATE else {"trainer.max_epochs": 5}
    foreign = [
        (cut_fits(content, 5, **changed) / "own" / RESUME).read_bytes()
        for changed in (steps, {"crops": other}, {"seed_everything": 7})
    ]
    edited = torch.load(state, weights_only=True)
    edited["state_dict"] = {name: 0 * value for name, value in edited["state_dict"].items()}
    torch.save(edited, tmp_path / "edited.ckpt")
    for swapped in (*foreign, (tmp_path / "edited.ckpt").read_bytes()):
        state.write_bytes(swapped)
        capsys.readouterr()
        assert main(words) == 1
        assert re.search(r"resume\.ckpt: .* seal.*Delete the file", capsys.readouterr().err)
        assert not read_run(tmp_path / "own").is_finished
        assert state.read_bytes() == swapped  # the folder is left as it is
        assert main(["privacy", "verify", str(tmp_path / "own")]) == 1
        assert re.search(r"resume\.ckpt: .* seal", capsys.readouterr().err)
    state.write_bytes(as_left)
    run(words)
    assert read_run(tmp_path / "own").is_finished


def test_state_that_a_cluster_would_resume_from_is_checked_as_well(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    """Under SLURM, Lightning resumes from `hpc_ckpt_1.ckpt` where no other is named."""
    first = trainer(tmp_path, plugins=[SealedCheckpointIO(BINDING)])
    first.fit(model(trainable="head"), data(cohort))
    first.save_checkpoint(tmp_path / "hpc_ckpt_1.ckpt")
    for forged in (False, True):
        again = trainer(tmp_path, max_steps=4, plugins=[SealedCheckpointIO(BINDING)])
        if forged:
            state = torch.load(tmp_path / "hpc_ckpt_1.ckpt", weights_only=True)
            state["accountant"]["history"] = []
            torch.save(state, tmp_path / "hpc_ckpt_1.ckpt")
            with pytest.raises(PrivacyError, match=r"hpc_ckpt_1\.ckpt: has no seal"):
                again.fit(model(trainable="head"), data(cohort), ckpt_path="hpc")
        else:
            again.fit(model(trainable="head"), data(cohort), ckpt_path="hpc")


def steps_of(folder: Path) -> int:
    (statement,) = json.loads((folder / "privacy.json").read_text())["statements"]
    return int(statement["steps"])


@pytest.mark.slow
def test_a_fit_whose_state_was_deleted_starts_again_with_a_new_account_and_names_no_key(
    tmp_path: Path, own: Own
) -> None:
    """Nothing of the first start was released: its steps need no account, and all six are taken."""
    words, state = own(PRIVATE)
    state.unlink()
    run(words)
    assert steps_of(tmp_path / "own") == 6
    released = torch.load(tmp_path / "own/checkpoints/last.ckpt", weights_only=True)
    assert "keys" not in released  # no released file names a key


@pytest.mark.slow
def test_an_older_state_makes_no_other_weights_beside_those_that_are_written(
    tmp_path: Path, own: Own, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may have been seen, though the fit was killed before their statement."""
    words, state = own(PRIVATE, 2)
    older, last = state.read_bytes(), tmp_path / "own/checkpoints/last.ckpt"

    def killed(*of: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr("mammo_dp.training_cli.write_fit_statement", killed)
        with pytest.raises(PowerCutError):
            run(words)
    latest, written = state.read_bytes(), last.read_bytes()
    state.write_bytes(older)
    assert main(words) == 1
    assert "nor the state of its last step lies here" in capsys.readouterr().err
    assert last.read_bytes() == written
    state.write_bytes(latest)
    run(words)
    assert steps_of(tmp_path / "own") == 6


@pytest.mark.slow
def test_an_older_state_of_the_same_fit_brings_its_account_along(tmp_path: Path, own: Own) -> None:
    """Steps after it were not released and are taken again, under a fresh key."""
    words, state = own(PRIVATE, 2)
    older = state.read_bytes()
    unfinished(words, steps=5)
    first, last = (
        torch.load(io.BytesIO(f), weights_only=True) for f in (older, state.read_bytes())
    )
    assert sum(steps for _, _, steps in first["accountant"]["history"]) == 2
    assert sum(steps for _, _, steps in last["accountant"]["history"]) == 5
    assert len({*first["keys"], *last["keys"]}) == len(last["keys"]) == 2
    state.write_bytes(older)
    run(words)
    assert steps_of(tmp_path / "own") == 6


@pytest.mark.slow
def test_a_key_of_any_earlier_start_is_refused_on_resume(
    tmp_path: Path, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, used = line(tmp_path, PRIVATE, cohort.folder, "own"), new_key()
    with monkeypatch.context() as patch:
        patch.setattr("mammo_dp.privacy.training.datamodule.new_key", lambda: used)
        unfinished(words, steps=2)
        with pytest.raises(PrivacyError, match="resumes with the key of an earlier start"):
            run(words)
    unfinished(words, steps=4)
    with monkeypatch.context() as patch:
        patch.setattr("mammo_dp.privacy.training.datamodule.new_key", lambda: used)
        with pytest.raises(PrivacyError, match="of an earlier start"):  # two starts later
            run(words)
    run(words)
    assert read_run(tmp_path / "own").is_finished


def test_every_start_takes_a_fresh_key(tmp_path: Path, cohort: CropsManifest) -> None:
    keys, crops = set(), data(cohort)
    for start in range(4):
        trainer(tmp_path / str(start), max_steps=1).fit(model(trainable="head"), crops)
        keys.add(crops.key)
    assert len(keys) == 4


@pytest.mark.slow
@pytest.mark.parametrize("content", [PRIVATE, PLAIN], ids=["private", "plain"])
@pytest.mark.parametrize("swap", ["zeros", "another file of the cache", "unsealed"])
def test_replaced_features_are_refused_and_found(
    tmp_path: Path,
    own: Own,
    cut_fits: Callable[..., Path],
    other: Path,
    content: dict[str, Any],
    swap: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, _ = own(content)
    (features,) = (tmp_path / "own" / "features").glob("*.pt")
    tensor = torch.load(features, weights_only=True)
    if swap == "zeros":
        torch.save(torch.zeros_like(tensor), features)
    elif swap == "unsealed":
        torch.save(tensor, features)
    else:  # of equal shape, from other crops, sealed under the same key
        (foreign,) = (cut_fits(content, 5, crops=other) / "own" / "features").glob("*.pt")
        assert torch.load(foreign, weights_only=True).shape == tensor.shape
        shutil.copy(foreign, features)
    capsys.readouterr()
    assert main(["privacy", "verify", str(tmp_path / "own")]) == 1
    assert re.search(rf"{features.name}: .*seal.*Delete the folder", capsys.readouterr().err)
    assert main(words) == 1
    assert re.search(rf"{features.name}: .*seal.*Delete the folder", capsys.readouterr().err)
    shutil.rmtree(features.parent)
    run(words)
    assert torch.equal(torch.load(features, weights_only=True), tensor)
    features.write_bytes(features.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["privacy", "verify", str(tmp_path / "own")]) == 1  # and once it is finished
    assert features.name in capsys.readouterr().err


def test_sealed_features_are_used_again(tmp_path: Path, cohort: CropsManifest) -> None:
    from classifier.backbones import build

    torch.manual_seed(0)
    net = build(BODY["backbone"], image_size=32, backbone_args=BODY["backbone_args"])
    settings: dict[str, Any] = {"folder": tmp_path, "views": 2, "seal": SealedFeatures()}
    first = cached_features(net, cohort, [0, 1], **settings)
    (file,) = tmp_path.glob("*.pt")
    file.write_bytes(Binding.of_features(file).sealed(_saved(torch.full((4, 12), 7.0))))
    assert (cached_features(net, cohort, [0, 1], **settings) == 7).all()
    torch.save(first.flatten(0, 1), file)
    with pytest.raises(PrivacyError, match="has no seal"):
        cached_features(net, cohort, [0, 1], **settings)


def _saved(tensor: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()
