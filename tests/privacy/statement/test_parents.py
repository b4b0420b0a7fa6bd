"""Whose data are behind an input: by the hash of what is used, never by the place where it lies."""

import json
import logging
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_prep.errors import ManifestError
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement import lineage as public_weights
from mammo_dp.privacy.statement.document import (
    EVIDENCE_NAME,
    FILE_NAME,
    TEXT_NAME,
    covering_ledger,
    require_ledger,
    write_files_list,
    write_statement,
)
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.lineage import (
    collect_parents,
    inputs_ledger,
    provenance_of_hub,
    warn_of_unknown,
)
from mammo_dp.privacy.statement.seals import KEY_VARIABLE, seal
from mammo_dp.runs import MADE_BY, file_sha256, open_run

MECHANISM = Mechanism(noise_multiplier=2.0, sampling_rate=0.5, steps=10, clipping_norm=0.7)
MakeCohort = Callable[..., CropsManifest]


def run_folder(
    folder: Path, manifest: CropsManifest, mechanism: Mechanism | None = MECHANISM
) -> Path:
    """A fit's folder with weights and statement; returns the weights."""
    record = open_run(folder, command="fit", config={"at": folder.name}, inputs={}, seed=1)
    weights = record.folder / "checkpoints" / "last.ckpt"
    weights.parent.mkdir()
    weights.write_text(folder.name)
    released = file_sha256(weights)
    ledger = PrivacyLedger().plus(
        Access.of_training("fit", manifest, "train", mechanism=mechanism, released=released)
    )
    write_statement(record.folder, ledger, delta=1e-3, artefact=weights)
    return weights


def epsilon_of_child(cohort: CropsManifest, *inputs: Path) -> tuple[float, str]:
    """Epsilon of a private fit on a cohort that reads these inputs, and why."""
    ledger = collect_parents(inputs).plus(
        Access.of_training("child", cohort, "train", mechanism=MECHANISM, released="c")
    )
    (own,) = [one for one in ledger.statements(1e-3, "c") if one.is_own]
    return own.epsilon, own.because


