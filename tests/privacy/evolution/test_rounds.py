import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.rounds import Round, RoundsAccount, executed, origin
from mammo_dp.privacy.evolution.simulators import Genome
from mammo_dp.privacy.statement.seals import seal
from mammo_dp.runs import open_run


@pytest.fixture(autouse=True)
def _run(tmp_path: Path) -> None:
    open_run(tmp_path, command="evolve", config={}, inputs={})


PLANNED = Mechanism(noise_multiplier=2.5, sampling_rate=1.0, steps=3)


def result(seed: int = 0) -> Round:
    rng = np.random.default_rng(seed)
    candidates = tuple(
        tuple(Genome.fresh(rng, malignant=m).varied(rng, degree=0.1 + 0.2) for _ in range(2))
        for m in (False, True)
    )
    return Round(candidates=candidates, votes=rng.standard_normal((2, 2)))


def test_each_round_is_recorded_and_none_beyond_the_plan(tmp_path: Path) -> None:
    account = RoundsAccount(folder=tmp_path, planned=PLANNED)
    assert (account.recorded, executed(tmp_path), account.last()) == (0, None, None)
    for step in range(3):
        assert account.record() == step
        done = executed(tmp_path)
        assert done is not None
        assert (done.noise_multiplier, done.steps) == (2.5, step + 1)
    with pytest.raises(PrivacyError, match="all 3 rounds are spent"):
        account.record()


def test_a_saved_round_is_read_exactly(tmp_path: Path) -> None:
    account = RoundsAccount(folder=tmp_path, planned=PLANNED)
    for seed in range(2):
        account.save(account.record(), result(seed))
    found = RoundsAccount(folder=tmp_path, planned=PLANNED).last()
    assert found is not None
    step, last = found
    assert step == 1
    assert last.candidates == result(1).candidates
    assert (last.votes == result(1).votes).all()
    assert origin(tmp_path).startswith("evolved:")


def test_a_recorded_round_without_result_stays_recorded(tmp_path: Path) -> None:
    account = RoundsAccount(folder=tmp_path, planned=PLANNED)
    account.save(account.record(), result())
    account.record()
    again = RoundsAccount(folder=tmp_path, planned=PLANNED)
    assert again.recorded == 2
    last = again.last()
    assert last is not None
    assert last[0] == 0


def test_rounds_with_other_noise_do_not_go_on(tmp_path: Path) -> None:
    RoundsAccount(folder=tmp_path, planned=PLANNED).record()
    other = Mechanism(noise_multiplier=1.0, sampling_rate=1.0, steps=3)
    with pytest.raises(PrivacyError, match=r"noise multiplier 2\.5, planned is 1\.0"):
        RoundsAccount(folder=tmp_path, planned=other).record()


def test_a_lost_shortened_or_foreign_account_stops_the_run(tmp_path: Path) -> None:
    account = RoundsAccount(folder=tmp_path, planned=PLANNED)
    for _ in range(2):
        account.save(account.record(), result())
    path = tmp_path / "account.json"
    stored = json.loads(path.read_text())
    mechanism = stored["mechanism"]
    path.write_text(json.dumps(stored | {"mechanism": mechanism | {"steps": 3}}))
    with pytest.raises(PrivacyError, match="does not fit its seal"):
        account.record()
    for changed, said in (
        ({"mechanism": mechanism | {"steps": 1}}, "accounts for 1 rounds, but 2 have a result"),
        ({"run": "0" * 64}, "belongs to another run"),
    ):
        content = {**stored, **changed}
        del content["seal"]
        path.write_text(json.dumps(content | {"seal": seal(content)}))
        with pytest.raises(PrivacyError, match=said):
            account.record()
    path.unlink()
    with pytest.raises(PrivacyError, match=r"account\.json: is no account"):
        account.record()


def test_a_round_of_another_run_or_another_round_is_none_of_this(tmp_path: Path) -> None:
    """Whoever holds the key wrote all of them, and each is true of its own run."""
    accounts = [RoundsAccount(folder=tmp_path / name, planned=PLANNED) for name in ("one", "other")]
    for account in accounts:
        open_run(account.folder, command="evolve", config={}, inputs={})
        account.save(account.record(), result())
    one, other = (account.folder / "rounds" / "000.json" for account in accounts)
    again, kept = one.with_name("001.json"), one.read_bytes()
    accounts[0].record()
    for source, target in ((other, one), (one, again)):
        shutil.copyfile(source, target)
        with pytest.raises(PrivacyError, match="is a round of another run, or another round"):
            accounts[0].last()
        with pytest.raises(PrivacyError, match="would not be what is accounted for"):
            origin(accounts[0].folder)
        again.unlink(missing_ok=True)
        one.write_bytes(kept)
    assert accounts[0].last() is not None


def test_account_and_rounds_of_a_run_on_other_crops_are_none_of_this(tmp_path: Path) -> None:
    """Under the same path lay other patients' crops when the other run was started."""
    crops, accounts = tmp_path / "crops.csv", []
    for name in ("one", "other"):
        crops.write_text(name)
        open_run(tmp_path / name, command="evolve", config={}, inputs={"crops": crops})
        accounts.append(RoundsAccount(folder=tmp_path / name, planned=PLANNED))
    account = accounts[0]
    account.save(account.record(), result())
    shutil.copytree(tmp_path / "one", tmp_path / "moved")  # of the same run, wherever it lies
    assert RoundsAccount(folder=tmp_path / "moved", planned=PLANNED).recorded == 1
    shutil.copyfile(tmp_path / "one" / "account.json", tmp_path / "other" / "account.json")
    shutil.copytree(tmp_path / "one" / "rounds", tmp_path / "other" / "rounds")
    for taken_up in (accounts[1].record, accounts[1].last):
        with pytest.raises(PrivacyError, match="belongs to another run"):
            taken_up()


def test_an_older_account_takes_up_no_later_round(tmp_path: Path) -> None:
    """Else rounds could follow one another without an end, under an account of three."""
    account = RoundsAccount(folder=tmp_path, planned=PLANNED)
    for _ in range(2):
        account.save(account.record(), result())
    older = (tmp_path / "account.json").read_bytes()
    account.save(account.record(), result())
    (tmp_path / "account.json").write_bytes(older)
    for name in ("000.json", "001.json"):
        (tmp_path / "rounds" / name).unlink()
    with pytest.raises(PrivacyError, match=r"002\.json: is a round beyond those of account\.json"):
        account.last()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"candidates', b"\xff"])
def test_a_round_that_was_cut_off_is_named(tmp_path: Path, content: bytes) -> None:
    account = RoundsAccount(folder=tmp_path, planned=PLANNED)
    account.save(account.record(), result())
    (tmp_path / "rounds" / "000.json").write_bytes(content)
    with pytest.raises(PrivacyError, match=r"000\.json: is no result of a round"):
        account.last()


def test_spent_rounds_without_any_result_are_explained(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="none has a result"):
        origin(tmp_path)
