from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from data_prep.datamodule import CropBatch, CropsDataModule, collate_crops
from data_prep.errors import TrainingError
from data_prep.manifest import CropsManifest
from gan.checkpoint import Checkpoint, CheckpointError
from gan.losses import Loss, adversarial_loss, discriminator_loss
from gan.module import MCGAN
from mammo_dp.privacy.training import optimizer as noise
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.generator import CLASSES, DPMCGAN
from mammo_dp.privacy.training.gradients.methods import build
from mammo_dp.privacy.training.gradients.units import rows
from tests.privacy.training.fits import accounted, quiet, trainer
from tests.privacy.training.generators import NETS, TINY, crops, gan

pytestmark = [
    *quiet,
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

NOBODY = 0.01  # a rate at which key 3 draws none of four patients in the first steps


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def trained(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


def layer(net: DPMCGAN) -> Tensor:
    """What the private steps move."""
    return torch.cat([p.detach().flatten() for p in trained(net.discriminator)])


class PlainSteps(DPMCGAN):
    """The discriminator moves by the gradient itself."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        _, maker = super().configure_optimizers()
        return [self.privatise(torch.optim.SGD(trained(self.net), lr=1.0)), maker]


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches the noise off."""
    return lambda: monkeypatch.setattr(noise, "noisy", lambda exact, *_: exact.copy())


# The private step.


def naive_gradient(net: DPMCGAN, module: DPCropsDataModule, units: list[int]) -> Tensor:
    """Line by line: clipped mean gradients of patients, and the gradient on fakes of step 0."""
    judge, params = net.discriminator, trained(net.discriminator)
    total = torch.zeros(sum(p.numel() for p in params))

    def gradient(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])

    for unit in units:
        own = module.sampling.rows_of[unit]
        hers = module.dataset(own)
        batch = collate_crops([hers[i] for i in range(len(hers))])
        mean = torch.zeros_like(total)
        for image, malignant in zip(batch.image, batch.malignant, strict=True):
            asked = torch.tensor([[0.0, 1.0]] if malignant else [[1.0, 0.0]])
            mean += gradient(torch.clamp(1 - judge(image[None], asked), min=0).sum()) / len(own)
        total += mean * min(1.0, net.clipping_norm / float(mean.norm()))
    total /= module.rate * len(module.sampling.rows_of)
    words = np.random.SeedSequence([net.seed, 0, 0]).generate_state(1)
    rng = torch.Generator().manual_seed(int(words[0]))
    latents = torch.randn(6, 4, generator=rng)
    coarse = torch.randn(6, 1, 16, 16, generator=rng)
    malignant = torch.rand(6, generator=rng) < 0.5
    asked = torch.stack([~malignant, malignant], dim=1).float()
    fakes = net.generator(latents, coarse, asked).detach()
    return total + gradient(torch.clamp(1 + judge(fakes, asked), min=0).sum() / 6)


@pytest.mark.parametrize("norm", [0.05, 1e3])
@pytest.mark.parametrize("rate", [1.0, 0.5, NOBODY])
def test_a_step_without_noise_is_the_clipped_patient_loop_plus_the_gradient_on_fakes(
    cohort: CropsManifest,
    tmp_path: Path,
    silence: Callable[[], None],
    rate: float,
    norm: float,
) -> None:
    silence()
    torch.manual_seed(0)
    net = PlainSteps(**TINY | {"augmentations": "", "clipping_norm": norm})
    with torch.no_grad():
        for p in trained(net.discriminator):
            p.copy_(torch.randn(p.shape) * 0.01)
    start, module = layer(net), crops(cohort, rate=rate)
    drawn = module.sampling.sample(3, 0).tolist()
    assert len(drawn) == {1.0: 4, 0.5: 3, NOBODY: 0}[rate]
    expected = naive_gradient(net, module, drawn)
    trainer(tmp_path, max_steps=1).fit(net, module)
    assert net.method == "book_keeping"
    found = start - layer(net)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6 * float(expected.norm()))


@pytest.fixture(scope="module")
def probe(cohort: CropsManifest, tmp_path_factory: pytest.TempPathFactory) -> DPMCGAN:
    """After a fit, still attached to its data; a hinge would leave some crops without gradient."""
    net = gan(clipping_norm=0.05, loss="non-saturating")
    trainer(tmp_path_factory.mktemp("probe"), max_steps=1).fit(net, crops(cohort))
    return net


def summed(net: DPMCGAN, batch: CropBatch) -> Tensor:
    sums = [torch.zeros_like(p) for p in trained(net.net)]
    build(net.net, "book_keeping", 64).accumulate(net.losses, batch, sums, net.clip)
    return torch.cat([s.flatten() for s in sums])


def test_one_patient_with_many_crops_moves_the_sum_by_at_most_the_clipping_norm(
    probe: DPMCGAN,
) -> None:
    module = probe._datamodule
    everyone = [list(her) for her in module.sampling.rows_of]
    assert max(map(len, everyone)) >= 8
    for patient in everyone:
        others = [row for her in everyone if her != patient for row in her]
        with_her = module.train_dataset.__getitems__([*others, *patient])
        loud = with_her._replace(image=with_her.image * 20)
        for batch in (with_her, loud):
            without = summed(probe, rows(batch, 0, len(others)))
            moved = float((summed(probe, batch) - without).norm())
            assert 0.9 * 0.05 < moved <= 0.05 * (1 + 1e-5)


