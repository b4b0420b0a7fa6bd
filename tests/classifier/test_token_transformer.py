# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from classifier.backbones import Trainable, blocks, build, head, select_trainable
from classifier.features import (
    body_features,
    cached_features,
    frozen_sha256,
    public_maps,
)
from classifier.module import CropClassifier
from classifier.pretraining import CropPretraining, teach_head
from classifier.token_transformer import TokenTransformer
from classifier.weights import state_sha256
from data_prep.datamodule import CropBatch, CropsDataset
from data_prep.descriptors.targets import describe
from data_prep.errors import DataError
from data_prep.manifest import CropsManifest
from tests.classifier.test_fixed_features import noise, wide
from tests.classifier.test_module import data, trainer

ARGUMENTS: dict[str, Any] = {
    "components": 6,
    "public": "test_byobnet",
    "stages": (1, 2),
    "public_size": 64,
    "symmetries": 2,
    "grid": 2,
    "width": 48,
    "depth": 2,
    "num_heads": 2,
}
BODY: dict[str, Any] = {
    "backbone": "crop_tokens",
    "backbone_args": ARGUMENTS,
    "image_size": 32,
}


def net(**changes: Any) -> TokenTransformer:
    torch.manual_seed(0)
    built = build("crop_tokens", image_size=32, backbone_args=ARGUMENTS | changes)
    assert isinstance(built, TokenTransformer)
    return built.eval()


def test_timm_knows_the_model_and_its_parts_make_the_whole() -> None:
    built = timm.create_model("crop_tokens", img_size=32, **ARGUMENTS).eval()
    assert isinstance(built, TokenTransformer)
    image = noise(3)
    torch.nn.init.normal_(built.head.weight)
    features = built.forward_head(built.forward_features(image), pre_logits=True)
    assert features.shape == (3, 6)
    torch.testing.assert_close(features.square().sum(1), torch.full((3,), 6.0))
    torch.testing.assert_close(built.head(features), built(image))


