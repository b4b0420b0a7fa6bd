# SPDX-License-Identifier: Apache-2.0
"""The private diffusion, in the plane and in depth: its clip, its step, what it releases."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest
from gan.checkpoint import CheckpointError, TrainedGenerator
from gan.diffusion.schedule import noised, velocity
from gan.diffusion.settings import DiffusionError
from gan.generate import generate
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.simulators import GanSimulator, Genome
from mammo_dp.privacy.training import optimizer as noise
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.diffusion import DPLatentDiffusion, add_adapters, fold_adapters
from mammo_dp.privacy.training.gradients.methods import Method, build
from mammo_dp.privacy.training.gradients.units import Clip, Clipping, rows
from mammo_dp.privacy.training.sampling import VIEWS, draw
from tests.gan.diffusion.tiny import DEPTH, NETS, SHAPES, diffusion, save, shaken
from tests.privacy.training.fits import accounted, data, quiet, trainer

pytestmark = [
    *quiet,
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

METHODS: tuple[Method, ...] = ("loop", "book_keeping", "opacus")
TRAINABLE = ("attention", "lora", "norm_bias", "linear", "all")
KEY = 5


class Alone(DPLatentDiffusion):
    """Outside of a fit: a key, and no step taken."""

    @property
    def _datamodule(self) -> Any:  # noqa: ANN401
        return SimpleNamespace(key=KEY)


def alone(dims: int, trainable: str = "attention", **settings: Any) -> Alone:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"target_epsilon": 8.0, "delta": 1e-3, "pairs": 2, "lora_rank": 2}
    model = Alone(
        trainable=trainable,  # type: ignore[arg-type]
        **NETS | SHAPES[dims] | chosen | settings,
    )
    model.choose_trainable()
    shaken(model)
    return model


def batch_of(model: Alone, sizes: list[int], *, seed: int = 0, scale: float = 1.0) -> CropBatch:
    rng = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    width = model.settings.latent_size + model.conditions.width
    image = scale * torch.randn(count, model.views, 1, 1, width, generator=rng)
    unit = torch.tensor([u for u, size in enumerate(sizes) for _ in range(size)])
    return CropBatch(image, torch.zeros(count), torch.arange(count), unit)


def without(batch: CropBatch, unit: int) -> CropBatch:
    return CropBatch(*(column[batch.unit != unit] for column in batch))


def summed(model: Alone, method: Method, batch: CropBatch, clip: Clip, limit: int = 4) -> Tensor:
    sums = [torch.zeros_like(p) for p in model.net.parameters() if p.requires_grad]
    method_sums = build(model.net, method, limit)
    method_sums.accumulate(model.losses, batch, sums, clip)
    method_sums.close()
    return torch.cat([s.flatten() for s in sums])


def naive(model: Alone, batch: CropBatch, clip: float) -> Tensor:
    """A backward pass for each crop in float64, a mean for each patient, a clip, a sum."""
    params = [p for p in model.net.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in params), dtype=torch.float64)
    for unit in set(batch.unit.tolist()):
        own = [i for i in range(len(batch.row)) if batch.unit[i] == unit]
        mean = torch.zeros_like(total)
        for i in own:
            loss = model.losses(rows(batch, i, i + 1)).sum()
            parts = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
            mean += torch.cat([part.flatten() for part in parts]) / len(own)
        total += mean * min(1.0, clip / float(mean.norm()))
    return total


@pytest.mark.parametrize("trainable", TRAINABLE)
@pytest.mark.parametrize("dims", [2, 3])
def test_methods_equal_single_backward_passes(dims: int, trainable: str) -> None:
    model, sizes = alone(dims, trainable), [2, 1, 3]
    batch = batch_of(model, sizes)
    norms = [float(naive(model, without_others(batch, unit), 1e9).norm()) for unit in range(3)]
    clip = sorted(norms)[1]  # one patient is clipped, one is not
    model.double()
    expected = naive(model, batch._replace(image=batch.image.double()), clip)
    model.float()
    for method in METHODS:
        found = summed(model, method, batch, Clip(norm=clip)).double()
        assert float((found - expected).norm() / expected.norm()) < 3e-5, method


def without_others(batch: CropBatch, unit: int) -> CropBatch:
    return CropBatch(*(column[batch.unit == unit] for column in batch))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dims", [2, 3])
@settings(derandomize=True, deadline=None, max_examples=5)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    place=st.integers(0, 2),
    clip=st.sampled_from([1e-3, 0.1]),
    rule=st.sampled_from(["flat", "automatic"]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    trainable=st.sampled_from(TRAINABLE),
    seed=st.integers(0, 1000),
)
def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(
    dims: int,
    method: Method,
    sizes: list[int],
    place: int,
    clip: float,
    rule: Clipping,
    scale: float,
    trainable: str,
    seed: int,
) -> None:
    model = alone(dims, trainable)
    batch, bound = batch_of(model, sizes, seed=seed, scale=scale), Clip(norm=clip, rule=rule)
    others = without(batch, place % len(sizes))
    moved = summed(model, method, batch, bound)
    if len(others.row):
        moved = moved - summed(model, method, others, bound)
    assert float(moved.norm()) <= clip * (1 + 1e-5)
    if rule == "flat" and len(sizes) == 1 and scale == 30.0:
        assert float(moved.norm()) == pytest.approx(clip, rel=1e-4)  # the bound is reached


@pytest.mark.parametrize("dims", [2, 3])
def test_adapters_are_folded_into_their_layers(dims: int) -> None:
    model = alone(dims, "lora")
    keys = set(diffusion(**SHAPES[dims]).net.state_dict())
    assert keys < set(model.net.state_dict())
    latent = torch.randn(2, model.settings.latent_size)
    condition = model.conditions.of_classes(torch.tensor([0, 1]))
    with torch.no_grad():
        before = model(latent, condition)
        fold_adapters(model.net)
        after = model(latent, condition)
    assert set(model.net.state_dict()) == keys
    assert torch.allclose(after, before, atol=1e-5)
    adapters = add_adapters(model.net, 1)
    assert add_adapters(model.net, 1) == adapters  # those that are there stay


# Fits.


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = diffusion()
    with torch.no_grad():
        model.codec.mean.fill_(0.3)
        model.codec.deviation.fill_(0.7)
    return str(save(tmp_path_factory.mktemp("start") / "last.ckpt", model))


def private(start: str, **settings: Any) -> DPLatentDiffusion:
    torch.manual_seed(0)
    chosen = {"target_epsilon": 8.0, "delta": 1e-3, "pairs": 2, "ema_decay": None, "weights": start}
    return DPLatentDiffusion(**NETS | chosen | settings)


def crops(cohort: CropsManifest, **settings: Any) -> DPCropsDataModule:
    return data(cohort, **{"image_size": 16, "insecure_seed": KEY, "rate": 1.0} | settings)


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters() if p.requires_grad])


class PlainSteps(DPLatentDiffusion):
    """Weights move by the gradient itself."""

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        trained = [p for p in self.net.parameters() if p.requires_grad]
        return self.privatise(torch.optim.SGD(trained, lr=1.0))


@pytest.mark.parametrize("norm", [0.01, 1e3])
def test_a_step_without_noise_is_the_clipped_loop_over_patients_crops_and_pairs(
    start: str, cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: float
) -> None:
    monkeypatch.setattr(noise, "noisy", lambda exact, *_: exact.copy())
    module = crops(cohort)
    model = PlainSteps(
        **NETS,
        target_epsilon=8.0,
        delta=1e-3,
        pairs=3,
        ema_decay=None,
        weights=start,
        clipping_norm=norm,
        earliest_time=0.25,
    )
    model.choose_trainable()
    params = [p for p in model.net.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in params))
    for own in module.sampling.rows_of:
        mean = torch.zeros_like(total)
        hers = module.dataset(own)
        for i, row in enumerate(own):
            rng = draw(KEY, 0, VIEWS, row)
            uniform = rng.random(3)
            noises = torch.from_numpy(rng.standard_normal((3, 128), np.float32))
            code = model.codec.encode(hers[i].image[None])
            asked = torch.tensor([[0.0, 1.0]] if hers[i].malignant else [[1.0, 0.0]])
            for pair in range(3):
                time = torch.tensor([0.25 + 0.75 * (pair + uniform[pair]) / 3]).float()
                own_noise = noises[pair].view_as(code)
                predicted = model.net(noised(code, own_noise, time), time, asked)
                loss = (predicted - velocity(code, own_noise, time)).square().mean()
                gradient = torch.autograd.grad(loss, params)
                mean += torch.cat([g.flatten() for g in gradient]) / 3 / len(own)
        total += mean * min(1.0, norm / float(mean.norm()))
    before = flat(model.net)
    trainer(tmp_path, max_steps=1).fit(model, module)
    assert model.method == "book_keeping"
    found = before - flat(model.net)
    expected = total / len(module.sampling.rows_of)
    assert torch.allclose(found, expected, rtol=0, atol=2e-5 * float(expected.norm()))


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_a_private_fit_releases_a_generator(
    start: str, cohort: CropsManifest, tmp_path: Path, trainable: str
) -> None:
    model = private(start, trainable=trainable, ema_decay=0.9)
    codes = model.codec.state_dict()["mean"].clone()
    before = {name: p.clone() for name, p in model.net.state_dict().items()}
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(model, crops(cohort, augment="gan", rate=0.5))
    assert 0 < accounted(model) <= 8
    fit.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    net = TrainedGenerator.read(tmp_path / "last.ckpt").net
    assert net.latent == 128
    moved = model.net.state_dict()
    assert moved.keys() == before.keys()
    changed = {name for name in moved if not torch.equal(moved[name], before[name])}
    attention = {name for name in moved if "transformer_blocks" in name and ".ff." not in name}
    if trainable == "attention":
        attention |= {name for name in moved if ".proj_out." in name}
    assert changed
    if trainable in ("attention", "lora"):
        assert changed <= attention
    if trainable == "linear":
        assert changed == {"mean_code.weight", "correlation.weight"}
    assert torch.equal(model.codec.mean, codes)
    assert (tmp_path / "samples" / "last.png").is_file()
    (cached,) = (tmp_path / "features").iterdir()
    cached.write_bytes(cached.read_bytes()[:-3] + b"xyz")
    with pytest.raises(PrivacyError, match="features"):
        trainer(tmp_path, max_steps=2).fit(
            private(start), crops(cohort, augment="gan", insecure_seed=None)
        )


def test_a_private_fit_keeps_the_spectrum_of_its_start(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    white = {"encoder_channels": None, "block": 4}
    public = diffusion(**white)
    public.codec.deviation.uniform_(0.5, 2)
    model = private(str(save(tmp_path / "start.ckpt", public)), **white)
    before = flat(model.net)
    trainer(tmp_path, max_steps=1).fit(model, crops(cohort))
    assert torch.equal(model.codec.deviation, public.codec.deviation)
    assert not torch.equal(flat(model.net), before)
    with pytest.raises(DiffusionError, match="no scale of codes on its patients"):
        trainer(tmp_path).fit(private(start="", weights=None, **white), crops(cohort))


def test_volumes_are_learned_with_privacy_and_drawn(volumes: CropsManifest, tmp_path: Path) -> None:
    deep = DEPTH | {"image_size": 16}
    start = save(tmp_path / "start.ckpt", diffusion(**deep))
    model = private(str(start), **deep)
    before = flat(model.net)
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(model, crops(volumes, depth=4, unit="crop"))
    assert 0 < accounted(model) <= 8
    assert not torch.equal(flat(model.net), before)
    fit.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    generate(str(tmp_path / "last.ckpt"), str(tmp_path / "out"), per_class=1)
    assert CropsManifest.read(tmp_path / "out").stacked([0, 1]).shape == (2, 4, 16, 16)


def test_a_fit_that_resumes_is_the_fit_that_never_stopped(
    start: str, cohort: CropsManifest, tmp_path: Path
) -> None:
    module = crops(cohort, rate=0.5)

    def fitted(folder: Path, stop: int, resume: Path | None = None) -> DPLatentDiffusion:
        model = private(start, ema_decay=0.5, trainable="lora")
        fit = trainer(folder, max_steps=4)
        fit.limit_train_batches = stop
        fit.fit(model, module, ckpt_path=resume, weights_only=True)
        return model

    whole = fitted(tmp_path / "whole", 4)
    model = private(start, ema_decay=0.5, trainable="lora")
    saved = tmp_path / "resume.ckpt"

    class Stop(Exception):
        pass

    class Half(DPLatentDiffusion):
        def training_step(self, batch: CropBatch, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)
            if self.accounted_steps == 2:
                self.trainer.save_checkpoint(saved)
                raise Stop

    model.__class__ = Half
    with pytest.raises(Stop):
        trainer(tmp_path / "half", max_steps=4).fit(model, module)
    resumed = fitted(tmp_path / "half", 4, saved)
    assert resumed.accounted_steps == 4
    for name, p in whole.net.state_dict().items():
        assert torch.equal(resumed.net.state_dict()[name], p), name


def test_private_evolution_draws_candidates_from_a_diffusion(start: str) -> None:
    simulator = GanSimulator.read(start)
    parent = Genome(malignant=True, steps=((1, 1.0),))
    child = Genome(malignant=True, steps=((1, 1.0), (2, 0.1)))
    other = Genome(malignant=True, steps=((3, 1.0),))
    crop, near, far = simulator.render([parent, child, other])
    assert crop.shape == (16, 16)
    assert 0 < np.abs(near - crop).mean() < np.abs(far - crop).mean()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pairs": 0}, r"pairs=0. Give 1 or more"),
        ({"lora_rank": 0}, r"lora_rank=0"),
        ({"clipping_norm": 0.0}, r"clipping_norm=0.0"),
    ],
)
def test_values_out_of_range_are_refused(start: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(PrivacyError, match=said):
        private(start, **settings)


def test_what_does_not_fit_is_refused_in_a_sentence(
    start: str, cohort: CropsManifest, tmp_path: Path
) -> None:
    with pytest.raises(DiffusionError, match="weights: are missing"):
        trainer(tmp_path).fit(private(start, weights=None), crops(cohort))
    with pytest.raises(DiffusionError, match="images of 32 x 32"):
        trainer(tmp_path).fit(private(start), crops(cohort, image_size=32))
    with pytest.raises(CheckpointError, match="spatial_dims=2, but this model has 3"):
        private(start, **DEPTH)
    with pytest.raises(DiffusionError, match="trainable='head'"):
        trainer(tmp_path).fit(private(start, trainable="head"), crops(cohort))


def test_losses_and_norms_are_logged_nowhere(
    start: str, cohort: CropsManifest, tmp_path: Path
) -> None:
    from lightning.pytorch.loggers import CSVLogger

    log = CSVLogger(tmp_path, name="logs", version=0)
    trainer(tmp_path, max_steps=2, logger=log, log_every_n_steps=1).fit(
        private(start), crops(cohort)
    )
    metrics = tmp_path / "logs" / "version_0" / "metrics.csv"
    if metrics.exists():
        with metrics.open(newline="") as file:
            assert set(next(csv.reader(file))) <= {"epoch", "step"}
