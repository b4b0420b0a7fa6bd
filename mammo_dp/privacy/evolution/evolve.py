# SPDX-License-Identifier: Apache-2.0
"""``evolve``: synthetic crops by Private Evolution, chosen by noisy votes of patients."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifier.module import CropClassifier
from classifier.released import load_classifier
from classifier.unit_features import unit_features
from data_prep.crop_image import save_crop_image, whole_plane
from data_prep.descriptors.voting import Floats, describe
from data_prep.fingerprints import fingerprint
from data_prep.manifest import Crop, CropsManifest, Split
from data_prep.progress import watched
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.population import (
    CLASSES,
    Candidates,
    Describe,
    Electorate,
    Evolution,
    with_noise,
)
from mammo_dp.privacy.evolution.rounds import IMAGES, ROUNDS, Round, RoundsAccount, origin
from mammo_dp.privacy.evolution.simulators import GanSimulator, Genome, PhantomSimulator, Simulator
from mammo_dp.privacy.statement.ledger import Access
from mammo_dp.privacy.statement.lineage import collect_parents, require_bound
from mammo_dp.privacy.training.sampling import new_key

_FULL_SCALE = 65535  # of 16-bit grey
_AT_ONCE = 64  # candidates that are rendered in one go


def evolve(
    crops: str,
    out: str,
    *,
    per_class: int = 1000,
    checkpoint: str | None = None,
    features: str | None = None,
    split: Split = "train",
    public_size: int | None = None,
    target_epsilon: float | None = None,
    target_advantage: float | None = None,
    target_tpr: float | None = None,
    target_fpr: float = 0.01,
    target_reconstruction: float | None = None,
    kappa: float | None = None,
    delta: float = 1e-4,
    candidates: int = 48,
    rounds: int = 6,
    threshold: float = 1.0,
    first_degree: float = 0.8,
    last_degree: float = 0.4,
    allow_unbounded: bool = False,
    batch_size: int = 64,
    seed: int = 0,
) -> None:
    """Private Evolution: crops that patients' noisy votes chose, without training.

    Each round, every patient votes for the candidates nearest to the own crops, Gaussian noise goes
    on the counts, and winners are varied into the next round's candidates. The noise follows from
    the rounds and from exactly one target; the statement adds what the simulator's own makers saw.

    Nearest is meant in a space that no patient has shaped: 24 fixed numbers about a crop, or the
    features of a network, such as one of public images, see ``features``. The latter brings crops
    nearer to the patients' in these features, and not in those of another network.

    A killed run resumes with its account: a round is recorded before its noise is drawn.

    The defaults were chosen on phantoms in the roles of 578 patients, with other brightness,
    contrast and size than the simulator's. There the energy distance of descriptions fell from 0.29
    to 0.03 at epsilon 4 per patient and to 0.05 at epsilon 1 (delta 1e-4, zero-out, by PLD);
    24 candidates or 0.6 as first degree left twice as much.

    Args:
        crops: Folder of the patients' crops, both classes in ``split``.
        out: Folder to write, new or of the same command.
        per_class: Released crops of each class, variations of the last winners, ``>= 1``; free.
        checkpoint: Of an MCGAN that draws the candidates, best of a disjoint cohort; phantoms if
            not given.
        features: Checkpoint of a crop classifier whose body gives the space of the votes, best of
            phantoms, such as a fit of configs/classifier/pretrain.yaml: what its head sees, brought
            to length 1. 24 fixed numbers if not given.
        split: Whose patients vote.
        public_size: Declared number of patients, > 0, fixed without a look at the data; the
            statement then holds for adding or removing a patient. Without it their number is
            public, and a neighbour has one patient's data blanked.
        target_epsilon: Epsilon per patient at ``delta``, > 0.
        target_advantage: Largest true minus false positive rate of a test whether a patient voted,
            in ``(0, 1)``.
        target_tpr: Largest probability to recognise a patient who voted at a false positive rate of
            ``target_fpr``, in ``(target_fpr, 1)``.
        target_fpr: False positive rate that ``target_tpr`` refers to, in ``(0, 1)``.
        target_reconstruction: Largest probability to reconstruct a patient who is guessed with
            probability ``kappa`` without the release, in ``(kappa, 1)``.
        kappa: Probability of the guess that ``target_reconstruction`` refers to, in ``(0, 1)``.
        delta: Probability that the bound of epsilon fails, below 1 / patients.
        candidates: Per class and round, ``>= 1``. More of them splits the votes further.
        rounds: Times that the patients vote, ``>= 1``. The noise grows with their square root.
        threshold: Votes that count as none, in standard deviations of the noise, ``>= 0``.
        first_degree: Of the variations after the first round, in ``(0, 1]``; 1 is a fresh draw.
        last_degree: Of the released crops, in ``(0, first_degree]``; less is nearer to the winners.
        allow_unbounded: Whether to take a generator that saw these patients without DP; the
            statement then says that epsilon is infinite.
        batch_size: Crops rendered at once, ``>= 1``; a matter of speed and memory.
        seed: Of the simulator, ``>= 0``, public. The noise comes from the system's entropy.
    """
    if per_class < 1 or batch_size < 1:
        raise PrivacyError(f"{per_class=}, {batch_size=}. Give 1 or more.")
    budget = PrivacyBudget(
        delta=delta,
        epsilon=target_epsilon,
        advantage=target_advantage,
        tpr=target_tpr,
        fpr=target_fpr,
        reconstruction=target_reconstruction,
        kappa=kappa,
    )
    manifest = CropsManifest.read(crops)
    simulator = _simulator(checkpoint, manifest)
    evolution = Evolution(
        candidates=candidates,
        rounds=rounds,
        threshold=threshold,
        first_degree=first_degree,
        last_degree=last_degree,
        seed=seed,
    )
    space = describe if features is None else FeatureSpace(load_classifier(features))
    electorate = Electorate.of_manifest(manifest, split, public_size=public_size, described=space)
    noise = budget.noise_multiplier(electorate.sampling, steps=rounds)
    planned = Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=rounds)
    if not allow_unbounded:
        require_bound(
            collect_parents([crops, *filter(None, [checkpoint, features])]),
            Access.of_training(
                "Private Evolution", manifest, split, mechanism=planned, public_size=public_size
            ),
            delta,
        )
    account = RoundsAccount(folder=Path(out), planned=planned)
    account.require_rounds_of_crops()
    vote(evolution, simulator, space, electorate, account)
    write_crops(evolution, simulator, account, per_class=per_class, batch_size=batch_size)


class FeatureSpace:
    """What the head of a classifier sees of crops, at length 1, as the space of the votes.

    Args:
        model: Whose body gives the features.
    """

    def __init__(self, model: CropClassifier) -> None:
        self.model = model

    def __call__(self, images: Floats) -> Floats:
        """Features of images in ``[0, 1]``, as of the 16-bit crops that they are written as."""
        pixels = np.rint(images.astype(np.float64) * _FULL_SCALE).astype(np.uint16)
        return unit_features(self.model, pixels).astype(np.float32)


class Described:
    """Descriptions of candidates, each computed once: winners stand again in the next round.

    Args:
        simulator: Draws the candidates.
        described: The space of the votes.
    """

    def __init__(self, simulator: Simulator, described: Describe) -> None:
        self._simulator, self._described = simulator, described
        self._known: dict[Genome, Floats] = {}

    def __call__(self, candidates: Candidates) -> Floats:
        """Descriptions, shape ``(2, K, d)``, benign first."""
        genomes = [genome for of_class in candidates for genome in of_class]
        new = [genome for genome in dict.fromkeys(genomes) if genome not in self._known]
        found = {genome: self._known[genome] for genome in genomes if genome in self._known}
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            described = self._described(self._simulator.render(part))
            found |= dict(zip(part, described, strict=True))
        self._known = found
        stacked = np.stack([found[genome] for genome in genomes])
        return stacked.reshape(CLASSES, -1, stacked.shape[-1])


def vote(
    evolution: Evolution,
    simulator: Simulator,
    space: Describe,
    electorate: Electorate,
    account: RoundsAccount,
) -> None:
    """Runs the rounds that are left.

    Args:
        evolution: The course.
        simulator: Draws the candidates.
        space: Describes crops; that of the electorate.
        electorate: Who votes.
        account: Of the run folder; may hold rounds of a process that died.
    """
    noise, key = account.planned.noise_multiplier, new_key()
    described = Described(simulator, space)
    for _ in watched(range(account.recorded, account.planned.steps), "Voting"):
        candidates = _candidates(evolution, account)
        votes = electorate.votes(described(candidates))
        step = account.record()
        noisy = with_noise(votes, noise_multiplier=noise, key=key, step=step)
        account.save(step, Round(candidates=candidates, votes=noisy))


def _candidates(evolution: Evolution, account: RoundsAccount) -> Candidates:
    """What is voted on next."""
    last = account.last()
    if last is None:
        return evolution.first()
    step, result = last
    weights = evolution.weights(result.votes, account.planned.noise_multiplier)
    return evolution.following(result.candidates, weights, after=step)


def _simulator(checkpoint: str | None, manifest: CropsManifest) -> Simulator:
    if checkpoint is not None:
        return GanSimulator.read(checkpoint)
    return PhantomSimulator(size=manifest.image(0).shape[0])


def write_crops(
    evolution: Evolution,
    simulator: Simulator,
    account: RoundsAccount,
    *,
    per_class: int,
    batch_size: int,
) -> CropsManifest:
    """Writes as many benign as malignant crops, and last their manifest.

    Crop ``n`` depends on the last round, the seed and ``n``. All are made again after a kill, so
    that what lies in the folder is nowhere taken for a crop because it is there.

    Args:
        evolution: The course.
        simulator: Draws the crops.
        account: Of the run folder, all rounds spent.
        per_class: Crops of each class, ``>= 1``.
        batch_size: Crops rendered at once, ``>= 1``.

    Raises:
        PrivacyError: If no round has a result, or the folder holds other images than these crops.
    """
    name, folder = origin(account.folder), account.folder
    _, result = account.last() or (0, None)
    assert result is not None  # origin has found it
    weights = evolution.weights(result.votes, account.planned.noise_multiplier)
    rows: list[Crop] = []
    for start in watched(range(0, CLASSES * per_class, batch_size), "Writing crops"):
        numbers = range(start, min(start + batch_size, CLASSES * per_class))
        genomes = [evolution.released(result.candidates, weights, number) for number in numbers]
        images = simulator.render(genomes)
        for number, genome, image in zip(numbers, genomes, images, strict=True):
            malignant = bool(number % CLASSES)
            file = f"{IMAGES}/{number:06d}_{'malignant' if malignant else 'benign'}.png"
            pixels = np.rint(image.astype(np.float64) * _FULL_SCALE).astype(np.uint16)
            rows.append(
                Crop(
                    file=file,
                    patient_id="",
                    lesion_id="1",
                    image_id=f"{number:06d}",
                    malignant=malignant,
                    split="train",
                    origin=name,
                    label_source="generator",
                    crop_rule=simulator.crop_rule,
                    sha256=_saved(folder / file, pixels),
                    fingerprint=fingerprint(pixels),
                    attributes=simulator.attributes(genome),
                )
            )
    written = {Path(row.file).name for row in rows}
    if others := sorted({path.name for path in (folder / IMAGES).iterdir()} - written):
        raise PrivacyError(
            f"{folder / IMAGES}: {others[0]} is no crop of this run, and whoever gets the folder "
            "would take it for one. Remove it."
        )
    return CropsManifest.write(folder, rows)


def _saved(path: Path, pixels: NDArray[np.uint16]) -> str:
    """Writes a crop, or finds it as an earlier start wrote it; gives the hash of its pixels.

    Raises:
        PrivacyError: If another image lies there: crops that may have been seen came from other
            rounds than those that are accounted for, or are nobody's here.
    """
    if path.exists() and _is_another(path, pixels):
        raise PrivacyError(
            f"{path}: is not the crop that follows from the last round. Somebody exchanged it or "
            f"{ROUNDS}/, or another version draws otherwise. Restore it, resume with the version "
            "that began, or take a new folder, whose rounds come on top."
        )
    return save_crop_image(path, pixels)  # anew: equal pixels may have other words beside them


def _is_another(path: Path, pixels: NDArray[np.uint16]) -> bool:
    """Whether a file shows another crop; a grey value may be rounded otherwise elsewhere."""
    there = whole_plane(path)  # none of half a file, after a power cut
    if there is None:
        return False
    return there.shape != pixels.shape or np.abs(there.astype(int) - pixels).max() > 1
