# SPDX-License-Identifier: Apache-2.0
"""``DPTraining``: differentially private training on Lightning; one batch is one accounted step."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import lightning
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import SingleDeviceStrategy
from opacus.accountants import RDPAccountant
from torch import Tensor, nn
from torch.optim import Optimizer

from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training import plugins
from mammo_dp.privacy.training.gradients.methods import (
    GradientMethod,
    Method,
    candidates,
    refuse_layers,
)
from mammo_dp.privacy.training.gradients.self_check import first_that_passes, refuse_side_effects
from mammo_dp.privacy.training.gradients.units import Clip, ClippedSums, Clipping
from mammo_dp.privacy.training.monitors import monitors_of
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.outside import replaced_by_instance, void_account, void_step
from mammo_dp.privacy.training.plugins import DPDDPStrategy
from mammo_dp.privacy.training.sampling import (
    DrawCheck,
    PoissonSampling,
    PoissonUnitSampler,
    key_name,
    take_if_fresh,
)

_OF_ACCOUNT = ("unit", "public_size")  # of the sampling: what an account holds for
_PRECISIONS = ("32-true", "bf16-mixed")


class DPTraining(lightning.LightningModule):
    """Makes the training of a module differentially private per unit of its data.

    A subclass has ``net`` and ``losses(batch)`` (loss of each row, no mixing of rows), calls
    :meth:`configure_privacy` in its ``__init__`` and :meth:`privatise` in
    ``configure_optimizers``. Sampling and key come from the data module, the number of steps from
    ``trainer.max_steps``.

    Losses and gradient norms are private and logged nowhere.

    Attributes:
        net: Model whose trainable parameters are released.
        views: Views of each row whose gradients are averaged inside the clip, >= 1.
        noise_multiplier: Standard deviation of the noise / clipping norm; set in ``setup``.
        method: How clipped sums are computed; set when the fit starts.
    """

    net: nn.Module
    views: int = 1
    noise_multiplier: float
    method: Method

    if TYPE_CHECKING:

        def losses(self, batch: CropBatch) -> Tensor:
            """Loss of each row, mean over its views, shape ``(B,)``; comes from the subclass."""

    def configure_privacy(
        self,
        budget: PrivacyBudget,
        *,
        clipping_norm: float,
        clipping: Clipping = "flat",
        gradient_method: GradientMethod = "auto",
        max_physical_batch: int = 64,
        ema_decay: float | None = None,
    ) -> None:
        """Sets the privacy budget, the clip, and how gradients are computed.

        Args:
            budget: What one run may spend.
            clipping_norm: Largest L2 norm of one unit's gradient, > 0.
            clipping: ``"flat"`` shortens long gradients, ``"automatic"`` brings all to about one
                length, see :class:`mammo_dp.privacy.training.gradients.units.Clip`.
            gradient_method: How clipped sums are computed; changes only speed.
            max_physical_batch: Images in one pass, > 0; changes only speed and memory.
            ema_decay: Largest decay of the average of weights that is released instead of the last
                weights, in ``[0, 1)``; none releases the last. Averaging is free of privacy.

        Raises:
            PrivacyError: For a value outside its range, or if there is an account already.
        """
        if "accountant" in vars(self) and self.accounted_steps:
            raise PrivacyError(
                f"account: holds {self.accounted_steps} steps, which configure_privacy would drop. "
                "Make a new module, and compose what both spent."
            )
        for name, holds, allowed in (
            ("clipping_norm", 0 < clipping_norm < float("inf"), "a finite norm above 0"),
            ("max_physical_batch", max_physical_batch >= 1, "at least 1"),
            ("ema_decay", ema_decay is None or 0 <= ema_decay < 1, "none, or from 0 to below 1"),
            ("clipping", clipping in get_args(Clipping), ", ".join(get_args(Clipping))),
            (
                "gradient_method",
                gradient_method in get_args(GradientMethod),
                ", ".join(get_args(GradientMethod)),
            ),
        ):
            if not holds:
                raise PrivacyError(f"{name}={locals()[name]!r}. Give {allowed}.")
        self.automatic_optimization = False
        self.budget = budget
        self.clipping_norm = clipping_norm
        self.clip = Clip(norm=clipping_norm, rule=clipping)
        self.gradient_method: GradientMethod = gradient_method
        self.max_physical_batch = max_physical_batch
        self.ema_decay = ema_decay
        self.accountant = RDPAccountant()
        self._void = ""
        self.clipped_sums: ClippedSums | None = None
        self._checked_sums: ClippedSums | None = None
        self._draws: DrawCheck | None = None
        self._released: dict[str, nn.Parameter] = {}
        self._average: dict[str, Tensor] = {}
        self._earlier_keys: list[str] = []

    # What a run spent.

    @property
    def accounted_steps(self) -> int:
        """Steps that were accounted for, over all parts of a resumed run."""
        return sum(steps for _, _, steps in self.accountant.history)

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """What was executed, for :func:`mammo_dp.compose`; empty before the first step.

        Raises:
            PrivacyError: If the account guarantees nothing, so that no number may follow from it.
        """
        if self.void:
            raise PrivacyError(
                f"account: trained {self.void}. So epsilon is infinite, and nothing can be "
                "composed with it. What was executed stands in `executed`."
            )
        return self.executed

    @property
    def executed(self) -> tuple[Mechanism, ...]:
        """Steps from the accountant's history, whatever they guarantee."""
        return tuple(
            Mechanism(
                noise_multiplier=noise,
                sampling_rate=rate,
                steps=steps,
                clipping_norm=self.clipping_norm,
            )
            for noise, rate, steps in self.accountant.history
        )

    @property
    def void(self) -> str:
        """Why the account guarantees nothing, as a clause; empty if it does.

        Where a step ran under a fixed seed, or by a part that outside code replaced, this stays
        with the account, also in checkpoints and copies.
        """
        if self._void or self._trainer is None:
            return self._void
        return void_account(self, self._datamodule, self.trainer.global_step)

    @property
    def spent_epsilon(self) -> float:
        """Epsilon of the steps of this module so far, at the budget's delta.

        Infinite where the account guarantees nothing: under a fixed seed, where outside code
        replaces a part of it, or where the trainer took steps that it does not hold. What others
        did to the same patients is not in it: a network that two modules trained one after the
        other has spent ``compose(first.mechanisms + second.mechanisms)``.
        """
        if self.void:
            return math.inf
        return compose(self.executed).epsilon(self.budget.delta) if self.executed else 0.0

    @property
    def sampling(self) -> PoissonSampling:
        """The sampling that runs, from the data module.

        Raises:
            PrivacyError: If the data module draws in another way.
        """
        found = getattr(self._datamodule, "sampling", None)
        if not isinstance(found, PoissonSampling):
            raise PrivacyError(
                f"data: {type(self._datamodule).__name__} does not sample units at a known rate. "
                "Use mammo_dp.DPCropsDataModule or mammo_dp.DPDataModule."
            )
        return found

    @property
    def _datamodule(self) -> Any:  # noqa: ANN401  any data module may be given
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # Hooks of Lightning, in the order they run.

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Checks the trainer: of all hooks Lightning calls this one first.

        Raises:
            PrivacyError: Naming every setting that would break the guarantee.
        """
        if self.trainer.training:
            refuse_trainer(self.trainer)
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Checks data and layers, and calibrates the noise, before compute is spent.

        Raises:
            PrivacyError: Naming what would break the guarantee.
        """
        super().setup(stage)
        if stage != "fit":
            return
        sampling = self.sampling
        data = self._datamodule
        if isinstance(manifest := getattr(data, "manifest", None), CropsManifest):
            sampling.require_units_of(manifest, data.train_split)
        self.train()
        for method in candidates(self.net, self.gradient_method):
            refuse_layers(self.net, method)
        self.noise_multiplier = self.budget.noise_multiplier(sampling, steps=self.trainer.max_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores account and weights of a run that resumes.

        Raises:
            PrivacyError: If the file holds no account, or that of other units.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.training:
            refuse_other_account(checkpoint, self.sampling)
        if "accountant" not in checkpoint:
            return
        steps = sum(taken for *_, taken in checkpoint["accountant"]["history"])
        if self.accounted_steps > steps:
            raise PrivacyError(
                f"account: holds {self.accounted_steps} steps, and that of the checkpoint {steps}. "
                "Resume with a new module, and compose what both spent."
            )
        self.accountant.load_state_dict(checkpoint["accountant"])
        self._void = checkpoint.get("void", "")
        self._earlier_keys = list(checkpoint.get("keys", []))
        if self._trainer is not None and self.trainer.training and "last_weights" in checkpoint:
            names = checkpoint["last_weights"].keys()
            self._average = {name: checkpoint["state_dict"][name].clone() for name in names}
            checkpoint["state_dict"] |= checkpoint["last_weights"]

    def on_fit_start(self) -> None:
        """Checks key and account of a resumed run, then the net and its gradients on noise images.

        Raises:
            PrivacyError: If the key was used before, the account was kept under other settings, the
                net draws random numbers or keeps statistics, or gradients are wrong.
        """
        super().on_fit_start()
        take_key(self._datamodule, self._earlier_keys)
        settings = (self.noise_multiplier, self.sampling.rate)
        for noise, rate, steps in self.accountant.history:
            if (noise, rate) != settings:
                raise PrivacyError(
                    f"account: {steps} steps ran with noise multiplier {noise} and sampling rate "
                    f"{rate}, now {settings[0]} and {settings[1]}. Resume with the settings of the "
                    "first start, or start a new run."
                )
        self._choose_method()
        self._released = {
            f"net.{name}": p for name, p in self.net.named_parameters() if p.requires_grad
        }
        if self.ema_decay is not None and not self._average:
            self._average = {name: p.detach().clone() for name, p in self._released.items()}
        self._average = {name: a.to(self.device) for name, a in self._average.items()}

    def on_train_start(self) -> None:
        """Checks that the loader draws what is accounted, each unit on one rank.

        Raises:
            PrivacyError: If it does not, or if the trainer does not go on where the account ends.
        """
        super().on_train_start()
        trainer = self.trainer
        refuse_trainer(trainer)  # again: schedules are there only now
        if self.accounted_steps != trainer.global_step:
            raise PrivacyError(
                f"account: holds {self.accounted_steps} steps, and the trainer begins at "
                f"{trainer.global_step}. Resume by Trainer.fit(..., ckpt_path=CHECKPOINT), which "
                "brings back both; or start with a new module, whose steps come on top."
            )
        sampler = getattr(trainer.train_dataloader, "batch_sampler", None)
        if (
            not isinstance(sampler, PoissonUnitSampler)
            or sampler.sampling is not self.sampling
            or (sampler.rank, sampler.world_size) != (trainer.global_rank, trainer.world_size)
        ):
            raise PrivacyError(
                "trainer: the training loader is not the one that is accounted. Set "
                "use_distributed_sampler=False, and leave overfit_batches and other settings that "
                "replace samplers at their defaults."
            )
        draws = (sampler.key, sampler.sampling, self.accounted_steps)
        same = trainer.strategy.broadcast(draws) == draws
        if not trainer.strategy.reduce_boolean_decision(same):
            raise PrivacyError(
                f"{trainer.world_size} ranks: draw apart, so that a unit could count twice in one "
                "step. Start all with the same data, the same key and the same checkpoint."
            )
        self._draws = DrawCheck(
            self.sampling,
            key=self._datamodule.key,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def image_shape(self) -> tuple[int, ...]:
        """Shape of one row of ``CropBatch.image`` as the training loader gives it."""
        shape: tuple[int, ...] = self._datamodule.image_shape()
        return shape

    def privatise(self, optimizer: Optimizer) -> PrivateOptimizer:
        """Wraps an optimizer of all trainable parameters; its steps are noisy and accounted for.

        It is the first optimizer; others are for post-processing, past Lightning's step counter.
        """
        return PrivateOptimizer(
            optimizer,
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            expected_units=self.sampling.expected_units,
            key=self._datamodule.key,
            account=self._account_step,
        )

    def public_gradients(self) -> Mapping[nn.Parameter, Tensor]:
        """Gradients that no unit has a part in, by parameter, added to the noisy mean.

        They may depend on released weights, public seeds and the step; the same on all ranks.
        """
        return {}

    def training_step(self, batch: CropBatch, batch_idx: int) -> None:
        """One draw: clipped sums of its units, noise, one step of optimizer and schedule.

        Raises:
            PrivacyError: If the budget is spent, or the batch is not what the sampler drew.
        """
        self._require_budget()
        public = self.public_gradients()
        assert self._draws is not None  # set when training starts
        self._draws(batch, self.accounted_steps)
        configured = self.optimizers()
        counted = configured[0] if isinstance(configured, list) else configured
        assert isinstance(counted, LightningOptimizer)
        private: Any = counted.optimizer  # attributes set on Lightning's wrapper are lost
        self._require_accounted(private)
        assert self.clipped_sums is not None
        sums = {p: torch.zeros_like(p, dtype=torch.float32) for p in self._released.values()}
        if len(batch.row):
            self.clipped_sums.accumulate(self.losses, batch, list(sums.values()), self.clip)
        if isinstance(self.trainer.strategy, DPDDPStrategy):
            self.trainer.strategy.sum_over_ranks(list(sums.values()))
        private.take(sums, public)
        with torch.autocast(self.device.type, enabled=False):
            counted.step()
        private.zero_grad(set_to_none=True)
        if (schedule := self.lr_schedulers()) is not None:
            schedule.step()  # type: ignore[union-attr]  # one schedule
        self._update_average()

    def on_fit_end(self) -> None:
        """Leaves the weights that are released in the net, and the hooks off."""
        super().on_fit_end()
        self._void = self.void  # another trainer would not know
        self._close_method()
        with torch.no_grad():
            for name, average in self._average.items():
                self._released[name].copy_(average)
        self._average = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the account; with averaging, ``state_dict`` holds what would be released.

        No key and no random state is saved: a resumed run draws a fresh key, which is checked.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint["accountant"] = self.accountant.state_dict()
        if self.void:
            checkpoint["void"] = self.void
        checkpoint |= {name: getattr(self.sampling, name) for name in _OF_ACCOUNT}
        if "optimizer_states" in checkpoint:
            checkpoint["keys"] = [*self._earlier_keys, key_name(self._datamodule.key)]
        if self._average:
            state = checkpoint["state_dict"]
            checkpoint["last_weights"] = {name: state[name].clone() for name in self._average}
            state |= {name: average.clone() for name, average in self._average.items()}

    # Parts.

    def _choose_method(self) -> None:
        self._close_method()  # of an earlier fit that was interrupted
        methods = candidates(self.net, self.gradient_method)
        with self.trainer.precision_plugin.forward_context():
            refuse_side_effects(self.net, self.losses, self.image_shape(), released=self)
            self.method, self.clipped_sums = first_that_passes(
                self.net, methods, self.max_physical_batch, self.losses, self.image_shape()
            )
        self._checked_sums = self.clipped_sums

    def _close_method(self) -> None:
        if self.clipped_sums is not None:
            self.clipped_sums.close()
        self.clipped_sums = None

    def _account_step(self) -> int:
        """Accounts for a step; returns how many were accounted for before."""
        self._require_budget()
        self._void = self._void or void_step(self, self._datamodule)
        before = self.accounted_steps
        self.accountant.step(noise_multiplier=self.noise_multiplier, sample_rate=self.sampling.rate)
        return before

    def _require_accounted(self, private: Any) -> None:  # noqa: ANN401  any optimizer may be given
        """Checks that a step clips, draws and adds noise as the account will say.

        Raises:
            PrivacyError: Naming what was changed since the fit began.
        """
        assert self._draws is not None  # set when training starts
        if type(private) is not PrivateOptimizer or replaced_by_instance(private, PrivateOptimizer):
            raise PrivacyError(
                f"account: the first optimizer, a {type(private).__name__}, does not step as "
                "privatise() makes it, so nobody knows what its steps add. Return what "
                "privatise() gives, as it is."
            )
        done = {
            "noise_multiplier": (self.noise_multiplier, private.noise_multiplier),
            "clipping_norm": (self.clipping_norm, private.max_grad_norm),
            "clip": (Clip(norm=self.clipping_norm, rule=self.clip.rule), self.clip),
            "sampling": (self.sampling, self._draws.sampling),
            "expected_units": (self.sampling.expected_units, private.expected_batch_size),
            "key": (key_name(self._datamodule.key), key_name(private.key)),
            "clipped_sums": (self._checked_sums, self.clipped_sums),
        }
        if self._checked_sums is None:  # of code that chooses by itself, and so is void
            del done["clipped_sums"]
        if changed := [name for name, (said, used) in done.items() if said != used]:
            raise PrivacyError(
                f"account: {', '.join(changed)} changed during the fit, so steps would be "
                "accounted that were not taken. Leave them as they were set up, or start a new run."
            )

    def _require_budget(self) -> None:
        if self.accounted_steps >= self.trainer.max_steps:
            raise PrivacyError(
                f"account: the {self.trainer.max_steps} steps that the noise was calibrated for "
                "are spent. Start a new run with a larger trainer.max_steps."
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential average with a warm-up; De et al. 2022, arXiv 2204.13650."""
        if self.ema_decay is None:
            return
        step = self.accounted_steps - 1
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        for name, average in self._average.items():
            average.lerp_(self._released[name], 1 - decay)


def refuse_trainer(trainer: Trainer) -> None:
    """Checks a trainer before it spends compute or starts further processes.

    Args:
        trainer: The trainer of a private fit, before the fit or within it.

    Raises:
        PrivacyError: Naming every setting that would break the guarantee.
    """
    precision = trainer.precision
    # The tuners among them take steps that they then erase from the account.
    selecting = [str(monitor) for monitor in monitors_of(trainer)]
    averaging = [
        type(callback).__name__  # measures batches anew, for normalisation layers
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging)
    ]
    clocks = [c for c in trainer.callbacks if isinstance(c, Timer)]  # type: ignore[attr-defined]
    accumulating = [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler)
    ]
    refusals = (
        (
            bool(clocks),
            "max_time: how far a fit comes within a time depends on the crops that are drawn, so "
            "the number of steps would tell of them. Leave it unset; trainer.max_steps ends the "
            "fit, and a killed one resumes.",
        ),
        (
            trainer.max_steps < 1,
            f"max_steps={trainer.max_steps}: the number of steps defines what is spent. Set "
            "trainer.max_steps.",
        ),
        (
            not isinstance(trainer.strategy, SingleDeviceStrategy | DPDDPStrategy),
            f"strategy={type(trainer.strategy).__name__} on {trainer.world_size} device(s): ranks "
            "draw apart, and raw gradients are averaged before any unit is clipped, or weights "
            f"are held in parts. Set trainer.strategy to {plugins.NAME} (--trainer.strategy "
            f"{plugins.NAME}), or trainer.devices to 1 and trainer.strategy to auto.",
        ),
        (
            precision not in _PRECISIONS,
            f"precision={precision}: loss scaling skips steps by the data, and reduced "
            f"weights break the clip. Choose {' or '.join(_PRECISIONS)}.",
        ),
        (
            trainer.accumulate_grad_batches != 1 or bool(accumulating),
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}, or a schedule of it: two "
            "draws would be accounted as one. Leave it at 1 and raise the data's rate.",
        ),
        (
            trainer.gradient_clip_val is not None,
            f"gradient_clip_val={trainer.gradient_clip_val}: clips sums, not patients. Leave "
            "it unset; the model's clipping_norm clips.",
        ),
        (
            bool(selecting or averaging),
            f"{', '.join([*selecting, *averaging])}: stops, selects or tunes by private metrics. "
            "Remove it; the weights of the last step are released, or their average by ema_decay. "
            "To choose among fits at a known cost, use `mammo-dp privacy select`.",
        ),
    )
    if found := [message for refused, message in refusals if refused]:
        raise PrivacyError("trainer: " + " ".join(found))


def refuse_other_account(checkpoint: Mapping[str, Any], sampling: PoissonSampling) -> None:
    """Refuses to resume a fit whose first steps are not accounted as the next ones will be.

    Args:
        checkpoint: Of the first steps.
        sampling: Of the steps to come.

    Raises:
        PrivacyError: If there is no account, or it is one of other units or another divisor.
    """
    if "accountant" not in checkpoint:
        raise PrivacyError(
            "account: the checkpoint has none, so its steps would count for nothing. Resume a fit "
            "of a DPTraining; weights to start from are an argument of the model."
        )
    for name in _OF_ACCOUNT:
        before, now = checkpoint.get(name), getattr(sampling, name)
        if before != now:
            raise PrivacyError(
                f"account: the first steps ran with {name} {before}, now {now}. Resume with the "
                "settings of the first start, or start a new run."
            )


def take_key(data: Any, earlier: Collection[str]) -> None:  # noqa: ANN401  any data module
    """Takes the key for one fit, which draws and adds noise under it, if nobody knows it.

    Whoever chose or kept a key can draw the noise again. Steps after the last checkpoint are taken
    twice; with equal noise their difference would be the difference of the exact sums, as it would
    be of two fits under one key. A fixed seed does that on purpose; the statement of such a run is
    infinite.

    Args:
        data: Data module with the key.
        earlier: Names of the keys of earlier starts.

    Raises:
        PrivacyError: If the key was not drawn in this process, or was taken before.
    """
    if getattr(data, "insecure_seed", None) is not None:
        return
    if key_name(data.key) in earlier:
        raise PrivacyError(
            f"data: {type(data).__name__} resumes with the key of an earlier start, so draws and "
            "noise would repeat. Take mammo_dp.privacy.training.sampling.new_key() at each start."
        )
    is_drawn_here = data.trainer is None or data.trainer.is_global_zero  # others are told
    if is_drawn_here and not take_if_fresh(data.key):
        raise PrivacyError(
            f"data: {type(data).__name__} sets a key that was not drawn for this fit, so whoever "
            "chose or kept it, or an earlier fit under it, can remove the noise. Take "
            "mammo_dp.privacy.training.sampling.new_key() at each start; for tests, set "
            "insecure_seed."
        )
