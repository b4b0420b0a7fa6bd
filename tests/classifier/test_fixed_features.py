# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from classifier.backbones import build, head
from classifier.features import body_features
from classifier.fixed_features import FixedFeatures
from classifier.module import CropClassifier
from classifier.pretraining import CropPretraining
from classifier.weights import state_sha256
from classifier.whitened import FAR
from data_prep.descriptors.measurements import COUNT
from data_prep.manifest import CropsManifest
from tests.classifier.test_module import data, trainer

BODY: dict[str, Any] = {
    "backbone": "crop_measurements",
    "backbone_args": {"components": 6},
    "image_size": 32,
    "trainable": "head",
}


def noise(count: int = 64, size: int = 32, seed: int = 0) -> Tensor:
    some = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 8, 8, generator=some) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")


def net(components: int = 6) -> FixedFeatures:
    built = build("crop_measurements", image_size=32, backbone_args={"components": components})
    assert isinstance(built, FixedFeatures)
    return built


def test_timm_knows_the_model_and_its_parts_make_the_whole() -> None:
    built = timm.create_model("crop_measurements", img_size=32)
    assert isinstance(built, FixedFeatures)
    image = noise(3)
    assert built.get_classifier() is built.head
    torch.nn.init.normal_(built.head.weight)
    features = built.forward_head(built.forward_features(image), pre_logits=True)
    assert features.shape == (3, built.num_features)
    torch.testing.assert_close(built.head(features), built(image))


@pytest.mark.parametrize("trained", [False, True])
def test_features_of_every_crop_have_one_length(trained: bool) -> None:
    body = net()
    if trained:
        body.whiten(body.numbers(noise()))
    found = body_features(body, torch.cat([noise(5, seed=1), torch.zeros(1, 1, 32, 32)]))
    torch.testing.assert_close(found.square().sum(1), torch.full((6,), 6.0))


def test_whitening_equals_the_principal_components_of_standardised_measurements() -> None:
    body, image = net(), noise(80)
    measured = body.numbers(image).double()
    body.whiten(measured.float())
    standard = ((measured - measured.mean(0)) / measured.std(0).clamp_min(1e-6)).clamp(-FAR, FAR)
    centred = standard - standard.mean(0)
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    expected = standard @ (vectors[:6].T / (values[:6] / 79**0.5))
    found = body._standardised(measured.float()) @ body.projection
    signs = (found * expected).sum(0).sign()
    torch.testing.assert_close(found.double() * signs, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.var(0), torch.ones(6), atol=1e-3, rtol=1e-3)


def test_no_crop_reaches_further_than_the_cut() -> None:
    body = net()
    body.whiten(body.numbers(noise()))
    wild = torch.sign(torch.rand(2, 1, 32, 32) - 0.5)
    reached = body._standardised(body.numbers(wild)).abs().max() * COUNT**0.5
    assert float(reached) == pytest.approx(FAR)


def test_a_fresh_head_scores_every_crop_alike() -> None:
    assert (net()(noise(4)) == 0).all()


@pytest.mark.parametrize("arguments", [{"components": 0}, {"components": 9999}, {"in_chans": 3}])
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot be built"):
        build("crop_measurements", image_size=32, backbone_args=arguments)


def test_few_crops_do_not_whiten_many_components() -> None:
    with pytest.raises(ValueError, match="11 crops cannot say how 6 components vary"):
        net().whiten(net().numbers(noise(11)))


