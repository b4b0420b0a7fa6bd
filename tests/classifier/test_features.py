# SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from classifier.backbones import build, head
from classifier.features import SharedFeatures, body_features, cached_features, frozen_sha256
from data_prep.datamodule import CropsDataset
from data_prep.errors import ManifestError
from data_prep.manifest import CropsManifest

VIT: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
SWIN: dict[str, Any] = {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}

Make = Callable[..., CropsManifest]


def vit(**more: Any) -> nn.Module:
    torch.manual_seed(0)
    return build("vit_tiny_patch16_224", image_size=32, backbone_args=VIT | more)


def swin() -> nn.Module:
    torch.manual_seed(0)
    return build("swin_tiny_patch4_window7_224", image_size=32, backbone_args=SWIN)


def images(manifest: CropsManifest, rows: list[int]) -> Tensor:
    dataset = CropsDataset(manifest, rows)
    return torch.stack([dataset[i].image for i in range(len(rows))])


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("make", [vit, swin])
def test_head_on_cached_features_gives_the_models_logits(
    cohort: CropsManifest, tmp_path: Path, make: Callable[[], nn.Module]
) -> None:
    net, rows = make(), cohort.rows("train")
    features = cached_features(net, cohort, rows, folder=tmp_path, batch_size=5)
    assert features.shape == (len(rows), 1, head(net).in_features)
    with torch.no_grad():
        expected = net.eval()(images(cohort, rows))
        torch.testing.assert_close(head(net)(features[:, 0]), expected, atol=1e-5, rtol=1e-5)


def test_dropout_is_off_and_modes_are_restored(cohort: CropsManifest) -> None:
    net = vit(pos_drop_rate=0.5, drop_rate=0.5).train()
    net.get_submodule("blocks.0").eval()
    modes = [module.training for module in net.modules()]
    batch = images(cohort, [0, 1, 2])
    assert torch.equal(body_features(net, batch), body_features(net, batch))
    assert [module.training for module in net.modules()] == modes


def test_batches_and_one_tensor_agree_and_nothing_gives_nothing(cohort: CropsManifest) -> None:
    net, batch = vit(), images(cohort, [0, 1, 2, 3, 4])
    whole = body_features(net, batch, batch_size=2)
    pieces = body_features(net, [batch[:3], batch[3:3], batch[3:]])
    torch.testing.assert_close(pieces, whole)
    assert body_features(net, batch[:0]).shape == (0, 48)
    assert not whole.requires_grad


def test_the_second_call_reads_the_file(cohort: CropsManifest, tmp_path: Path) -> None:
    first = cached_features(vit(), cohort, [0, 1], folder=tmp_path)
    (path,) = files(tmp_path)
    torch.save(torch.full((2, 48), 7.0), path)
    assert (cached_features(vit(), cohort, [0, 1], folder=tmp_path) == 7.0).all()
    assert not torch.equal(first[0], first[1])


def test_the_head_does_not_matter_for_the_cache(cohort: CropsManifest, tmp_path: Path) -> None:
    net = vit()
    cached_features(net, cohort, [0, 1], folder=tmp_path)
    nn.init.ones_(head(net).weight)
    cached_features(net, cohort, [0, 1], folder=tmp_path)
    assert len(files(tmp_path)) == 1


def test_all_that_changes_features_changes_the_key(
    cohort: CropsManifest, make_cohort: Make, tmp_path: Path
) -> None:
    def compute(net: nn.Module, manifest: CropsManifest = cohort, **changes: Any) -> None:
        cached_features(net, manifest, [0, 1], folder=tmp_path / "features", **changes)

    other = vit()
    nn.init.ones_(other.get_parameter("blocks.1.mlp.fc2.weight"))
    views: dict[str, Any] = {"views": 2, "augment": "gan"}
    compute(vit())
    compute(other)
    compute(vit(num_heads=4))  # the same tensors
    compute(vit(), make_cohort(seed=9))
    compute(vit(), **views)
    compute(vit(), **views | {"seed": 1})
    compute(vit(), **views | {"views": 3})
    compute(vit(), **views | {"augment": "light"})
    compute(build("vit_tiny_patch16_224", image_size=16, backbone_args=VIT), image_size=16)
    assert len(files(tmp_path / "features")) == 9
    compute(vit(), augment="none", seed=5)  # one view: the crop as it is
    assert len(files(tmp_path / "features")) == 9
    assert frozen_sha256(vit(), 32) != frozen_sha256(vit(num_heads=4), 32)


