import functools
import hashlib
import hmac
import itertools
import operator
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.sampling import (
    NOISE,
    UNITS,
    VIEWS,
    PoissonSampling,
    PoissonUnitSampler,
    draw,
    gaussian,
    new_key,
    noisy,
)


def sampling(units: int = 5, rate: float = 0.3) -> PoissonSampling:
    rows = tuple((2 * unit, 2 * unit + 1) for unit in range(units))
    return PoissonSampling(unit="patient", rows_of=rows, rate=rate)


def test_patients_come_with_all_their_crops(cohort: CropsManifest) -> None:
    drawn = PoissonSampling.from_manifest(cohort, "train", rate=1.0)
    assert drawn.units == 4
    assert sorted(row for rows in drawn.rows_of for row in rows) == cohort.rows("train")
    for rows in drawn.rows_of:
        assert len({cohort.crops[row].patient_id for row in rows}) == 1


def test_each_crop_is_a_unit_of_its_own_if_asked_for(cohort: CropsManifest) -> None:
    drawn = PoissonSampling.from_manifest(cohort, "train", unit="crop", rate=0.5)
    assert drawn.units == len(cohort.rows("train"))


def test_every_unit_is_included_at_the_stated_rate_and_empty_draws_occur() -> None:
    sampler = PoissonUnitSampler(sampling(rate=0.3), steps=4000, key=7, done=lambda: 0)
    draws = list(sampler)
    assert len(draws) == len(sampler) == 4000
    for unit in range(5):
        joined = sum(2 * unit in rows for rows in draws)
        assert joined == sum(2 * unit + 1 in rows for rows in draws)
        assert binomtest(joined, 4000, 0.3).pvalue > 1e-3
        assert binomtest(joined, 4000, 0.36).pvalue < 1e-3
    empty = sum(not rows for rows in draws)
    assert binomtest(empty, 4000, 0.7**5).pvalue > 1e-3


def test_units_join_independently() -> None:
    drawn = np.zeros((4000, 5))
    for step in range(4000):
        drawn[step, sampling().sample(3, step)] = 1
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.08
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.08


def test_a_resumed_sampler_yields_the_steps_that_are_left() -> None:
    done = 0
    sampler = PoissonUnitSampler(sampling(), steps=20, key=7, done=lambda: done)
    whole = list(sampler)
    done = 12
    assert list(sampler) == whole[12:]
    assert len(sampler) == 20


