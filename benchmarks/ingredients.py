# SPDX-License-Identifier: Apache-2.0
"""What each ingredient of the default recipe adds, and what it costs to choose its constants.

    $ python benchmarks/ingredients.py --crops data/real --phantoms data/phantoms \
        --out runs/ingredients

The public network sees every crop once from each of the eight symmetries, at all stages that any
row reads; that is kept in ``features``. Each row then makes its features from these numbers, by the
classes of the default, whitened on phantoms, and its head by the private fits of
``benchmarks/folds.py``. A file per row keeps each fit as soon as it is made, so the same command
resumes where it was stopped. AUROC over folds of train / on val, and the paired difference to the
default over the same folds with its standard error.

Below are rows whose constants nobody chose on train: one combination at random, that which serves
the label of phantoms best, and one chosen among a random number of them within the epsilon of the
row, as ``mammo-dp privacy select`` does.

The tables are a look at all patients, for research: no epsilon covers them.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from folds import (
    ALL,
    Fit,
    Folds,
    Scores,
    Train,
    areas_of,
    crossvalidated,
    difference,
    on_val,
    private_head,
    quiet,
    scores_of,
    settings,
)
from jsonargparse import auto_cli
from scipy.optimize import brentq
from torch import Tensor, nn

from classifier.evaluate import auroc
from classifier.features import cached_features
from classifier.fixed_features import MEASURED_SIZE
from classifier.linear import LinearOnFeatures
from classifier.pretraining import teach_head
from classifier.public import PublicNet, in_passes, resized
from classifier.weights import PACKAGE, PUBLIC_NETWORK, load_weights
from classifier.whitened import WhitenedFeatures
from data_prep.descriptors.measurements import COUNT, Measurements
from data_prep.manifest import CropsManifest
from data_prep.progress import watched
from data_prep.symmetries import SYMMETRIES, symmetric
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.selection import SelectionPlan, concordance
from mammo_dp.privacy.training.descent import undecided_norm
from mammo_dp.runs import run_folder

STAGES = (3, 4, 5, 6)
MEAN_FITS = 5.0  # of a selection
SCORE_NOISE = {1.0: 10.0, 6.0: 5.0, 60.0: 5.0}  # of what one patient can change, by epsilon


class EveryNumber(LinearOnFeatures):
    """Measurements, and what the public network sees from each symmetry, one after the other.

    Args:
        public: Its name for timm.
        stages: Stages that are read.
        size: Edge of what it sees, in pixels.
    """

    def __init__(self, public: str, stages: Sequence[int], size: int) -> None:
        net = PublicNet(public, size=size, stages=stages)
        super().__init__(COUNT + 2 * SYMMETRIES * sum(net.channels), 1)
        self.measure = Measurements(MEASURED_SIZE)
        self.public = net

    def forward_features(self, image: Tensor) -> Tensor:
        """Shape ``(B, COUNT + symmetries * 2 * channels)``: mean, then spread of each stage."""
        seen = in_passes(self._seen, resized(image, self.public.size))
        return torch.cat([self.measure(resized(image, MEASURED_SIZE)), seen.flatten(1)], 1)

    def _seen(self, image: Tensor) -> Tensor:
        found = []
        for number in range(SYMMETRIES):
            flat = [one.float().flatten(2) for one in self.public(symmetric(image, number))]
            found.append(torch.cat([part for f in flat for part in (f.mean(2), f.std(2))], 1))
        return torch.stack(found, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """What features are made of, and how a head starts.

    Attributes:
        measured: Whether the measurements are among them.
        stages: Stages of the public network.
        symmetries: Turned and mirrored copies that its numbers are averaged over.
        components: Principal components that are features.
        phantoms: How many to whiten on; none takes all.
        taught: Whether the head starts from the label of phantoms, and not from zero.
    """

    measured: bool = True
    stages: tuple[int, ...] = (4, 5)
    symmetries: int = SYMMETRIES
    components: int = 64
    phantoms: int | None = None
    taught: bool = True

    def blocks(self, numbers: Tensor, channels: Mapping[int, int]) -> list[Tensor]:
        """The blocks that are whitened together.

        Args:
            numbers: Of :class:`EveryNumber`, shape ``(crops, numbers)``.
            channels: Of each stage that it read, in its order.
        """
        views = numbers[:, COUNT:].reshape(len(numbers), SYMMETRIES, -1)
        seen = views[:, : self.symmetries].mean(1)
        widths = [n for n in channels.values() for _ in ("mean", "spread")]
        parts = torch.split(seen, widths, dim=1)
        by_stage = dict(zip(channels, zip(parts[::2], parts[1::2], strict=True), strict=True))
        chosen = [part for stage in self.stages for part in by_stage[stage]]
        return [numbers[:, :COUNT], *chosen] if self.measured else chosen


ROWS: dict[str, Ingredients] = {
    "the default": Ingredients(),
    "measurements alone, 48 components": Ingredients(stages=(), components=48),
    "public features alone": Ingredients(measured=False),
    "public features alone, 4 symmetries": Ingredients(measured=False, symmetries=4),
    "4 symmetries": Ingredients(symmetries=4),
    "2 symmetries": Ingredients(symmetries=2),
    "the crop as it is": Ingredients(symmetries=1),
    "stage 4 alone": Ingredients(stages=(4,)),
    "stage 3 as well": Ingredients(stages=(3, 4, 5)),
    "stage 6 as well": Ingredients(stages=(4, 5, 6)),
    "48 components": Ingredients(components=48),
    "80 components": Ingredients(components=80),
    "whitened on 1,000 phantoms": Ingredients(phantoms=1000),
    "started at zero": Ingredients(taught=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What is known of all crops and phantoms before whitening.

    Attributes:
        crops: Of the crops, shape ``(crops, numbers)``, in the order of their table.
        phantoms: Of the phantoms that train, shape ``(phantoms, numbers)``.
        malignant: Labels of these phantoms.
        channels: Of each stage that was read.
    """

    crops: Tensor
    phantoms: Tensor
    malignant: Tensor
    channels: Mapping[int, int]

    def features(self, made: Ingredients) -> tuple[Tensor, Tensor, nn.Linear]:
        """Features of the crops and of the phantoms, and the head that a fit starts from."""
        blocks = made.blocks(self.phantoms, self.channels)
        body = WhitenedFeatures([part.shape[1] for part in blocks], made.components, 1)
        numbers = torch.cat(blocks, 1)
        body.whiten(numbers[: made.phantoms])
        of_phantoms = body.features(numbers)
        start = nn.Linear(made.components, 1)
        nn.init.zeros_(start.weight)
        nn.init.zeros_(start.bias)
        if made.taught:
            teach_head(start, of_phantoms, self.malignant)
        crops = torch.cat(made.blocks(self.crops, self.channels), 1)
        return body.features(crops), of_phantoms, start


