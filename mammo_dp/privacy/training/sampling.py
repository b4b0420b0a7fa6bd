# SPDX-License-Identifier: Apache-2.0
"""Poisson sampling of units, and the random numbers behind sampling and noise.

Every such number comes from :func:`draw`: a stream cipher keyed by 256 bits, by the step and by the
stream. Draws therefore do not depend on how far a loader reads ahead, and a run that resumes after
a kill continues at the right step under a fresh key.
"""

import hmac
import math
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from randomgen import AESCounter
from torch.utils.data import Sampler

from data_prep.copies import copied_across
from data_prep.manifest import FILE_NAME, CropsManifest, Split, Unit
from mammo_dp.privacy.errors import PrivacyError

if TYPE_CHECKING:  # lightning takes seconds to import
    from data_prep.datamodule import CropBatch

# In statements: where draws and noise come from.
FRESH_KEY = (
    "the operating system's entropy, a fresh 256-bit key at each start, and AES counter mode"
)
UNITS, NOISE, VIEWS = 0, 1, 2  # streams of one step
_KEY_BITS = 256
_WORD = 8  # bytes of each number of a stream's name
_DRAWS = 4  # normal numbers behind each value of noise
_GRID_BITS = 20  # the grid of noisy values is so much finer than the noise
_SHOWN = 5  # pairs of rows that a message names
_PLURAL = {"patient": "patients", "crop": "crops"}


_drawn: set[str] = set()  # names of keys of new_key that no fit has taken yet


if hasattr(os, "register_at_fork"):  # else two forked fits would take one key
    os.register_at_fork(after_in_child=_drawn.clear)


def new_key() -> int:
    """A fresh 256-bit key from the entropy of the operating system."""
    key = secrets.randbits(_KEY_BITS)
    _drawn.add(key_name(key))
    return key


def take_if_fresh(key: int) -> bool:
    """Takes a key for one fit.

    Returns:
        Whether :func:`new_key` gave it to this process, so that nobody chose or kept it, and no
        other fit took it before.
    """
    if (name := key_name(key)) not in _drawn:
        return False
    _drawn.remove(name)
    return True


