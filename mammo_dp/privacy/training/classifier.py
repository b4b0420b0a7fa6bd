# SPDX-License-Identifier: Apache-2.0
"""The private classifier: ``DPCropClassifier``."""

from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import SGD, AdamW

from classifier.backbones import head
from classifier.module import CropClassifier, warmup_cosine
from classifier.whitened import WhitenedFeatures
from data_prep.datamodule import CropsDataModule
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.accounting.selection import SelectionPlan
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.seals import SealedFeatures
from mammo_dp.privacy.training.datamodule import DPCropsDataModule, DPDataModule
from mammo_dp.privacy.training.descent import plan_descent, undecided_norm
from mammo_dp.privacy.training.gradients.methods import GradientMethod
from mammo_dp.privacy.training.gradients.units import Clipping
from mammo_dp.privacy.training.module import DPTraining


class DPCropClassifier(DPTraining, CropClassifier):  # type: ignore[misc]  # its steps return no loss
    """A crop classifier trained with differential privacy for each patient of its data.

    The steps are ``trainer.max_steps``; unit and sampling rate belong to the data. The noise
    follows from these and from exactly one target: an epsilon, or the success of an attacker who
    sees the released weights, knows all data but one unit's, and how many units there are. A target
    is for this run; what earlier stages spent on the same patients comes on top, in the statement.

    Where only the head trains, features of all crops and views are computed once and kept in
    ``features`` below the trainer's root folder; they are private. Of ``crop_tokens`` more may
    train: then what its public network sees is kept.

    Args:
        target_epsilon: Epsilon per unit at ``delta``, > 0; of a neighbour whose data are blanked
            (zero-out), or who is absent (add-or-remove) if the data have a ``public_size``.
        target_advantage: Largest true minus false positive rate of a test whether a unit was
            among the training data, in ``(0, 1)``.
        target_tpr: Largest probability to recognise a unit of the training data at a false positive
            rate of ``target_fpr``, in ``(target_fpr, 1)``.
        target_fpr: False positive rate that ``target_tpr`` refers to, in ``(0, 1)``.
        target_reconstruction: Largest probability to reconstruct a unit that is guessed with
            probability ``kappa`` without the weights, in ``(kappa, 1)``.
        kappa: Probability of the guess that ``target_reconstruction`` refers to, in ``(0, 1)``,
            such as 1 / units.
        delta: Probability that the bound of epsilon fails, below 1 / units; attacks are bounded
            without.
        clipping_norm: Largest L2 norm of one unit's gradient, > 0; none follows from features of
            one length, as those of ``crop_features``, ``crop_measurements`` and ``crop_tokens``:
            half of it, the gradient of a crop that is scored undecided.
        clipping: ``flat`` shortens gradients that are longer, ``automatic`` scales every gradient
            to about this length.
        views: 1 trains on the crops as they are, K > 1 on the mean over K augmented views of each,
            inside the clip: free of privacy.
        learning_rate: Largest learning rate, > 0, fixed in advance; none follows from
            ``score_noise``, for ``descent``.
        optimizer: ``adamw``, ``sgd`` with momentum .9, or ``descent``: plain steps at one rate,
            which leave the least noise in a head, see :mod:`mammo_dp.privacy.training.descent`.
        score_noise: For ``descent``: largest standard deviation, in logits, that noise may give the
            score of a crop, > 0. The rate that follows is printed at the start of the fit.
        weight_decay: Weight decay of matrices, >= 0.
        warmup_steps: Steps of linear warm-up, >= 0; then the rate follows a cosine to 0.
        ema_decay: Largest decay of the average of weights that is released; none releases the last.
        gradient_method: ``auto`` takes the fastest that fits the model, ``book_keeping`` or
            ``loop``; ``opacus`` is there to compare. Changes only speed.
        max_physical_batch: Images in one pass, > 0; changes only speed and memory.
        cache_features: Whether features of a frozen body are cached: views are then fixed, not
            fresh.
        classifier: Further arguments of :class:`classifier.module.CropClassifier`.
    """

    features_seal = SealedFeatures()

    def __init__(
        self,
        *,
        target_epsilon: float | None = None,
        target_advantage: float | None = None,
        target_tpr: float | None = None,
        target_fpr: float = 0.01,
        target_reconstruction: float | None = None,
        kappa: float | None = None,
        delta: float = 1e-4,
        clipping_norm: float | None = 1.0,
        clipping: Clipping = "flat",
        views: int = 4,
        learning_rate: float | None = 0.01,
        optimizer: Literal["adamw", "sgd", "descent"] = "adamw",
        score_noise: float = 0.6,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        ema_decay: float | None = 0.99,
        gradient_method: GradientMethod = "auto",
        max_physical_batch: int = 64,
        cache_features: bool = True,
        **classifier: Any,
    ) -> None:
        if learning_rate is None and optimizer != "descent":
            raise PrivacyError(f"{learning_rate=}, {optimizer=}. Give a rate, or descent.")
        if not score_noise > 0:
            raise PrivacyError(f"{score_noise=}. Give a standard deviation in logits above 0.")
        super().__init__(
            learning_rate=1.0 if learning_rate is None else learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            **classifier,
        )
        if views < 1:
            raise PrivacyError(f"{views=}. Give 1 for the crops as they are, or more.")
        self.views = views
        self.score_noise = score_noise
        self.rate_follows = learning_rate is None
        self.optimizer_name = optimizer
        self.cache_features = cache_features
        if clipping_norm is None:
            clipping_norm = self._norm_of_undecided()
        self.configure_privacy(
            PrivacyBudget(
                delta=delta,
                epsilon=target_epsilon,
                advantage=target_advantage,
                tpr=target_tpr,
                fpr=target_fpr,
                reconstruction=target_reconstruction,
                kappa=kappa,
            ),
            clipping_norm=clipping_norm,
            clipping=clipping,
            gradient_method=gradient_method,
            max_physical_batch=max_physical_batch,
            ema_decay=ema_decay,
        )

    def kept_views(self, data: CropsDataModule) -> int:
        """All views, each drawn once, where the body is frozen and features are wanted."""
        kept = self.cache_features and (self.trains_head_only or self.keeps_maps)
        return self.views if kept else 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW or SGD with warm-up and a cosine over ``max_steps``, or plain descent."""
        groups = self.parameter_groups()
        if self.optimizer_name == "descent":
            if self.rate_follows:
                self.learning_rate = self._planned_rate()
            return {"optimizer": self.privatise(SGD(groups, lr=self.learning_rate))}
        private = self.privatise(
            SGD(groups, lr=self.learning_rate, momentum=0.9)
            if self.optimizer_name == "sgd"
            else AdamW(groups, lr=self.learning_rate)
        )
        schedule = warmup_cosine(private, self.warmup_steps, self.trainer.max_steps)
        return {"optimizer": private, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _norm_of_undecided(self) -> float:
        """Length of the gradient in the head of a crop whose residual is a half.

        Raises:
            PrivacyError: If features have no fixed length, or more than the head trains.
        """
        if not isinstance(self.net, WhitenedFeatures) or not self.trains_head_only:
            raise PrivacyError(
                "clipping_norm=None: follows only for crop_features, crop_measurements and "
                "crop_tokens with trainable: head. Give a norm."
            )
        return undecided_norm(head(self.net).in_features)

    def _planned_rate(self) -> float:
        """The rate of the signal-to-noise rule, which is printed.

        Raises:
            PrivacyError: If more than the head trains: the rule is one for heads.
        """
        if not self.trains_head_only:
            raise PrivacyError(
                "learning_rate=None: follows from noise only where trainable: head. Give a rate."
            )
        plan = plan_descent(
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            expected_units=self.sampling.expected_units,
            steps=self.trainer.max_steps,
            features=head(self.net).in_features,
            score_noise=self.score_noise,
        )
        self.print(str(plan))  # from one rank
        return plan.rate


def refuse_selection(
    plan: SelectionPlan, module: LightningModule, data: LightningDataModule
) -> None:
    """Checks a fit that shall take part in a selection, before compute is spent.

    Args:
        plan: The selection.
        module: Model of the fit.
        data: Data module of the fit.

    Raises:
        PrivacyError: If no account of the selection would hold.
    """
    if not (isinstance(module, DPTraining) and isinstance(module, CropClassifier)):
        raise PrivacyError(
            f"selection: {type(module).__name__} is no private classifier. Choose among fits "
            "of mammo_dp.DPCropClassifier."
        )
    private = isinstance(data, DPCropsDataModule | DPDataModule)
    plan.refuse_data(
        unit=data.unit if private else None,
        train_split=data.train_split if isinstance(data, CropsDataModule) else None,
        public_size=data.public_size if private else None,
    )