def read_numbers(crops: CropsManifest, phantoms: CropsManifest, folder: Path) -> Numbers:
    """Computes them, or finds them in a folder."""
    net = EveryNumber(PUBLIC_NETWORK, STAGES, 224)
    load_weights(net, PACKAGE)
    size = settings()["data"]["init_args"]["image_size"]
    train = phantoms.require_classes("train")

    def numbers(manifest: CropsManifest, rows: Sequence[int]) -> Tensor:
        how = {"folder": folder, "image_size": size, "augment": "none"}
        return cached_features(net, manifest, rows, **how)[:, 0]

    return Numbers(
        crops=numbers(crops, range(len(crops.crops))),
        phantoms=numbers(phantoms, train),
        malignant=torch.tensor([phantoms.crops[row].malignant for row in train]),
        channels=dict(zip(STAGES, net.public.channels, strict=True)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """One choice of what the recipe leaves open.

    Attributes:
        components: Features of the head.
        score_noise: Accepted noise of a score, in logits.
        clipping: Clipping norm, as a share of the length of a crop's features.
    """

    components: int = 64
    score_noise: float = 0.6
    clipping: float = 0.5

    @property
    def recipe(self) -> dict[str, float]:
        """Arguments of the private model."""
        norm = 2 * self.clipping * undecided_norm(self.components)
        return {"score_noise": self.score_noise, "clipping_norm": norm}


CHOICES = [
    Constants(components=components, score_noise=noise, clipping=clipping)
    for components in (32, 48, 64, 96)
    for noise in (0.3, 0.6, 1.2)
    for clipping in (0.35, 0.5, 0.75)
]


def by_the_recipe(manifest: CropsManifest, numbers: Numbers, made: Ingredients) -> Train:
    """Fits of the shipped recipe on features of some ingredients."""
    features, _, start = numbers.features(made)

    def train(epsilon: float, rows: Sequence[int]) -> Scores:
        layer = private_head(manifest, features, rows, start=start, epsilon=epsilon)
        return scores_of(layer, features)

    return train


class Choices:
    """Fits whose constants are chosen in one way or another.

    Args:
        manifest: Table of the crops.
        numbers: Of crops and phantoms.
    """

    def __init__(self, manifest: CropsManifest, numbers: Numbers) -> None:
        self.manifest, self.numbers = manifest, numbers
        self._features = {
            components: numbers.features(Ingredients(components=components))
            for components in {constants.components for constants in CHOICES}
        }

    def fixed(self, constants: Constants) -> Train:
        """Fits with these constants."""
        features, _, start = self._features[constants.components]

        def train(epsilon: float, rows: Sequence[int]) -> Scores:
            layer = private_head(
                self.manifest, features, rows, start=start, epsilon=epsilon, **constants.recipe
            )
            return scores_of(layer, features)

        return train

    def drawn(self, epsilon: float, rows: Sequence[int]) -> Scores:
        """A fit with constants drawn at random."""
        return self.fixed(secrets.choice(CHOICES))(epsilon, rows)

    def accounted(self, epsilon: float, rows: Sequence[int]) -> Scores:
        """The best of a random number of fits, by a noisy score on the patients that train."""
        plan = SelectionPlan(mean=MEAN_FITS, score_noise_multiplier=SCORE_NOISE[epsilon])
        crops = [self.manifest.crops[row] for row in rows]
        _, patients = np.unique([crop.patient for crop in crops], return_inverse=True)
        malignant = np.array([crop.malignant for crop in crops], int)
        scale = SCORE_NOISE[epsilon] / len(set(patients.tolist()))

        def noisy(scores: Scores) -> float:
            noise = secrets.SystemRandom().gauss(0, scale)
            return concordance(patients, malignant, scores(rows)) + noise

        one = epsilon_of_one(plan, epsilon)
        return max((self.drawn(one, rows) for _ in range(plan.draw())), key=noisy)

    def without_choice(self, epsilon: float, rows: Sequence[int]) -> Scores:
        """A fit with the constants of the recipe, at the noise of one fit of a selection."""
        plan = SelectionPlan(mean=MEAN_FITS, score_noise_multiplier=SCORE_NOISE[epsilon])
        return self.fixed(Constants())(epsilon_of_one(plan, epsilon), rows)

    def best_for_phantoms(self, phantoms: CropsManifest, epsilons: Sequence[float]) -> Constants:
        """Those whose private heads, taught on half of the phantoms, tell the others best."""
        rows = phantoms.require_classes("train")
        table = replace(phantoms, crops=tuple(phantoms.crops[row] for row in rows))
        order = np.random.default_rng(0).permutation(len(rows)).tolist()
        half, others = order[::2], order[1::2]
        malignant = self.numbers.malignant[others].numpy()

        def area(constants: Constants) -> float:
            _, features, start = self.numbers.features(
                Ingredients(components=constants.components, taught=False)
            )
            heads = [
                private_head(
                    table, features, half, start=start, epsilon=epsilon, **constants.recipe
                )
                for epsilon in epsilons
            ]
            found = [scores_of(layer, features)(others) for layer in heads]
            return float(np.mean([auroc(malignant, scores) for scores in found]))

        areas = [area(constants) for constants in watched(CHOICES, "Choosing on phantoms")]
        return CHOICES[int(np.argmax(areas))]


@cache
def epsilon_of_one(plan: SelectionPlan, epsilon: float) -> float:
    """Epsilon of each fit of a selection whose choice has the epsilon given."""
    delta, steps = settings()["model"]["init_args"]["delta"], settings()["trainer"]["max_steps"]
    rate = settings()["data"]["init_args"]["rate"]

    def one(log_noise: float) -> Mechanism:
        return Mechanism(noise_multiplier=math.exp(log_noise), sampling_rate=rate, steps=steps)

    def excess(log_noise: float) -> float:
        return compose([plan.of([one(log_noise)])]).epsilon(delta) - epsilon

    return compose([one(brentq(excess, math.log(0.3), math.log(300), xtol=1e-4))]).epsilon(delta)


def table(rows: Mapping[str, Sequence[Fit]], epsilons: Sequence[float]) -> str:
    """Markdown: AUROC over folds / on val of each row, and its difference to the first row."""
    first = next(iter(rows.values()))
    wide = [f"{epsilon:g}" for epsilon in epsilons]
    lines = [
        f"| | {' | '.join(wide)} | {' | '.join(f'difference at {one}' for one in wide)} |",
        f"|{' --- |' * (1 + 2 * len(wide))}",
    ]
    for name, fits in rows.items():
        both = [(list(areas_of(fits, e).values()), on_val(fits, e)[:, 0]) for e in epsilons]
        areas = [f"{np.mean(over_folds):.3f} / {val.mean():.3f}" for over_folds, val in both]
        found = [difference(fits, first, epsilon)[:2] for epsilon in epsilons]
        apart = [f"{mean:+.3f} ({error:.3f})" for mean, error in found]
        cells = [name, *areas, *(apart if fits is not first else [""] * len(apart))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(*, crops: str, phantoms: str, out: str, folds: Folds = ALL) -> None:
    """Fits, scores, and prints both tables.

    Args:
        crops: Folder of prepared crops with the splits train and val.
        phantoms: Folder of phantoms.
        out: Folder of numbers and fits; private.
        folds: Which fits make a row. The rows of choices know the epsilons 1, 6 and 60.
    """
    quiet()
    folder = Path(out)
    inputs = {"data": Path(crops), "phantoms": Path(phantoms)}
    with run_folder(out, command="ingredients", config=asdict(folds), inputs=inputs):
        manifest, free = CropsManifest.read(crops), CropsManifest.read(phantoms)
        numbers = read_numbers(manifest, free, folder / "features")

        def fits_of(name: str, train: Train) -> list[Fit]:
            path = folder / "fits" / f"{name.replace(' ', '_').replace(',', '')}.csv"
            return crossvalidated(path, manifest, train, folds)

        rows = {
            name: fits_of(name, by_the_recipe(manifest, numbers, made))
            for name, made in ROWS.items()
        }
        print(table(rows, folds.epsilons))
        choices = Choices(manifest, numbers)
        best = choices.best_for_phantoms(free, folds.epsilons)
        print(f"Best for the label of phantoms: {best}")
        ways: dict[str, Train] = {
            "one combination at random": choices.drawn,
            "best for the label of phantoms": choices.fixed(best),
            "the recipe at the noise of one fit of a selection": choices.without_choice,
            "accounted selection": choices.accounted,
        }
        chosen = {"the recipe": rows["the default"]}
        chosen |= {name: fits_of(name, train) for name, train in ways.items()}
        print(table(chosen, folds.epsilons))


if __name__ == "__main__":
    auto_cli(main)