def test_maps_are_means_over_mirror_images_that_are_mirrored_back() -> None:
    body, image = net(), noise(3)
    views = []
    for axes in ([], [-1]):
        one, two = body.public(wide(image.flip(axes), 64))
        pooled = [torch.nn.functional.adaptive_avg_pool2d(part, 2) for part in (one, two)]
        views.append(torch.cat(pooled, 1).flip(axes))
    maps = body.maps(image)
    assert maps.shape == (3, *body.map_shape)
    torch.testing.assert_close(maps, torch.stack(views).mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("symmetries", [4, 8])
def test_a_mirrored_or_turned_crop_has_mirrored_or_turned_maps(symmetries: int) -> None:
    body, image = net(symmetries=symmetries), noise(2)
    torch.testing.assert_close(
        body.maps(image.flip(-2)), body.maps(image).flip(-2), atol=1e-4, rtol=0
    )
    turned = body.maps(image.rot90(1, (-2, -1)))
    close = torch.allclose(turned, body.maps(image).rot90(1, (-2, -1)), atol=1e-4)
    assert close == (symmetries == 8)


def test_maps_in_place_of_crops_give_the_same_scores_and_hide_no_position() -> None:
    body, image = net(), noise(3)
    torch.nn.init.normal_(body.head.weight)
    maps = public_maps(body, image)
    torch.testing.assert_close(body(maps), body(image))
    assert not torch.allclose(body.numbers(maps), body.numbers(maps.flip(-1)), atol=1e-3)


def test_channels_are_standardised_as_on_the_crops_given() -> None:
    body = net()
    maps = torch.randn(20, *body.map_shape) * torch.rand(20, 1, 1, 1) + torch.rand(2, 1).sum()
    body.standardise_maps(maps)
    standard = ((maps - body.map_mean) / body.map_deviation).transpose(0, 1).flatten(1)
    torch.testing.assert_close(standard.mean(1), torch.zeros(len(standard)), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(1), torch.ones(len(standard)), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("trainable", "wanted"),
    [
        ("all", {"head", "transformer"}),
        ("head", {"head"}),
        ("last_blocks", {"head", "transformer.blocks.1", "transformer.norm"}),
        ("norm_bias", {"head", "transformer"}),
        ("lora", {"head", "transformer.blocks"}),
    ],
)
def test_the_public_network_never_trains(trainable: Trainable, wanted: set[str]) -> None:
    body = net()
    assert blocks(body) == list(body.transformer.blocks)
    select_trainable(body, trainable, lora_rank=2)
    chosen = {name for name, p in body.named_parameters() if p.requires_grad}
    assert all(any(name.startswith(part) for part in wanted) for name in chosen)
    assert all(any(name.startswith(part) for name in chosen) for part in wanted)


@pytest.mark.parametrize(
    "arguments",
    [{"components": 145}, {"grid": 3}, {"in_chans": 3}, {"num_heads": 5}, {"symmetries": 9}],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot be built"):
        net(**arguments)


def test_maps_are_kept_by_what_the_public_network_is_and_nothing_else(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    body, other = net(), net(depth=1)
    kept = cached_features(body, cohort, [0, 1], folder=tmp_path, image_size=32, maps=True)
    assert kept.shape == (2, 1, *body.map_shape)
    again = cached_features(other, cohort, [0, 1], folder=tmp_path, image_size=32, maps=True)
    assert torch.equal(kept, again)
    assert frozen_sha256(net(symmetries=1), 32) != frozen_sha256(body, 32)
    dataset = CropsDataset(cohort, [0, 1], image_size=32)
    images = torch.stack([dataset[0].image, dataset[1].image])
    for one in (body, other):  # features of both come from the same maps
        found = cached_features(one, cohort, [0, 1], folder=tmp_path, image_size=32)
        torch.testing.assert_close(found[:, 0], body_features(one, images))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="has no maps"):
        cached_features(torch.nn.Linear(1, 1), cohort, [0], folder=tmp_path, maps=True)


def test_a_head_is_taught_the_direction_of_the_label() -> None:
    some = torch.Generator().manual_seed(0)
    features = torch.randn(400, 6, generator=some)
    features *= 6**0.5 / features.norm(dim=1, keepdim=True)
    score = features @ torch.tensor([2.0, -1.0, 0.0, 0.5, 0.0, 0.0]) + 0.5
    malignant = (torch.rand(400, generator=some) < torch.sigmoid(score)).long()
    layer = torch.nn.Linear(6, 1)
    teach_head(layer, features, malignant)
    found = LogisticRegression(C=1e6).fit(features.numpy(), malignant.numpy())
    together = torch.cat([layer.weight[0], layer.bias]).detach()
    expected = torch.tensor([*found.coef_[0], *found.intercept_]).float()
    assert float(torch.cosine_similarity(together, expected, dim=0)) > 0.99


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training")
def test_pre_training_teaches_whitens_and_starts_a_classifier(
    make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    some = data(make_cohort(origin="phantom"), augment="none")
    own = CropPretraining(**BODY, trainable="all", warmup_steps=0)
    before = {key: value.clone() for key, value in own.net.state_dict().items()}
    run = trainer(tmp_path, max_epochs=3)
    run.fit(own, datamodule=some)
    assert len(list((tmp_path / "features").iterdir())) == 1
    assert isinstance(own.net, TokenTransformer)
    images = torch.stack(
        [some.dataset(some.train_rows)[i].image for i in range(len(some.train_rows))]
    )
    after = own.net.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert not [key for key in changed if key.startswith("public")]
    assert {
        "head.weight",
        "projection",
        "map_mean",
        "transformer.blocks.0.attn.qkv.weight",
    } <= changed
    expected = net()
    expected.load_state_dict(own.net.state_dict())
    expected.whiten(expected.numbers(images))
    torch.testing.assert_close(own.net.mean, expected.mean, atol=1e-4, rtol=1e-3)
    run.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    started = CropClassifier(**BODY, trainable="head", weights=str(tmp_path / "last.ckpt"))
    assert state_sha256(own.net.state_dict()) == state_sha256(started.net.state_dict())


def test_too_few_crops_are_refused_before_anything_is_computed(
    make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    some = data(make_cohort(origin="phantom"), augment="none")
    own = CropPretraining(**BODY | {"backbone_args": ARGUMENTS | {"components": 40}})
    with pytest.raises(DataError, match="cannot say how 40 components vary"):
        trainer(tmp_path, max_epochs=1).fit(own, datamodule=some)
    assert not (tmp_path / "features").exists()


def test_numbers_learn_the_measurements_of_mirrored_maps_too() -> None:
    own = CropPretraining(**BODY, trainable="all")
    assert isinstance(own.net, TokenTransformer)
    image = noise(4)
    own.net.standardise_maps(own.net.maps(image))
    found = describe(image)
    own._mean, own._deviation = found.mean(0), found.std(0).clamp_min(1e-6)
    own._measured = dict(enumerate(found))
    own.log = lambda *_, **__: None  # type: ignore[method-assign]
    label = torch.tensor([0, 1, 0, 1])
    kept = CropBatch(own.net.maps(image)[:, None], label, torch.arange(4), label)
    optimizer = torch.optim.Adam([p for p in own.net.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(30):
        loss: Tensor = own.training_step(kept, 0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert head(own.net).weight.abs().max() > 0
    assert body_features(own.net, image).shape == (4, 6)
