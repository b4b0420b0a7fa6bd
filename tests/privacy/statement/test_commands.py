import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import close_run, file_sha256, open_run

FULL = Mechanism(noise_multiplier=2.0, sampling_rate=1.0, steps=20)


def release(
    folder: Path,
    manifest: CropsManifest,
    *,
    mechanism: Mechanism | None = FULL,
    parents: PrivacyLedger | None = None,
    delta: float = 1e-4,
) -> Path:
    folder.mkdir()
    weights = folder / "last.ckpt"
    weights.write_text(folder.name)
    access = Access.of_training(
        folder.name, manifest, "train", mechanism=mechanism, released=file_sha256(weights)
    )
    ledger = (parents or PrivacyLedger()).plus(access)
    write_statement(
        folder,
        ledger,
        delta=delta,
        artefact=weights,
        exclusions=[f"Looks of {folder.name}."],
        precision="32-true",
    )
    return folder


def joint(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["privacy", "compose", *words, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("words", [["{run}"], ["--run", "{run}"], ["{run}/privacy.json"]])
def test_explain_prints_the_statement(
    words: list[str], tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(tmp_path / "a", cohort)
    assert main(["privacy", "explain", *(word.format(run=folder) for word in words)]) == 0
    assert capsys.readouterr().out == (folder / "PRIVACY.md").read_text()


@pytest.mark.parametrize("name", ["", "privacy.json", "PRIVACY.md"])
def test_explain_is_about_the_statement_that_is_named(
    name: str, tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever run folder it lies in, such as that of another model."""
    outer = close_run(open_run(tmp_path / "outer", command="fit", config={}, inputs={})).folder
    record = shutil.move(outer / "run.json", tmp_path / "run.json")
    outer.rmdir()
    shutil.move(record, release(outer, cohort) / "run.json")
    inner = release(outer / "inner", cohort, mechanism=None)
    assert main(["privacy", "explain", str(inner / name)]) == 0
    assert "epsilon = infinity" in capsys.readouterr().out
    assert main(["privacy", "verify", str(inner / name)]) == 1  # no record tells what made it
    assert "inner/run.json: cannot be read" in capsys.readouterr().err


def test_a_folder_that_merely_lies_in_a_run_has_no_statement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outer = close_run(open_run(tmp_path / "outer", command="fit", config={}, inputs={})).folder
    (outer / "theirs").mkdir()
    for command in ("explain", "verify"):
        assert main(["privacy", command, str(outer / "theirs")]) == 1
        assert (
            f"theirs: has no statement of its own, and that of {outer}" in capsys.readouterr().err
        )


@pytest.mark.parametrize("killed_at", ["privacy_evidence.json", "PRIVACY.md", "privacy.json"])
def test_where_a_statement_is_all_is(
    killed_at: str, tmp_path: Path, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, text: str) -> None:
        if path.name == killed_at:
            raise ConnectionAbortedError("power cut")
        path.write_text(text)

    monkeypatch.setattr("mammo_dp.privacy.statement.document.write_text_atomically", write)
    with pytest.raises(ConnectionAbortedError):
        release(tmp_path / "a", cohort)
    assert not (tmp_path / "a" / "privacy.json").exists()


def test_explain_derives_the_text_again(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = release(tmp_path / "a", cohort)
    text = (folder / "PRIVACY.md").read_text()
    (folder / "PRIVACY.md").unlink()
    assert main(["privacy", "explain", str(folder)]) == 0
    assert capsys.readouterr().out == text
    (folder / "PRIVACY.md").write_text(text.replace("epsilon = ", "epsilon = 0."))
    assert main(["privacy", "explain", str(folder)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "PRIVACY.md: says other than privacy.json implies, first in line 3" in shown.err
    assert "mammo-dp privacy verify" in shown.err


def test_explain_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "explain", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: is no readable privacy statement" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["privacy", "explain"])
    assert "explain.run" in capsys.readouterr().err


def test_two_releases_from_the_same_patients_compose(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (release(tmp_path / name, cohort) for name in "ab")
    found = joint(capsys, f"{a}/privacy.json", f"{b}/privacy.json")
    (statement,) = found["statements"]
    alone, both = (compose([FULL] * times).epsilon(1e-4) for times in (1, 2))
    assert statement["epsilon"] == pytest.approx(both, rel=1e-9)
    assert alone * 1.2 < statement["epsilon"] < alone * 2
    assert statement["units"] == 4
    assert [item["path"] for item in found["releases"]] == [
        f"{a}/privacy.json",
        f"{b}/privacy.json",
    ]
    stored = json.loads((a / "privacy.json").read_text())
    assert found["releases"][0]["artefact"] == stored["artefact"]
    assert set(stored) - set(found) == {"seal"}
    assert {"Looks of a.", "Looks of b."} <= set(found["exclusions"])


def test_disjoint_cohorts_do_not_add_up(
    tmp_path: Path,
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    capsys: pytest.CaptureFixture[str],
) -> None:
    a = release(tmp_path / "a", cohort)
    b = release(tmp_path / "b", make_cohort("other", origin="another-archive"))
    found = joint(capsys, str(a), str(b))
    alone = compose([FULL]).epsilon(1e-4)
    assert [one["epsilon"] for one in found["statements"]] == [pytest.approx(alone, rel=1e-9)] * 2


def test_patients_in_part_of_both_cohorts_pay_for_both(
    tmp_path: Path,
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    capsys: pytest.CaptureFixture[str],
) -> None:
    a = release(tmp_path / "a", cohort)
    b = release(tmp_path / "b", make_cohort("fewer", patients=3, crops=10, seed=1))
    (statement, _) = joint(capsys, str(a), str(b))["statements"]
    assert statement["epsilon"] == pytest.approx(compose([FULL] * 2).epsilon(1e-4), rel=1e-9)


def test_a_common_parent_counts_once(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = Access.of_training("body", cohort, "train", mechanism=FULL, released="body")
    parents = PrivacyLedger().plus(parent)
    a, b = (release(tmp_path / name, cohort, parents=parents) for name in "ab")
    found = joint(capsys, str(a), str(b))
    assert [access["stage"] for access in found["accesses"]] == [
        "body",
        "a",
        "b",
    ]
    (statement,) = found["statements"]
    assert statement["epsilon"] == pytest.approx(compose([FULL] * 3).epsilon(1e-4), rel=1e-9)


def test_a_release_without_dp_leaves_nothing(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    a = release(tmp_path / "a", cohort)
    b = release(tmp_path / "b", cohort, mechanism=None)
    assert main(["privacy", "compose", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Joint privacy statement of 2 releases")
    assert "No guarantee, epsilon = infinity" in text
    assert "b was trained on these patients without DP." in text


def test_delta_is_the_smallest_unless_given(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = release(tmp_path / "a", cohort), release(tmp_path / "b", cohort, delta=1e-3)
    assert joint(capsys, str(b), str(a))["delta"] == 1e-4
    assert joint(capsys, str(b), str(a), "--delta", "1e-5")["delta"] == 1e-5
    assert main(["privacy", "compose", "--delta", "1e-2", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    for folder in (a, b):
        assert f"- {folder}: `last.ckpt`, SHA-256 `{file_sha256(folder / 'last.ckpt')}`" in text
    for part in ("delta = 0.01 is as asked for", "Looks of a.", "Looks of b."):
        assert part in text
    assert main(["privacy", "compose", str(a), str(b), "--delta", "0.5"]) == 1
    assert "delta=0.5 is not below 1/4" in capsys.readouterr().err


def test_a_copy_is_no_second_release(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = release(tmp_path / "a", cohort), release(tmp_path / "b", cohort)
    copied = tmp_path / "copied"
    shutil.copytree(a, copied)
    assert main(["privacy", "compose", str(a), str(copied)]) == 1
    said = capsys.readouterr().err
    assert "one release, by the hash of what was released. Give two or more" in said
    once, twice = (joint(capsys, *map(str, paths)) for paths in ((a, b), (a, b, copied)))
    assert twice["statements"] == once["statements"]


def test_an_edited_statement_does_not_compose(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = release(tmp_path / "a", cohort), release(tmp_path / "b", cohort)
    stored = json.loads((b / "privacy.json").read_text())
    stored["statements"][0]["epsilon"] = 0.1
    (b / "privacy.json").write_text(json.dumps(stored))
    assert main(["privacy", "compose", str(a), str(b)]) == 1
    assert f"{b}/privacy.json" in capsys.readouterr().err


def test_statements_compose_without_their_artefacts(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = release(tmp_path / "a", cohort), release(tmp_path / "b", cohort)
    whole = joint(capsys, str(a), str(b))
    (b / "last.ckpt").unlink()
    bare = joint(capsys, str(a), str(b))
    assert bare["statements"] == whole["statements"]
    assert any("b/last.ckpt: is absent" in note for note in bare["notes"])
    (b / "last.ckpt").write_text("swapped")
    assert main(["privacy", "compose", str(a), str(b)]) == 1
    assert "b/last.ckpt: is not the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], "joint statement of several releases"),
        (["explain"], "Run folder or data folder"),
        (["verify"], "those of its ancestors"),
        (["compose"], "privacy.json of each release, or its folder"),
    ],
)
def test_help_explains(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["privacy", *words, "--help"])
    assert status.value.code == 0
    assert shown in " ".join(capsys.readouterr().out.split())