def reseal(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Changes a sealed file as the owner of the key could."""
    stored = json.loads(path.read_text())
    del stored["seal"]
    change(stored)
    path.write_text(json.dumps({**stored, "seal": seal(stored)}))


def test_a_sealed_statement_about_the_very_file_counts(
    tmp_path: Path, cohort: CropsManifest, make_cohort: MakeCohort
) -> None:
    others = make_cohort("others", origin="elsewhere", seed=7)
    alone, _ = epsilon_of_child(cohort)
    same = run_folder(tmp_path / "same", cohort)
    assert alone < epsilon_of_child(cohort, same)[0] < math.inf
    assert epsilon_of_child(cohort, run_folder(tmp_path / "other", others))[0] == alone
    gan = run_folder(tmp_path / "gan", cohort, None)
    epsilon, because = epsilon_of_child(cohort, gan)
    assert (epsilon, because) == (math.inf, "fit was trained on these patients without DP.")


def test_lineage_reaches_a_classifier_through_generated_crops(
    tmp_path: Path, cohort: CropsManifest, make_cohort: MakeCohort
) -> None:
    gan = run_folder(tmp_path / "gan", cohort, None)
    generated = make_cohort("generated", origin=f"gan:{file_sha256(gan)}")
    write_statement(
        generated.folder, collect_parents([gan]), artefact=generated.folder / "crops.csv"
    )
    epsilon, because = epsilon_of_child(cohort, generated.folder, cohort.folder)
    assert (epsilon, because) == (math.inf, "fit was trained on these patients without DP.")


# Each of these leaves nothing that says whose data made the weights.


def _without_statement(folder: Path) -> None:
    (folder / FILE_NAME).unlink()


def _unreadable(folder: Path) -> None:
    (folder / FILE_NAME).write_text("{}")


def _older_schema(folder: Path) -> None:
    reseal(folder / FILE_NAME, lambda stored: stored.update(schema=2))


def _broken_seal(folder: Path) -> None:
    stored = json.loads((folder / FILE_NAME).read_text())
    stored["accesses"] = []
    (folder / FILE_NAME).write_text(json.dumps(stored))


def _without_seal(folder: Path) -> None:
    stored = json.loads((folder / FILE_NAME).read_text())
    del stored["seal"]
    (folder / FILE_NAME).write_text(json.dumps(stored))


def _foreign_seal(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "11" * 32)
        reseal(folder / FILE_NAME, lambda stored: stored.update(accesses=[]))


def _renamed_key(folder: Path) -> None:
    stored = json.loads((folder / FILE_NAME).read_text())
    stored["seal"]["key_id"] = "12345678"
    (folder / FILE_NAME).write_text(json.dumps(stored))


def _other_weights(folder: Path) -> None:
    (folder / "checkpoints" / "last.ckpt").write_text("swapped")


def _about_nothing(folder: Path) -> None:
    reseal(folder / FILE_NAME, lambda stored: stored.update(artefact=None))


DOUBTS: dict[Callable[[Path], None], str] = {
    _without_statement: "neither a statement nor a provenance",
    _unreadable: "cannot be read",
    _older_schema: "cannot be read",
    _broken_seal: "does not fit its seal",
    _without_seal: "has no seal",
    _foreign_seal: "is sealed under key",
    _renamed_key: "is sealed under key 12345678",
    _other_weights: "is about another file",
    _about_nothing: "is about another file",
}


@pytest.mark.parametrize("tamper", DOUBTS, ids=lambda tamper: tamper.__name__)
def test_what_cannot_be_checked_is_unknown_and_infinite(
    tmp_path: Path,
    cohort: CropsManifest,
    caplog: pytest.LogCaptureFixture,
    tamper: Callable[[Path], None],
) -> None:
    weights = run_folder(tmp_path / "run", cohort)
    tamper(tmp_path / "run")
    epsilon, because = epsilon_of_child(cohort, weights)
    assert math.isinf(epsilon)
    assert "It is unknown whose data the training of last.ckpt used." in because
    assert DOUBTS[tamper] in because
    assert str(tmp_path) not in because
    with caplog.at_level(logging.WARNING):
        warn_of_unknown(collect_parents([weights]))
    assert DOUBTS[tamper] in caplog.text
    assert "Epsilon will be infinite." in caplog.text
    with pytest.raises(PrivacyError, match=r"Restore the folder"):
        require_ledger(tmp_path / "run", file_sha256(weights))


@pytest.mark.parametrize("origin", ["gan:00", "synthetic:mcgan", "phantom", "evolved:00"])
def test_made_crops_without_a_statement_are_unknown(make_cohort: MakeCohort, origin: str) -> None:
    made = make_cohort(origin.replace(":", "_"), origin=origin)
    (made.folder / FILE_NAME).unlink(missing_ok=True)
    (access,) = collect_parents([made.folder]).accesses
    assert access.is_unknown
    assert f"the source of the crops of {origin}" in access.stage


def test_a_table_added_to_a_folder_does_not_inherit_its_statement(
    make_cohort: MakeCohort,
) -> None:
    phantoms = make_cohort("phantoms", origin="phantom")
    assert not collect_parents([phantoms.folder]).accesses
    added = phantoms.folder / "mine.csv"
    lines = (phantoms.folder / "crops.csv").read_text().splitlines(keepends=True)
    added.write_text("".join(lines[:-1]))
    with pytest.raises(ManifestError, match=r"is called crops\.csv"):
        collect_parents([added])
    added.replace(phantoms.folder / "crops.csv")  # the same in the folder's own place
    (access,) = collect_parents([phantoms.folder]).accesses
    assert access.is_unknown
    assert "is about another file" in access.note


def test_a_copied_statement_says_nothing_about_other_weights(
    tmp_path: Path, cohort: CropsManifest, make_cohort: MakeCohort
) -> None:
    harmless = run_folder(tmp_path / "harmless", make_cohort("p", origin="phantom"))
    gan = run_folder(tmp_path / "gan", cohort, None)
    for name in (FILE_NAME, TEXT_NAME, EVIDENCE_NAME):
        shutil.copyfile(harmless.parents[1] / name, gan.parents[1] / name)
    assert math.isinf(epsilon_of_child(cohort, gan)[0])
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copyfile(gan, outside / "last.ckpt")
    shutil.copyfile(harmless.parents[1] / FILE_NAME, outside / FILE_NAME)
    assert math.isinf(epsilon_of_child(cohort, outside / "last.ckpt")[0])


def test_unknown_weights_do_not_hide_behind_disjoint_names(
    tmp_path: Path, make_cohort: MakeCohort
) -> None:
    weights = tmp_path / "plain.pth"
    torch.save({"weight": torch.zeros(1)}, weights)
    for origin in ("hospital", "cbis-ddsm"):
        patients = make_cohort(origin, origin=origin)
        assert math.isinf(epsilon_of_child(patients, weights)[0])


def test_an_export_counts_by_its_sealed_list_of_files(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    run = run_folder(tmp_path / "run", cohort).parents[1]
    export = tmp_path / "export"
    export.mkdir()
    for name in (FILE_NAME, TEXT_NAME):
        shutil.copyfile(run / name, export / name)
    weights = export / "model.safetensors"
    weights.write_text("tensors")
    assert (
        covering_ledger(export, file_sha256(weights))
        == "the statement beside it is about another file"
    )
    write_files_list(export, (FILE_NAME, TEXT_NAME, weights.name))
    found = collect_parents([weights])
    assert [access.mechanism for access in found.accesses] == [MECHANISM]
    weights.write_text("other tensors")
    assert collect_parents([weights]).accesses[0].is_unknown
    weights.write_text("tensors")
    (export / FILE_NAME).write_text((export / FILE_NAME).read_text() + "\n")
    assert collect_parents([weights]).accesses[0].is_unknown


def test_cohorts_of_an_export_are_compared_by_what_was_found_before(
    tmp_path: Path, cohort: CropsManifest, make_cohort: MakeCohort
) -> None:
    others = make_cohort("others", origin="elsewhere", seed=7)
    first = run_folder(tmp_path / "first", others, None)
    record = open_run(tmp_path / "second", command="fit", config={}, inputs={}, seed=1)
    weights = record.folder / "last.ckpt"
    weights.write_text("second")
    ledger = collect_parents([first]).plus(
        Access.of_training(
            "fit", cohort, "train", mechanism=MECHANISM, released=file_sha256(weights)
        )
    )
    write_statement(record.folder, ledger, delta=1e-3, artefact=weights)
    known = [one.epsilon for one in ledger.statements(1e-3)]
    assert known[0] == math.inf > known[1]
    (record.folder / EVIDENCE_NAME).unlink()  # as in an export
    alone = collect_parents([weights])
    assert [one.epsilon for one in alone.statements(1e-3)] == known
    # a third cohort cannot be compared by crops, and counts as if it shared patients
    third = make_cohort("third", origin="third", seed=9)
    assert math.isinf(epsilon_of_child(third, weights)[0])


def test_public_weights_have_a_provenance(
    tmp_path: Path, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "net.pth"
    torch.save({"weight": torch.zeros(1)}, weights)
    beside = tmp_path / "net.pth.provenance.yaml"
    said = {"source": "https://example.org", "data": "ImageNet-1k", "licence": "MIT"}
    beside.write_text(json.dumps(said | {"sha256": file_sha256(weights)}))
    epsilon, _ = epsilon_of_child(cohort, weights)
    assert epsilon == epsilon_of_child(cohort)[0]
    (public,) = collect_parents([weights]).public
    write_statement(tmp_path, collect_parents([weights]), artefact=weights)
    text = (tmp_path / TEXT_NAME).read_text()
    assert "## Public data, not accounted" in text
    assert "Initial weights: https://example.org, as described beside them (sha256" in text
    assert str(public) in text
    (tmp_path / FILE_NAME).unlink()
    said["sha256"] = file_sha256(weights)
    wrongs: list[object] = [said | {"sha256": wrong} for wrong in ("0" * 64, "")]
    wrongs += [[], {"source": "no more"}]
    wrongs += [said | {name: "MIT\n\n## Privacy"} for name in ("source", "data", "licence")]
    for wrong in wrongs:
        beside.write_text(json.dumps(wrong))
        with pytest.raises(PrivacyError, match=r"net\.pth\.provenance\.yaml"):
            collect_parents([weights])
    beside.unlink()
    assert math.isinf(epsilon_of_child(cohort, weights)[0])
    monkeypatch.setattr(public_weights, "KNOWN", {file_sha256(weights): public})
    assert collect_parents([weights]).public == (public,)


def described(weights: Path, data: str = "ImageNet-1k", source: str = "https://x.org") -> None:
    said = {"source": source, "data": data, "licence": "MIT", "sha256": file_sha256(weights)}
    weights.with_name(f"{weights.name}.provenance.yaml").write_text(json.dumps(said))


@pytest.mark.parametrize("packed_anew", [False, True])
@pytest.mark.parametrize("words", [{"pytorch-lightning_version": "2.6.0"}, {"note": MADE_BY}])
def test_a_description_makes_nothing_public_that_was_made_here(
    tmp_path: Path, cohort: CropsManifest, words: dict[str, str], packed_anew: bool
) -> None:
    weights = tmp_path / "imagenet.ckpt"
    torch.save({"state_dict": {}, **words}, weights)
    if packed_anew:
        with zipfile.ZipFile(weights) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        assert torch.load(weights, weights_only=True) == {"state_dict": {}, **words}
    described(weights)
    epsilon, because = epsilon_of_child(cohort, weights)
    assert math.isinf(epsilon)
    assert "made it, which needs its statement: a description is none" in because


@pytest.mark.parametrize("data", ["unknown", "our patients", "n/a", "see paper"])
def test_weights_of_data_that_nobody_names_may_be_of_these_patients(
    tmp_path: Path, make_cohort: MakeCohort, data: str
) -> None:
    weights = tmp_path / "net.pth"
    torch.save({"weight": torch.zeros(1)}, weights)
    described(weights, data=data)
    for origin in ("own", "cbis-ddsm"):
        patients = make_cohort(origin, origin=origin)
        assert math.isinf(epsilon_of_child(patients, weights)[0])


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("CBIS-DDSM/train", True),
        ("crops of cbis_ddsm and of others", True),
        ("the CBISDDSM images", True),
        ("mass crops of ddsm (1999)", True),
        ("https://huggingface.co/x/resnet50-ddsm", True),
        ("Curated Breast Imaging Subset of the Digital Database for Screening Mammography", True),
        ("ImageNet-1k and MIAS", False),
        ("breast images, downloaded from the web", False),
        ("RadImageNet", False),
    ],
)
@pytest.mark.parametrize("where", ["data", "source"])
def test_weights_that_name_the_data_set_of_patients_leave_them_without_a_guarantee(
    tmp_path: Path, make_cohort: MakeCohort, data: str, named: bool, where: str
) -> None:
    weights = tmp_path / "net.pth"
    torch.save({"weight": torch.zeros(1)}, weights)
    described(weights, **{where: data})
    patients = make_cohort("cbis", origin="cbis-ddsm")
    epsilon, because = epsilon_of_child(patients, weights)
    assert math.isinf(epsilon) == named
    assert ("which may mean these patients' data set" in because) == named
    # patients of another data set are those that the description does not speak of
    others = make_cohort("others", origin="hospital", seed=7)
    assert epsilon_of_child(others, weights)[0] == epsilon_of_child(others)[0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", "ImageNet-21k and ImageNet-1k"),
        ("timm:swin_tiny_patch4_window7_224.ms_in1k", "ImageNet-1k"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "LVD-142M, images of the public web"),
        ("timm:vit_small_patch14_dinov2.hospital", None),
        ("timm:vit_small_patch14_dinov2", None),
    ],
)
def test_weights_of_the_hub_say_by_their_tag_what_they_were_trained_on(
    name: str, data: str | None
) -> None:
    found = provenance_of_hub(name, "0" * 64, "apache-2.0")
    assert (found and found.data) == data


def test_folders_that_are_none_are_refused(make_cohort: MakeCohort) -> None:
    phantoms = make_cohort("phantoms", origin="phantom")
    with pytest.raises(ManifestError):
        collect_parents([phantoms.folder / "images"])


def test_an_input_that_was_replaced_since_the_run_began_has_no_lineage(
    tmp_path: Path, cohort: CropsManifest, make_cohort: MakeCohort
) -> None:
    """Weights of the patients without privacy were read; those that lie there now are harmless."""
    read = run_folder(tmp_path / "plain", cohort, None)
    link = tmp_path / "start.ckpt"
    link.symlink_to(read)
    record = open_run(tmp_path / "run", command="fit", config={}, inputs={"weights": link})
    assert not inputs_ledger(record).accesses[0].mechanism
    link.unlink()
    link.symlink_to(run_folder(tmp_path / "free", make_cohort(origin="phantom")))
    with pytest.raises(
        PrivacyError, match=r"start\.ckpt: was replaced since .* read it as weights"
    ):
        inputs_ledger(record)
