import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mammo_dp.main import main, run
from tests.data_prep.tiny_archive import film
from tests.privacy.statement.verify.chain import Verify, edit, files, rehash, rewrite_crops, said
from tests.test_start_up import imported


def test_an_untouched_chain_agrees(verify: Verify, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("dp", "gan", "generated", "phantoms", "pretrain", "real", "rehearsal"):
        assert verify(folder)["findings"] == []
    checked = verify("dp")["checked"]
    assert checked["folders"] == 4
    assert (checked["statements"], checked["seals"]) == (4, 5)  # and the features of the head
    assert checked["accounts"] == 2
    assert checked["crops"] == sum(
        len(Path(folder, "crops.csv").read_text().splitlines()) - 1
        for folder in ("real", "phantoms")
    )
    assert main(["privacy", "verify", "dp"]) == 0
    text = capsys.readouterr().out
    summary = json.loads(Path("dp/privacy.json").read_text())["summary"]
    assert "dp: all that was checked agrees (folders 4, " in text
    assert f"\n{summary}\n" in text
    assert "Note: archive: was not read" in text


@pytest.mark.parametrize(
    ("crops", "infinite"), [("phantoms", False), ("generated", True)], ids=["phantoms", "gan"]
)
def test_labels_of_a_private_classifier_cost_what_it_cost(
    verify: Verify, crops: str, infinite: bool
) -> None:
    run(f"relabel --crops {crops} --checkpoint dp/checkpoints/last.ckpt --out new".split())
    assert verify("new")["findings"] == []
    (statement,) = json.loads(Path("new/privacy.json").read_text())["statements"]
    (labels,) = json.loads(Path("dp/privacy.json").read_text())["statements"]
    assert statement["cohort"] == labels["cohort"]
    assert (statement["epsilon"] == "infinity") == infinite
    assert infinite or statement["risk"]["advantage"] == labels["risk"]["advantage"]


def test_nothing_is_written(here: Path, verify: Verify) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    verify("dp")
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_parents_are_found_from_another_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert verify(str(here / "dp"))["checked"]["folders"] == 4


def test_mammograms_and_tables_that_crops_were_cut_from_need_not_be_there(verify: Verify) -> None:
    Path("mammograms").mkdir()
    rows = ["file,patient,malignant,x0,y0,x1,y1"]
    for i in range(4):
        Image.fromarray(film(np.random.default_rng(i))).save(f"mammograms/{i}.png")
        rows.append(f"{i}.png,P{i},{i % 2},50,100,80,140")
    Path("lesions.csv").write_text("\n".join(rows))
    options = "--table lesions.csv --images mammograms --masks mammograms --size 32 --card false"
    run(f"prepare lesions {options} --out own".split())
    for remove in (None, shutil.rmtree):
        if remove:
            remove("mammograms")
        assert verify("own")["findings"] == []


def test_every_finding_is_named_not_only_the_first(verify: Verify) -> None:
    edit("dp/privacy.json", lambda stored: stored.update(summary="Safe."))
    Path("pretrain/config.yaml").write_text("seed_everything: 7\n")
    next(Path("phantoms/images").iterdir()).unlink()
    found = files(verify())
    assert {"dp/privacy.json", "pretrain/config.yaml"} < found
    assert any(name.startswith("phantoms/images/") for name in found)


def test_a_swapped_checkpoint_is_named(verify: Verify) -> None:
    shutil.copy("pretrain/checkpoints/last.ckpt", "dp/checkpoints/last.ckpt")
    found = verify()
    assert files(found) == {"dp/checkpoints/last.ckpt"}
    assert "was altered" in said(found, "dp/checkpoints/last.ckpt")
    rehash("dp")
    found = verify()
    assert "is not the file that dp/privacy.json speaks" in said(found, "dp/checkpoints/last.ckpt")
    assert "its account holds" in said(found, "dp/checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("folder", "child", "offender"),
    [
        ("pretrain", "dp", "pretrain/checkpoints/last.ckpt"),
        ("real", "dp", "real"),
        ("phantoms", "dp", "phantoms"),
        ("gan", "generated", "gan/checkpoints/last.ckpt"),
    ],
)
def test_a_deleted_parent_is_named(folder: str, child: str, offender: str, verify: Verify) -> None:
    shutil.rmtree(folder)
    found = verify(child)
    assert files(found) == {offender}
    assert "is missing, here and above" in said(found, offender)


def test_a_namesake_above_the_run_is_not_taken_for_its_parent(here: Path, verify: Verify) -> None:
    shutil.move("pretrain", "elsewhere")
    shutil.copytree("gan", here.parent / "pretrain")
    found = verify()
    assert files(found) == {"pretrain/checkpoints/last.ckpt"}


def test_altered_crops_are_named(verify: Verify) -> None:
    def flip(rows: list[dict[str, str]]) -> None:
        rows[0]["malignant"] = str(1 - int(rows[0]["malignant"]))

    rewrite_crops("real", flip)
    rehash("real")
    found = verify()
    assert files(found) == {"real/crops.csv"}
    assert "is not what dp read as data" in said(found, "real/crops.csv")
    rewrite_crops("real", lambda rows: rows[0].update(split="nowhere"))
    assert "is no valid manifest" in said(verify(), "real/crops.csv")


def test_an_altered_image_is_named(verify: Verify) -> None:
    one, other, *_ = sorted(Path("real/images").iterdir())
    shutil.copy(other, one)
    rehash("real")
    found = verify()
    assert files(found) == {str(one)}
    assert "pixels differ from the recorded hash" in said(found, str(one))


def test_an_edited_configuration_is_named(verify: Verify) -> None:
    path = Path("dp/config.yaml")
    path.write_text(path.read_text().replace("max_steps: 4", "max_steps: 5"))
    rehash("dp")
    found = verify()
    assert files(found) == {"dp/config.yaml"}
    assert said(found, "dp/config.yaml") == "trainer.max_steps is recorded as 4, but is 5"
    edit("dp/run.json", lambda stored: stored["config"]["trainer"].update(max_steps=5))
    found = verify()
    assert files(found) == {"dp/run.json"}
    assert "config_sha256 is recorded as" in said(found, "dp/run.json")


@pytest.mark.parametrize(
    ("file", "content", "shown"),
    [
        ("dp/run.json", "{}", "cannot be read"),
        ("dp/privacy.json", "{}", "is no readable privacy statement"),
        ("dp/config.yaml", "a: [", "is no YAML"),
        ("dp/checkpoints/last.ckpt", "weights", "is no checkpoint of a fit"),
        ("pretrain/privacy.json", "[]", "is no readable privacy statement"),
        ("real/crops.csv", "\0", "is no valid manifest"),
    ],
)
def test_what_cannot_be_read_is_named(file: str, content: str, shown: str, verify: Verify) -> None:
    Path(file).write_text(content)
    assert shown in said(verify(), file)


def test_generated_crops_of_another_generator_are_named(verify: Verify) -> None:
    def relabel(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["origin"] = "gan:00"

    rewrite_crops("generated", relabel)
    rehash("generated")
    assert "origins[0] is recorded as 'gan:" in said(verify("generated"), "generated/crops.csv")


def test_imported_crops_are_held_against_their_provenance(verify: Verify) -> None:
    Path("published").mkdir()
    for number, name in enumerate(("benign", "malignant")):
        pixels = np.full((32, 32), 90 * (number + 1), np.uint8)
        pixels[number::3] += 20
        Image.fromarray(pixels).save(f"published/{number}_{name}.png")
    Path("origin.yaml").write_text("generator: g\ntrained_on: cbis-ddsm\n")
    line = "prepare synthetic_folder --root published --name p --out imported --provenance "
    run([*line.split(), "origin.yaml"])
    assert verify("imported")["findings"] == []
    Path("origin.yaml").unlink()  # `prepare` keeps a copy
    assert verify("imported")["findings"] == []
    Path("imported/provenance.yaml").write_text("generator: g\ntrained_on: phantoms\n")
    rehash("imported")
    found = verify("imported")
    assert "is not what imported read as provenance" in said(found, "imported/provenance.yaml")
    assert "leaves out the access of g" in said(found, "imported/privacy.json")


def test_a_folder_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "verify", "nowhere"]) == 1
    assert "nowhere: is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source", ["0" * 40 + "+dirty", "0" * 40 + ", then " + "1" * 40 + "+dirty"]
)
@pytest.mark.parametrize("dirty", ["own", "parent"])
def test_source_that_is_in_no_commit_is_found_in_a_run_and_its_parents(
    source: str, dirty: str, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {
        "parent": "prepare phantoms --per_class 8 --size 32 --out parent",
        "own": "fit --config plain.yaml --data.init_args.crops parent --run_dir own",
    }
    for name, line in lines.items():
        with monkeypatch.context() as patch:
            if name == dirty:
                patch.setattr("mammo_dp.runs.source_commit", lambda: source)
            run(line.split())
    found = verify("own")
    assert files(found) == {f"{dirty}/run.json"}
    assert "ran on source with changes that are in no commit" in said(found, f"{dirty}/run.json")


def test_a_run_without_a_commit_is_noted(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mammo_dp.runs.source_commit", lambda: None)
    run(["prepare", "phantoms", "--per_class", "8", "--size", "32", "--out", "installed"])
    found = verify("installed")
    assert found["findings"] == []
    assert any("names no commit of the source" in note for note in found["not_checked"])


def test_a_file_beside_a_statement_does_not_inherit_it(
    verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    own, beside = Path("dp/checkpoints/last.ckpt"), Path("dp/checkpoints/best.ckpt")
    beside.write_bytes(own.read_bytes() + b"x")
    for command in ("verify", "explain"):
        assert main(["privacy", command, str(beside)]) == 1
        shown = capsys.readouterr()
        assert "epsilon = " not in shown.out
        assert "best.ckpt: nothing here speaks about this file: the statement" in shown.err
        assert main(["privacy", command, str(own)]) == 0
        capsys.readouterr()
    assert main(["privacy", "verify", "dp/nowhere"]) == 1
    notes = verify("dp")["not_checked"]
    assert "dp: checkpoints/best.ckpt: not in run.json, so nothing here speaks about them." in notes


def test_verify_imports_no_model(here: Path) -> None:
    """A statement is checked from files and hashes, and that starts at once."""
    lines = [["privacy", "verify", "dp"]]
    assert imported(lines, ("lightning", "timm", "opacus", "classifier", "gan")) == ""