def test_constants_are_no_part_of_the_weights() -> None:
    keys = {"mean", "deviation", "projection", "head.weight", "head.bias"}
    assert set(net().state_dict()) == keys


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training")
def test_pre_training_whitens_and_starts_a_classifier(
    make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    some = data(make_cohort(origin="phantom"), augment="none")
    own = CropPretraining(**BODY, measure=0.0, standardise=False, warmup_steps=0)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(own, datamodule=some)
    images = torch.stack(
        [some.dataset(some.train_rows)[i].image for i in range(len(some.train_rows))]
    )
    expected = net()
    expected.whiten(expected.numbers(images))
    assert isinstance(own.net, FixedFeatures)
    torch.testing.assert_close(own.net.mean, expected.mean)
    assert float(head(own.net).weight.detach().abs().max()) > 0
    run.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    started = CropClassifier(**BODY, weights=str(tmp_path / "last.ckpt"))
    again = CropPretraining.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    hashes = {state_sha256(one.net.state_dict()) for one in (own, started, again)}
    assert len(hashes) == 1


PUBLIC: dict[str, Any] = {
    "components": 6,
    "public": "test_byobnet",
    "stages": (1, 2),
    "public_size": 64,
}


def hybrid(**changes: Any) -> FixedFeatures:
    torch.manual_seed(0)
    built = build("crop_features", image_size=32, backbone_args=PUBLIC | changes)
    assert isinstance(built, FixedFeatures)
    return built.eval()


def test_numbers_are_the_measurements_and_mean_and_spread_of_each_stage() -> None:
    body, image = hybrid(), noise(3)
    assert body.public is not None
    numbers = body.numbers(image)
    one, two = body.public.channels
    assert numbers.shape == (3, COUNT + 2 * one + 2 * two)
    torch.testing.assert_close(numbers[:, :COUNT], body.measure(wide(image, 64)))
    flips: list[list[int]] = [[], [-1], [-2], [-1, -2]]
    maps = [body.public(wide(image.flip(axes), 64)) for axes in flips]
    naive = torch.stack([stage[0].mean((2, 3)) for stage in maps]).mean(0)
    torch.testing.assert_close(numbers[:, COUNT : COUNT + one], naive)
    spread = torch.stack([stage[1].flatten(2).std(2) for stage in maps]).mean(0)
    torch.testing.assert_close(numbers[:, -two:], spread)


def wide(image: Tensor, size: int) -> Tensor:
    return torch.nn.functional.interpolate(image, size, mode="bilinear")


def test_a_mirrored_crop_has_the_same_numbers() -> None:
    body, image = hybrid(), noise(4)
    for axis in (-1, -2):
        torch.testing.assert_close(
            body.numbers(image), body.numbers(image.flip(axis)), atol=1e-4, rtol=0
        )
    whole = hybrid(symmetries=8)
    turned = whole.numbers(image.rot90(1, (-2, -1)))
    torch.testing.assert_close(whole.numbers(image), turned, atol=1e-4, rtol=0)


def test_each_block_has_the_same_variance_however_many_numbers_it_has() -> None:
    body = hybrid()
    numbers = body.numbers(noise(200))
    body.whiten(numbers)
    variance = body._standardised(numbers).var(0)
    assert body.public is not None
    one, two = body.public.channels
    sizes = [COUNT, one, one, two, two]
    totals = [float(part.sum()) for part in torch.split(variance, sizes)]
    assert max(totals) < 1.3 * min(totals)  # but for what is cut off


def test_the_network_reads_as_the_whole_one_and_ends_after_its_last_stage() -> None:
    body = hybrid(stages=(0,))
    assert body.public is not None
    whole = body.public.whole()
    whole.load_state_dict(body.public.net.state_dict(), strict=False)
    kept = sum(p.numel() for p in body.public.parameters())
    assert 0 < kept < sum(p.numel() for p in whole.parameters())
    assert not any(p.requires_grad for p in body.public.parameters())


def test_folded_batch_norms_compute_the_same_and_follow_the_weights() -> None:
    net = hybrid().public
    assert net is not None
    image = wide(noise(2), 64).requires_grad_()

    def check() -> None:
        naive = net._maps(net.net, image)
        seen = net(image)
        assert net._folded is not None
        (fast,) = net._folded[1]
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fast.modules())
        for expected, found in zip(naive, seen, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    with torch.inference_mode():
        net(image)
    check()
    with torch.no_grad():
        for name, tensor in net.net.named_buffers():
            if name.endswith("running_var"):
                tensor.mul_(0.5)
    check()
    state = net.net.state_dict()
    net.net.load_state_dict({name: tensor * 1.1 for name, tensor in state.items()})
    check()
    (gradient,) = torch.autograd.grad(net(image)[-1].sum(), image)
    (expected,) = torch.autograd.grad(net._maps(net.net, image)[-1].sum(), image)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


def test_a_network_that_cannot_be_folded_is_read_as_it_is() -> None:
    class Apart(torch.nn.Module):  # its norm reads the image, not what the convolution made
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.BatchNorm2d(1)

            self.norm.running_var = torch.full((1,), 4.0)

        def forward_intermediates(self, image: Tensor, **_: Any) -> list[Tensor]:
            return [self.conv(self.norm(image))]

    net = hybrid().public
    assert net is not None
    net.net = Apart().eval()
    image = wide(noise(2), 64)
    torch.testing.assert_close(net(image)[0], net.net.conv(net.net.norm(image)))
    assert net._folded is not None
    assert net._folded[1][0] is net.net


def test_stages_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"stages=\[99\].*Choose other stages"):
        hybrid(stages=(99,))


@pytest.mark.parametrize("size", [32, 64, 128, 96])
def test_crops_of_any_size_are_brought_to_the_sizes_in_use(size: int) -> None:
    body = build("crop_features", image_size=size, backbone_args=PUBLIC).eval()
    assert body(noise(2, size)).shape == (2, 1)