def test_how_a_crop_is_distorted_depends_on_key_step_and_itself_only(
    probe: DPMCGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = probe._datamodule
    batch = module.train_dataset.__getitems__(module.train_rows)
    everyone = probe.losses(batch)
    alone = torch.cat([probe.losses(rows(batch, i, i + 1)) for i in range(len(batch.row))])
    assert torch.allclose(everyone, alone, atol=1e-5)
    monkeypatch.setattr(module, "key", 4)
    assert not torch.allclose(everyone, probe.losses(batch))
    monkeypatch.undo()
    monkeypatch.setattr(DPMCGAN, "accounted_steps", 2)
    assert not torch.allclose(everyone, probe.losses(batch))


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
def test_terms_are_those_of_the_plain_discriminator(loss: Loss) -> None:
    real, fake = torch.randn(5), torch.randn(4)
    terms = adversarial_loss(real, loss).mean() + adversarial_loss(-fake, loss).mean()
    assert torch.allclose(terms, discriminator_loss(real, fake, loss))
    plain = torch.relu if loss == "hinge" else torch.nn.functional.softplus
    shift = 1 if loss == "hinge" else 0
    expected = plain(shift - real).mean() + plain(shift + fake).mean()
    assert torch.allclose(terms, expected)


# What is generated.


class Calls(Callback):
    """Keeps what the generator was asked for in each step, and the gradients on its crops."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []
        self.public: list[Tensor] = []

    def on_train_start(self, _: Trainer, net: LightningModule) -> None:
        assert isinstance(net, DPMCGAN)

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            self.asked.append(torch.cat([inputs[0], inputs[2]], dim=1))

        net.generator.register_forward_hook(keep)
        gradients = net.public_gradients

        def public() -> Mapping[nn.Parameter, Tensor]:
            found = gradients()
            self.public.append(torch.cat([g.flatten() for g in found.values()]))
            return found

        net.public_gradients = public  # type: ignore[method-assign]


def test_fakes_their_number_and_conditions_are_the_same_whoever_is_drawn(
    cohort: CropsManifest, make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    others = make_cohort(patients=5, crops=15, seed=1)
    found = []
    for name, module in {
        "all": crops(cohort),
        "others": crops(others),
        "nobody": crops(cohort, rate=NOBODY),
    }.items():
        calls = Calls()
        trainer(tmp_path / name, callbacks=[calls]).fit(gan(), module)
        found.append(calls)
    for calls in found:
        assert [len(asked) for asked in calls.asked] == [6] * 8  # four steps of each network
        assert all(torch.equal(a, b) for a, b in zip(calls.asked, found[0].asked, strict=True))
        assert torch.equal(calls.public[0], found[0].public[0])
        assert not torch.equal(calls.public[0], calls.public[1])
    share = torch.cat([asked[:, -1] for asked in found[0].asked]).mean()
    assert 0.2 < share < 0.8


def test_gradients_on_fakes_are_taken_before_the_draw_is_looked_at(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    class TakenError(Exception):
        pass

    def taken() -> Mapping[nn.Parameter, Tensor]:
        raise TakenError

    net = gan()
    run = trainer(tmp_path, max_steps=2)
    run.fit(net, crops(cohort))
    net.accountant.history.clear()
    net.public_gradients = taken  # type: ignore[method-assign]
    with pytest.raises(TakenError):
        net.training_step(None, 0)  # type: ignore[arg-type]  # any look at the batch would fail


def test_the_generator_takes_a_step_after_each_private_one(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    moves: list[bool] = []

    class Watch(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.before = weights(net.generator)

        def on_train_batch_end(self, *_: Any) -> None:
            moves.append(not torch.equal(self.before, weights(net.generator)))
            assert all(p.grad is None for p in net.discriminator.parameters())

    net = gan()
    run = trainer(tmp_path, max_steps=4, callbacks=[Watch()])
    run.fit(net, crops(cohort))
    assert moves == [True] * 4
    assert run.global_step == net.accounted_steps == 4
    assert int(net.average.n_averaged) == 4


def test_a_draw_of_nobody_is_an_accounted_noisy_step(cohort: CropsManifest, tmp_path: Path) -> None:
    net = gan()
    start = layer(net)
    run = trainer(tmp_path, max_steps=3)
    run.fit(net, crops(cohort, rate=NOBODY))
    assert run.global_step == net.accounted_steps == 3
    assert (layer(net) != start).all()


def test_the_last_layer_alone_trains(cohort: CropsManifest, tmp_path: Path) -> None:
    net = gan()
    network = net.discriminator._network[0]
    before = {name: value.clone() for name, value in net.discriminator.state_dict().items()}
    seen = {name: value.clone() for name, value in network.state_dict().items()}
    trainer(tmp_path, max_steps=1).fit(net, crops(cohort))
    after = net.discriminator.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert moved == {"real.weight", "real.bias", "projection.weight"}
    assert all(torch.equal(value, seen[name]) for name, value in network.state_dict().items())
    assert len(layer(net)) == 3 * 1024 + 1
    assert net.method == "book_keeping"


def test_nothing_private_is_logged_and_samples_are(cohort: CropsManifest, tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=5)
    run.fit(gan(sample_every_steps=2), crops(cohort))
    assert run.logged_metrics == run.callback_metrics == {}
    sheets = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert sheets == ["step_000002.png", "step_000004.png", "step_000005.png"]


# Start, stop, refuse.


def test_a_fit_starts_from_the_average_and_with_standard_features(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    plain = MCGAN(**NETS, average_decay=0.5)
    run = trainer(tmp_path, max_steps=3)
    run.fit(plain, CropsDataModule(str(cohort.folder), image_size=16, augment="none"))
    run.save_checkpoint(tmp_path / "plain.ckpt", weights_only=True)
    net, plain = gan(weights=str(tmp_path / "plain.ckpt")), plain.eval()
    image, condition = torch.randn(3, 1, 16, 16), CLASSES.of_classes(torch.tensor([0, 1, 1]))
    made = plain(torch.randn(99, 4), torch.randn(99, 1, 16, 16), torch.eye(2)[torch.arange(99) % 2])
    judge = net.discriminator
    seen = (judge._pooled(made) - judge.mean) / judge.deviation
    assert float(seen.mean().abs()) < 0.2
    assert 0.8 < float(seen.square().mean()) < 1.2
    for latent in (torch.randn(3, 4), torch.randn(3, 4)):
        made = plain(latent, image, condition)
        assert torch.equal(net.generator(latent, image, condition), made)
        assert torch.equal(net(latent, image, condition), made)
    with pytest.raises(CheckpointError, match="tensors do not fit"):
        gan(weights=str(tmp_path / "plain.ckpt"), channels=2)


class PowerCutError(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one_in_weights_and_account(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    class Cut(Callback):
        def on_train_batch_start(self, run: Trainer, *_: Any) -> None:
            if run.global_step == 5:
                raise PowerCutError

    keep = ModelCheckpoint(tmp_path / "kept", filename="resume", every_n_train_steps=3)
    common: dict[str, Any] = {"max_steps": 8, "enable_checkpointing": True}
    whole, half, resumed = gan(), gan(), gan(seed=0)
    first = trainer(tmp_path / "whole", max_steps=8)
    first.fit(whole, crops(cohort, rate=0.5))
    with pytest.raises(PowerCutError):
        trainer(tmp_path, callbacks=[keep, Cut()], **common).fit(half, crops(cohort, rate=0.5))
    with torch.no_grad():
        for p in resumed.parameters():
            p.zero_()
    second = trainer(tmp_path, **common)
    second.fit(resumed, crops(cohort, rate=0.5), ckpt_path=tmp_path / "kept/resume.ckpt")
    assert second.global_step == first.global_step == resumed.accounted_steps == 8
    assert resumed.executed == whole.executed
    assert 0.98 * 8 < accounted(resumed) <= 8
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    for ours, theirs in zip(second.optimizers, first.optimizers, strict=True):
        for key, state in theirs.state_dict()["state"].items():
            for name, value in state.items():
                assert torch.equal(ours.state_dict()["state"][key][name], value), (key, name)


def test_a_run_resumes_with_the_network_it_began_with_alone(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, max_steps=2)
    run.fit(gan(), crops(cohort))
    run.save_checkpoint(tmp_path / "resume.ckpt")
    monkeypatch.setattr(DPMCGAN, "_network_name", "others")
    resumed = trainer(tmp_path, max_steps=4)
    with pytest.raises(TrainingError, match=r"here it is of others\. Resume where"):
        resumed.fit(gan(), crops(cohort), ckpt_path=tmp_path / "resume.ckpt")


def test_mixed_precision_accounts_the_same_and_keeps_weights_whole(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    half, exact = gan(), gan()
    trainer(tmp_path, precision="bf16-mixed").fit(half, crops(cohort))
    trainer(tmp_path).fit(exact, crops(cohort))
    assert half.executed == exact.executed
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert not torch.equal(weights(half.generator), weights(exact.generator))
    assert torch.allclose(weights(half.generator), weights(exact.generator), atol=1e-3)


def test_the_released_file_is_read_as_a_generator(cohort: CropsManifest, tmp_path: Path) -> None:
    net = gan()
    run = trainer(tmp_path)
    run.fit(net, crops(cohort))
    run.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    read = Checkpoint.read(tmp_path / "last.ckpt")
    assert torch.equal(weights(read.generator), weights(net.average.module))
    assert read.crop_rule == "as-is"
    assert read.settings["target_epsilon"] == 8.0
    assert read.discriminator is None
    with pytest.raises(CheckpointError, match="is of a DPMCGAN, whose discriminator"):
        MCGAN(**NETS, weights=str(tmp_path / "last.ckpt"))
    again = DPMCGAN.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.accounted_steps == 4
    assert torch.equal(weights(again.discriminator), weights(net.discriminator))