def draw(key: int, step: int, *stream: int) -> np.random.Generator:
    """Generator of one stream of one step.

    AES-128 in counter mode, all 10 rounds: a security of 128 bits. Each stream has a cipher key and
    a first counter of its own, the two halves of the HMAC-SHA-256 of its name under ``key``.
    Whoever sees any part of the output can neither tell it from random bits nor compute the rest,
    or that of other streams and steps. Generators made for statistics promise neither: the state
    follows from a few outputs. torch's CPU generator reduces each seed to 32 bits, which can be
    tried out.

    ChaCha20, which ``randomgen`` has as well, takes twice the time.

    Args:
        key: 256 bits, see :func:`new_key`.
        step: Accounted steps before this one, >= 0.
        stream: ``UNITS``; ``NOISE``, and the number of a parameter; or ``VIEWS`` and a row. Each
            number is >= 0 and below 2^64.

    Raises:
        ValueError: For a number outside its range.
    """
    name = (step, *stream)
    if not 0 <= key < 2**_KEY_BITS or not all(0 <= word < 2 ** (8 * _WORD) for word in name):
        raise ValueError(f"draw: step and stream {name}, or the key, are negative or too large.")
    message = b"".join(int(word).to_bytes(_WORD, "little") for word in name)  # one per name
    digest = hmac.digest(key.to_bytes(_KEY_BITS // 8, "little"), message, "sha256")
    cipher_key, counter = (int.from_bytes(half, "little") for half in (digest[:16], digest[16:]))
    return np.random.Generator(AESCounter(key=cipher_key, counter=counter))


def key_name(key: int) -> str:
    """Tells one key from another without giving it away, in hexadecimal."""
    return hmac.digest(key.to_bytes(_KEY_BITS // 8, "little"), b"name", "sha256").hex()


def gaussian(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normal noise, each value the scaled sum of four draws.

    A sampler reaches only some of the floating-point numbers. An attacker who knows all but one
    patient's part of a noisy sum subtracts it and asks whether the rest can be noise. For one draw
    that is easily answered; a sum of four is reached by about 2^190 combinations of draws.

    Args:
        generator: See :func:`draw`.
        shape: Of the result.

    Source: Holohan and Braghin 2021, arXiv 2107.10138; n = 2 there.
    """
    total = generator.standard_normal(shape)
    for _ in range(_DRAWS - 1):
        total += generator.standard_normal(shape)
    total /= math.sqrt(_DRAWS)
    return total


def noisy(
    exact: NDArray[np.floating], scale: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Values with Gaussian noise, on a grid that does not depend on them.

    All noise of this package is added here. Which floating-point numbers a sum can take depends on
    the size of its parts, and so reveals something of them. Hence noise is drawn and added in
    float64, and the sum is rounded to multiples of about ``scale / 2^20``, the same for all data:
    for sums as large as the noise, 2^33 numbers of float64 become one. Rounding is post-processing;
    its error is a millionth of the noise.

    What this does not cover: ``exact`` is what a float32 computation made of the data. One unit
    changes the rounding errors of the others as well, by about 1e-7 of the sum, which comes on top
    of its clipping norm; see ``mammo_dp.privacy.accounting.budget.SMALLEST_NOISE``.

    Args:
        exact: Values that depend on private data, float32 or float64, of any shape.
        scale: Standard deviation of the noise, >= 0; 0 adds none.
        generator: See :func:`draw`.

    Returns:
        Shape of ``exact``, float64.
    """
    if scale == 0:
        return exact.astype(np.float64)
    grid = 2.0 ** (math.floor(math.log2(scale)) - _GRID_BITS)  # a power of two: products are exact
    result = gaussian(generator, exact.shape)
    result *= scale / grid
    result += np.multiply(exact, 1 / grid, dtype=np.float64)
    np.rint(result, out=result)
    result *= grid
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonSampling:
    """Each unit joins each step independently with probability ``rate``.

    Attributes:
        unit: What is drawn, and what the guarantee protects.
        rows_of: Rows of each unit; no row belongs to two units.
        rate: Probability that a unit joins a step, in ``(0, 1]``.
        public_size: Declared number of units, > 0, which takes the place of the true one in all
            that may be known; ``None`` if the true number is public.
    """

    unit: Unit
    rows_of: tuple[tuple[int, ...], ...]
    rate: float
    public_size: int | None = None

    def __post_init__(self) -> None:
        """Refuses what could not be accounted.

        Raises:
            PrivacyError: For a rate outside ``(0, 1]``, no unit, a row of two units, or a public
                size below 1.
        """
        if self.unit not in ("patient", "crop"):
            raise PrivacyError(f"sampling: unit is {self.unit!r}. Choose 'patient' or 'crop'.")
        if not 0 < self.rate <= 1:
            raise PrivacyError(
                f"sampling: rate={self.rate} is no probability. Give the probability that a "
                f"{self.unit} joins a step, above 0 and at most 1."
            )
        if self.public_size is not None and self.public_size < 1:
            raise PrivacyError(
                f"sampling: public_size={self.public_size} is no number of {self.unit}s. Give one "
                "above 0, such as the planned size of the cohort."
            )
        rows = [row for unit in self.rows_of for row in unit]
        if not self.rows_of or not all(self.rows_of):
            raise PrivacyError(f"sampling: a {self.unit} without crops, or none at all.")
        if len(set(rows)) < len(rows):
            raise PrivacyError(
                f"sampling: a crop belongs to two units. Group the crops so that each {self.unit} "
                "has its own."
            )

    @classmethod
    def from_manifest(
        cls,
        manifest: CropsManifest,
        split: Split,
        *,
        unit: Unit = "patient",
        rate: float,
        public_size: int | None = None,
    ) -> Self:
        """Sampling over the units of one split.

        Args:
            manifest: Table of crops.
            split: Split that is trained on.
            unit: ``"patient"`` draws all crops of a patient together, ``"crop"`` each alone.
            rate: Probability that a unit joins a step, in ``(0, 1]``.
            public_size: Declared number of units, > 0; ``None`` if the true number is public.

        Raises:
            PrivacyError: If two units hold the same crop, exactly or nearly: whoever is on it would
                be drawn and clipped twice, and accounted once.
        """
        units = manifest.units(manifest.rows(split), unit)
        if copies := copied_across(manifest, units):
            shown = ", ".join(f"{a + 2} and {b + 2}" for a, b in copies[:_SHOWN])
            more = " and others" if len(copies) > _SHOWN else ""
            raise PrivacyError(
                f"{manifest.folder / FILE_NAME}, rows {shown}{more}: one crop, as it is or saved "
                f"in another way, stands in two {_PLURAL[unit]}, so its patient would be drawn and "
                "clipped twice. Remove one row of each pair"
                + (", or give both the same origin and patient_id." if unit == "patient" else ".")
            )
        return cls(unit=unit, rows_of=units, rate=rate, public_size=public_size)

    def require_units_of(self, manifest: CropsManifest, split: Split) -> None:
        """Checks that the units are those of a split, all of them and whole.

        Args:
            manifest: Table of crops, which statements speak about.
            split: Split that is trained on.

        Raises:
            PrivacyError: If a crop of another split is drawn, or a unit of the table is divided,
                joined to another or left out.
        """
        stated = manifest.units(manifest.rows(split), self.unit)
        if {*map(frozenset, self.rows_of)} != {*map(frozenset, stated)}:
            raise PrivacyError(
                f"sampling: its {_PLURAL[self.unit]} are not those of split {split!r} of "
                f"{manifest.folder / FILE_NAME}, which a statement would speak about. Use "
                "PoissonSampling.from_manifest; to train on other crops, prepare a folder of them."
            )

    @property
    def units(self) -> int:
        """True number of units: to draw from, and for nothing that is released."""
        return len(self.rows_of)

    @property
    def stated_units(self) -> int:
        """Number of units that may be known: the declared one, else the true one."""
        return self.units if self.public_size is None else self.public_size

    @property
    def expected_units(self) -> float:
        """Divisor of the noisy sum: units that join a step on average, if there are as stated."""
        return self.rate * self.stated_units

    def sample(self, key: int, step: int) -> NDArray[np.int64]:
        """Positions of the units that join a step; may be empty."""
        return np.flatnonzero(draw(key, step, UNITS).random(self.units) < self.rate)


class PoissonUnitSampler(Sampler[list[int]]):
    """Batch sampler: one list of rows per step, empty lists included.

    Several ranks share each draw: all draw alike, and each takes every ``world_size``-th of the
    drawn units. Separate draws could take a unit more than once in a step.

    Args:
        sampling: Units and rate.
        steps: Steps of the whole run, the length of the sampler.
        key: 256 bits, see :func:`new_key`.
        done: Returns the accounted steps; asked when iteration starts, so that a resumed run draws
            the steps that are left.
        rank: Which share this process takes, in ``[0, world_size)``.
        world_size: Processes that share a draw, > 0.
    """

    def __init__(
        self,
        sampling: PoissonSampling,
        *,
        steps: int,
        key: int,
        done: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sampling = sampling
        self.steps = steps
        self.key = key
        self.done = done
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        rows_of = self.sampling.rows_of
        for step in range(self.done(), self.steps):
            drawn = self.sampling.sample(self.key, step)[self.rank :: self.world_size]
            yield [row for unit in drawn.tolist() for row in rows_of[unit]]


class DrawCheck:
    """Compares batches with the draws that are accounted, made again from key and step.

    The account holds for whole units that were drawn, each clipped once. A loader that returns
    other rows, or numbers the units in another way, breaks it without a trace in the statement.

    Args:
        sampling: What is accounted.
        key: Key of draws and noise.
        rank: Share of each draw that this process takes, in ``[0, world_size)``.
        world_size: Processes that share a draw, > 0.
    """

    def __init__(
        self, sampling: PoissonSampling, *, key: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.sampling = sampling
        self.key = key
        self.rank = rank
        self.world_size = world_size
        self._sizes = np.array([len(rows) for rows in sampling.rows_of])
        rows = np.array([row for rows in sampling.rows_of for row in rows])
        self._owner = np.full(rows.max() + 1, -1)  # unit of each row
        self._owner[rows] = np.repeat(np.arange(sampling.units), self._sizes)

    def __call__(self, batch: "CropBatch", step: int) -> None:
        """Checks one batch.

        Args:
            batch: What the data module gave for the step, in any order of rows.
            step: Accounted steps before this one, >= 0.

        Raises:
            PrivacyError: If its columns differ in length, its rows are not those that were drawn,
                or its units do not group them as the sampling does.
        """
        lengths = [len(column) for column in batch]
        if len(set(lengths)) > 1:
            raise _refusal(step, f"its columns have lengths {lengths}")
        rows, names = batch.row.cpu().numpy(), batch.unit.cpu().numpy()
        drawn = self.sampling.sample(self.key, step)[self.rank :: self.world_size]
        is_drawn = np.zeros(self.sampling.units + 1, bool)  # the last is for owner -1
        is_drawn[drawn] = True
        known = (rows >= 0) & (rows < len(self._owner))
        owners = self._owner[np.where(known, rows, 0)]
        wanted = known & is_drawn[owners]
        if (
            len(rows) != self._sizes[drawn].sum()
            or not wanted.all()
            or not np.diff(np.sort(rows)).all()
        ):
            distinct = len(np.unique(rows[wanted]))
            raise _refusal(
                step,
                f"{np.count_nonzero(~wanted)} of its rows were not drawn, "
                f"{self._sizes[drawn].sum() - distinct} that were drawn are missing, "
                f"{np.count_nonzero(wanted) - distinct} are repeated",
            )
        name_of = np.empty(self.sampling.units, names.dtype)
        name_of[owners] = names
        if (name_of[owners] != names).any() or not np.diff(np.sort(name_of[drawn])).all():
            raise _refusal(
                step,
                f"its units do not group the crops of the {len(drawn)} drawn "
                f"{self.sampling.unit}s, so that one is clipped several times or several share a "
                "clip",
            )


def _refusal(step: int, what: str) -> PrivacyError:
    return PrivacyError(
        f"batch of step {step}: is not what was drawn and is accounted: {what}. Return exactly the "
        "rows that the sampler asks for, numbered by unit as mammo_dp.DPCropsDataModule does."
    )