def test_views_differ_repeat_and_do_not_depend_on_other_crops(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    def views(rows: list[int], name: str) -> Tensor:
        return cached_features(vit(), cohort, rows, folder=tmp_path / name, views=6, seed=1)

    all_rows = views([0, 1, 2], "a")
    assert all_rows.shape == (3, 6, 48)
    assert len(torch.unique(all_rows.flatten(0, 1), dim=0)) > 15
    torch.testing.assert_close(views([0, 1, 2], "b"), all_rows)
    torch.testing.assert_close(views([2], "c")[0], all_rows[2])


@pytest.mark.parametrize("content", [b"", b"hello garbage", torch.zeros(3, 3), {"a": 1}])
def test_a_damaged_file_is_computed_again(
    cohort: CropsManifest, tmp_path: Path, content: object, caplog: pytest.LogCaptureFixture
) -> None:
    expected = cached_features(vit(), cohort, [0, 1], folder=tmp_path)
    (path,) = files(tmp_path)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with caplog.at_level(logging.WARNING):
        found = cached_features(vit(), cohort, [0, 1], folder=tmp_path)
    torch.testing.assert_close(found, expected)
    assert "computed again" in caplog.text
    assert torch.load(path, weights_only=True).shape == (2, 48)
    assert files(tmp_path) == [path]


def test_a_shared_folder_is_found_from_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    trainer = lightning.Trainer(default_root_dir="runs/one", logger=False, accelerator="cpu")
    SharedFeatures("shared").setup(trainer, lightning.LightningModule(), "fit")
    assert (tmp_path / "runs/one/features").samefile(tmp_path / "shared")


@pytest.mark.parametrize("views", [1, 3])
def test_a_stopped_pass_goes_on_at_its_last_piece(
    cohort: CropsManifest, tmp_path: Path, views: int
) -> None:
    rows = list(range(21))
    whole = cached_features(vit(), cohort, rows, folder=tmp_path / "whole", views=views)
    net, passed = vit(), 0

    def counted(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal passed
        passed += len(given[0]) if given[0].ndim == 4 and len(given[0]) > 1 else 0
        if passed == 14 and not (tmp_path / "stopped" / "again").exists():
            raise ConnectionAbortedError("power cut")

    net.patch_embed.register_forward_hook(counted)  # type: ignore[union-attr]
    folder = tmp_path / "stopped"
    with pytest.raises(ConnectionAbortedError):  # in the seventh batch of two, the third of a piece
        cached_features(net, cohort, rows, folder=folder, views=views, batch_size=2)
    assert len(files(folder)) == 1  # eight crops
    (folder / "again").touch()
    passed = 0
    found = cached_features(net, cohort, rows, folder=folder, views=views, batch_size=2)
    torch.testing.assert_close(found, whole)
    assert passed == 21 * views - 8 - (21 * views) % 2  # the last batch has one, as the noise
    assert len(files(folder)) == 2  # that of the test, and the features
    assert torch.equal(cached_features(net, cohort, rows, folder=folder, views=views), found)


def test_no_rows_and_no_views_are_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no rows"):
        cached_features(vit(), cohort, [], folder=tmp_path)
    with pytest.raises(ValueError, match="views=0"):
        cached_features(vit(), cohort, [0], folder=tmp_path, views=0)
