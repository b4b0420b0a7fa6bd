from pathlib import Path
from typing import Any

import pytest

from tests.privacy.statement.verify.chain import Verify, edit, files, forge, rehash, said


def test_an_edited_number_is_named(verify: Verify) -> None:
    edit("dp/privacy.json", lambda stored: stored["statements"][0].update(epsilon=0.5))
    found = verify()
    assert files(found) == {"dp/privacy.json", "dp/privacy_evidence.json"}
    assert "statements[0].epsilon is 0.5, but 7.9" in said(found, "dp/privacy.json")
    assert "was altered: sha256" in said(found, "dp/privacy.json")
    assert "does not fit its seal" in said(found, "dp/privacy.json")


@pytest.mark.parametrize("factor", [1 + 1e-6, 1 - 1e-6])
def test_a_number_edited_in_the_seventh_digit_is_named(factor: float, verify: Verify) -> None:
    def change(stored: dict[str, Any]) -> None:
        stored["statements"][0]["epsilon"] *= factor

    edit("dp/privacy.json", change)
    assert "statements[0].epsilon is" in said(verify(), "dp/privacy.json")


def test_an_edited_text_is_named(verify: Verify) -> None:
    words = Path("dp/PRIVACY.md")
    words.write_text(words.read_text().replace("epsilon = 7", "epsilon = 1"))
    rehash("dp")
    found = verify()
    assert files(found) == {"dp/PRIVACY.md"}
    assert "first in line 3: 'epsilon = 1" in said(found, "dp/PRIVACY.md")


def test_only_the_seal_tells_a_forgery_that_is_consistent_in_itself(
    verify: Verify,
) -> None:
    def change(stored: dict[str, Any]) -> None:
        stored["accesses"][-1]["stage"] = "Somebody else (dp)"

    forge("dp", change, key=False)
    found = verify()
    assert [finding["where"] for finding in found["findings"]] == ["dp/privacy.json"]
    assert "does not fit its seal" in said(found, "dp/privacy.json")
    forge("dp", change, key=True)
    assert verify()["findings"] == []


def test_a_missing_seal_is_named(verify: Verify) -> None:
    edit("dp/privacy.json", lambda stored: stored.pop("seal"))
    rehash("dp")
    found = verify()
    assert said(found, "dp/privacy.json") == "has no seal, so anyone may have written it"


def test_what_is_sealed_under_another_key_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    monkeypatch.setenv("MAMMO_DP_COHORT_KEY", "11" * 32)
    found = verify()
    assert "seals" not in found["checked"]
    assert "is sealed under key" in said(found, "dp/privacy.json")
    assert "is sealed under key" in said(found, "pretrain/privacy.json")
    assert "are hashed under key" in said(found, "dp/privacy.json")
    assert "dp/privacy_evidence.json" in files(found)


def test_altered_evidence_is_named(verify: Verify) -> None:
    edit("dp/privacy_evidence.json", lambda stored: stored["run"].update(config_sha256="0"))
    rehash("dp")
    found = verify()
    assert files(found) == {"dp/privacy_evidence.json"}
    assert "is missing, altered, or not sealed" in said(found, "dp/privacy_evidence.json")
    Path("dp/privacy_evidence.json").unlink()
    assert "is missing" in said(verify(), "dp/privacy_evidence.json")


def test_other_versions_compare_numbers_not_words(
    monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    later = {"mammo-dp": "9.9", "dp-accounting": "0.7.0", "opacus": "1.6.0"}
    monkeypatch.setattr("mammo_dp.privacy.statement.document.versions", lambda _: later)
    monkeypatch.setattr("mammo_dp.privacy.statement.document.NO_PATIENTS", "No patient was seen.")
    found = verify()
    assert found["findings"] == []
    assert any("here are {'mammo-dp': '9.9'" in note for note in found["not_checked"])
    edit("dp/privacy.json", lambda stored: stored["statements"][0].update(epsilon=7.7))
    assert "statements[0].epsilon is 7.7" in said(verify(), "dp/privacy.json")
    Path("pretrain/PRIVACY.md").write_text("Safe.\n")
    assert "is not the text" in said(verify(), "pretrain/PRIVACY.md")


def test_a_cut_statement_and_an_unfinished_run_are_named(
    verify: Verify,
) -> None:
    edit("dp/privacy.json", lambda stored: [stored.pop(name) for name in ("delta", "precision")])
    edit("pretrain/run.json", lambda stored: stored.update(finished=None))
    found = verify()
    assert "has no delta, precision" in said(found, "dp/privacy.json")
    assert said(found, "pretrain/run.json") == "the run is unfinished"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("artefact", "last.ckpt"),
        ("accesses", None),
        ("delta", "small"),
        ("delta", 0.5),
        ("exclusions", None),
        ("randomness", ["none"]),
        ("versions", "0.1"),
        ("public_data", None),
        ("compared", ["a b"]),
    ],
)
def test_a_field_of_another_kind_is_named(field: str, value: object, verify: Verify) -> None:
    edit("dp/privacy.json", lambda stored: stored.update({field: value}))
    rehash("dp")
    assert "dp/privacy.json" in files(verify())