def rows_of_ranks(world_size: int, keys: list[int]) -> list[list[list[int]]]:
    return [
        list(
            PoissonUnitSampler(
                sampling(units=7),
                steps=2000,
                key=keys[rank],
                done=lambda: 0,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_ranks_share_the_draw_of_one_process(world_size: int) -> None:
    (whole,) = rows_of_ranks(1, [7])
    shares = rows_of_ranks(world_size, [7] * world_size)
    for drawn, *parts in zip(whole, *shares, strict=True):
        assert sorted(drawn) == sorted(row for part in parts for row in part)
        assert max(map(len, parts)) - min(map(len, parts)) <= 2  # one patient of two crops
    for rows in shares:
        assert any(not row for row in rows)


def test_a_draw_on_each_rank_would_take_units_twice_and_at_another_rate() -> None:
    def inclusions(keys: list[int]) -> tuple[int, int]:
        counts = np.array(
            [
                [sum(2 * unit in part for part in parts) for unit in range(7)]
                for parts in zip(*rows_of_ranks(2, keys), strict=True)
            ]
        )
        return int(counts.max()), int((counts > 0).sum())

    most, joined = inclusions([7, 7])
    assert most == 1
    assert binomtest(joined, 2000 * 7, 0.3).pvalue > 1e-3
    most, joined = inclusions([7, 8])
    assert most == 2
    assert binomtest(joined, 2000 * 7, 0.3).pvalue < 1e-3


def test_streams_steps_and_keys_are_apart() -> None:
    numbers = {
        float(draw(key, step, stream).random())
        for key in (1, 2, 1 + 2**64, 1 + 2**32)
        for step in (0, 1)
        for stream in (UNITS, NOISE)
    }
    assert len(numbers) == 16


def test_keys_are_fresh_and_long() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert 2**240 < max(keys) < 2**256


def times(a: int, b: int) -> int:
    """Product in the field of AES."""
    product = 0
    while b:
        product ^= a * (b & 1)
        a = (a << 1) ^ (0x11B * (a >> 7))
        b >>= 1
    return product


def boxed(byte: int) -> int:
    """The S-box of AES: the inverse, then an affine map."""
    inverse = next((x for x in range(256) if times(byte, x) == 1), 0)
    turned = [(inverse << n | inverse >> (8 - n)) & 0xFF for n in range(5)]
    return functools.reduce(operator.xor, turned, 0x63)


BOX = [boxed(byte) for byte in range(256)]


def aes(key: bytes, block: bytes) -> bytes:
    """FIPS 197 with a key of 128 bits, line by line."""
    words, power = [list(key[i : i + 4]) for i in range(0, 16, 4)], 1
    for i in range(4, 44):
        last = words[-1]
        if i % 4 == 0:
            last = [BOX[byte] for byte in last[1:] + last[:1]]
            last[0] ^= power
            power = times(power, 2)
        words.append([a ^ b for a, b in zip(words[i - 4], last, strict=True)])
    state = list(block)
    for round_ in range(11):
        if round_:
            state = [BOX[state[4 * ((c + row) % 4) + row]] for c in range(4) for row in range(4)]
        if 0 < round_ < 10:
            state = [
                times(2, col[i]) ^ times(3, col[i - 3]) ^ col[i - 2] ^ col[i - 1]
                for col in (state[c : c + 4] for c in range(0, 16, 4))
                for i in range(4)
            ]
        own = itertools.chain(*words[4 * round_ : 4 * round_ + 4])
        state = [a ^ b for a, b in zip(state, own, strict=True)]
    return bytes(state)


def test_the_reference_cipher_is_the_published_one() -> None:
    block = bytes.fromhex("00112233445566778899aabbccddeeff")  # FIPS 197, appendix C.1
    assert aes(bytes(range(16)), block).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"


@pytest.mark.parametrize(
    ("key", "name"),
    [(0, (0, UNITS)), (7, (3, NOISE, 151)), (2**256 - 1, (10**6, VIEWS, 2**40)), (5, (1, 2, 3, 4))],
)
def test_draws_are_the_key_stream_of_aes(key: int, name: tuple[int, ...]) -> None:
    message = b"".join(struct.pack("<Q", word) for word in name)
    own = hmac.new(key.to_bytes(32, "little"), message, hashlib.sha256).digest()
    first = int.from_bytes(own[16:], "little")
    stream = b"".join(
        aes(own[:16], ((first + block) % 2**128).to_bytes(16, "little")) for block in range(40)
    )
    words = draw(key, *name).bit_generator.random_raw(80)  # 8 bytes each
    assert np.asarray(words, "<u8").tobytes() == stream


def test_streams_have_names_of_their_own() -> None:
    words = (0, 1, 2, 255, 256, 2**32, 2**63)
    names = [
        *itertools.product(words, (0, 1)),
        *itertools.product((0, 1), (0, 1), words),
        *itertools.product((0, 1), (0, 1), (0, 1), (0, 256)),
    ]
    numbers = {int(draw(1, *name).integers(2**63)) for name in names}
    assert len(numbers) == len(set(names))


@pytest.mark.parametrize(
    ("key", "name"),
    [(-1, (0, 0)), (2**256, (0, 0)), (1, (-1, 0)), (1, (0, 2**64)), (1, (0, 1, -5))],
)
def test_what_no_stream_can_be_named_by_is_refused(key: int, name: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="negative or too large"):
        draw(key, *name)


@pytest.mark.parametrize("exact", [0.0, 3.0, -1e6])
@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-3, 70.0])
def test_noise_has_the_stated_scale_and_no_other(exact: float, scale: float) -> None:
    added = noisy(np.full(10_000, exact, np.float32), scale, draw(3, 0, NOISE)) - exact
    assert kstest(added / scale, "norm").pvalue > 1e-3
    assert kstest(added / (1.2 * scale), "norm").pvalue < 1e-3
    assert kstest(added / (0.8 * scale), "norm").pvalue < 1e-3


def test_noise_of_streams_steps_and_values_is_unrelated() -> None:
    names = list(itertools.product((0, 1), (NOISE, VIEWS), (0, 1)))
    rows = np.stack([gaussian(draw(4, *name), (5_000,)) for name in names])
    rows = np.concatenate([rows, rows[:, ::-1], np.roll(rows, 1, axis=1)])
    assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < 0.07
    assert np.abs(np.corrcoef(rows**2) - np.eye(len(rows))).max() < 0.07


def test_each_value_of_noise_is_half_the_sum_of_four_draws() -> None:
    plain = draw(9, 2, NOISE)
    four = [plain.standard_normal((50, 3)) for _ in range(4)]
    assert np.allclose(gaussian(draw(9, 2, NOISE), (50, 3)), sum(four) / 2, rtol=0, atol=1e-15)
    one = gaussian(draw(9, 2, NOISE), (2_000,))
    assert abs(np.corrcoef(one, draw(9, 2, NOISE).standard_normal(2_000))[0, 1]) < 0.6


@pytest.mark.parametrize("scale", [1.0, 0.3, 17.0])
@pytest.mark.parametrize("size", [0.0, 1e-7, 1.0, 300.0])
def test_noisy_values_lie_on_a_grid_that_tells_nothing_of_the_exact_ones(
    scale: float, size: float
) -> None:
    exact = size * np.linspace(0.1, 1, 5_000).astype(np.float32)
    grid = 2.0 ** (np.floor(np.log2(scale)) - 20)
    found = noisy(exact, scale, draw(1, 0, NOISE)) / grid
    assert (found == np.rint(found)).all()
    assert set(np.unique(found.astype(np.int64) % 4).tolist()) == {0, 1, 2, 3}  # and no finer one
    plain = exact + scale * gaussian(draw(1, 0, NOISE), (5_000,))
    assert np.abs(found * grid - plain).max() <= grid / 2
    assert (plain / grid != np.rint(plain / grid)).any()  # what the test would see without it


def test_no_noise_leaves_the_values_alone() -> None:
    exact = np.linspace(-1, 1, 11, dtype=np.float32)
    assert (noisy(exact, 0.0, draw(1, 0, NOISE)) == exact).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": 1.1}, "rate=1.1"),
        ({"rows_of": ()}, "without crops"),
        ({"rows_of": ((0,), ())}, "without crops"),
        ({"rows_of": ((0, 1), (1,))}, "two units"),
        ({"unit": "image"}, "'image'"),
    ],
)
def test_impossible_samplings_are_refused(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"unit": "patient", "rows_of": ((0,), (1,)), "rate": 0.5}
    with pytest.raises(PrivacyError, match=message):
        PoissonSampling(**(values | change))  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_forked_processes_take_no_key_of_their_parent() -> None:
    """Else two fits would have the same noise."""
    code = (
        "import os\n"
        "from mammo_dp.privacy.training.sampling import new_key, take_if_fresh\n"
        "key = new_key()\n"
        "if not (child := os.fork()):\n"
        "    os._exit(take_if_fresh(key))\n"
        "_, status = os.waitpid(child, 0)\n"
        "print(os.waitstatus_to_exitcode(status), take_if_fresh(key), take_if_fresh(key))\n"
    )
    words = [sys.executable, "-P", "-c", code]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["0", "True", "False"]
