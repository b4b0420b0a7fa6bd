import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from classifier.module import CropClassifier
from data_prep.descriptors.voting import Floats, describe
from data_prep.manifest import CropsManifest
from gan.module import MCGAN
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.evolution import evolve
from mammo_dp.privacy.evolution.population import Electorate
from mammo_dp.privacy.evolution.rounds import Round, RoundsAccount
from mammo_dp.privacy.evolution.simulators import GanSimulator, Genome, PhantomSimulator, Simulator
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.seals import seal
from mammo_dp.runs import close_run, file_sha256, open_run
from tests.privacy.statement.verify.chain import (
    DP,
    PLAIN,
    Verify,
    edit,
    files,
    forge,
    mechanism,
    said,
)
from tests.privacy.training.fits import quiet

pytestmark = quiet
BODY = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
FLAGS = ["--target_epsilon=8", "--delta=1e-3", "--candidates=4", "--rounds=3", "--per_class=5"]


def evolution(cohort: CropsManifest, out: Path, *more: str) -> int:
    return main(["evolve", "--crops", str(cohort.folder), "--out", str(out), *FLAGS, *more])


def statement(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "privacy.json").read_text())["statements"][0]
    return found


@pytest.fixture(scope="module")
def made(cohort: CropsManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        folder = tmp_path_factory.mktemp("made")
        assert evolution(cohort, folder / "evolved") == 0
    return folder / "evolved"


@pytest.fixture
def evolved(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copytree(made, tmp_path / "evolved")
    monkeypatch.chdir(tmp_path)
    return "evolved"


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    def called(folder: str = "evolved") -> dict[str, Any]:
        capsys.readouterr()
        main(["privacy", "verify", folder, "--format", "json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return called


def test_crops_are_labelled_distinct_and_name_their_round(made: Path) -> None:
    manifest = CropsManifest.read(made)
    assert [crop.malignant for crop in manifest.crops] == [False, True] * 5
    origin = f"evolved:{file_sha256(made / 'rounds' / '002.json')}"
    for crop in manifest.crops:
        assert (crop.origin, crop.label_source, crop.split) == (origin, "generator", "train")
        assert crop.is_synthetic
        assert crop.attributes["shape"]
    assert len({crop.sha256 for crop in manifest.crops}) == 10
    assert manifest.images(manifest.rows()).shape == (10, 32, 32)


def test_statement_covers_every_round_for_each_patient(made: Path, cohort: CropsManifest) -> None:
    found = statement(made)
    assert (found["unit"], found["units"], found["delta"]) == ("patient", 4, 1e-3)
    assert (found["sampling_rate"], found["steps"]) == (1.0, 3)
    assert 7.9 < found["epsilon"] <= 8
    assert found["cohort"] == Cohort.of_manifest(cohort, "train").tag
    stored = json.loads((made / "privacy.json").read_text())
    assert stored["artefact"] == {"path": "crops.csv", "sha256": file_sha256(made / "crops.csv")}
    assert "every patient votes in every round" in stored["randomness"]["sampling"]
    text = (made / "PRIVACY.md").read_text()
    assert "for each patient of phantom-archive/train" in text
    assert "by hand beside" in text  # the phantoms' own exclusion
    note = stored["accesses"][0]["note"]  # somebody may have put older rounds back
    assert note.startswith("The noisy votes, in rounds/, are no part of the release: private")


def test_no_file_holds_exact_votes(made: Path, cohort: CropsManifest) -> None:
    voters, simulator = Electorate.of_manifest(cohort, "train"), PhantomSimulator(size=32)
    noise = statement(made)["noise_multiplier"]
    for path in sorted((made / "rounds").iterdir()):
        stored = json.loads(path.read_text())
        genomes = [
            [Genome(malignant=g["malignant"], steps=tuple(map(tuple, g["steps"]))) for g in of]
            for of in stored["candidates"]
        ]
        exact = voters.votes(np.stack([describe(simulator.render(of)) for of in genomes]))
        difference = np.array(stored["votes"]) - exact
        assert (np.abs(difference) > 1e-9).all()
        assert (np.abs(difference) < 6 * noise).all()
    names = {path.name for path in made.iterdir()}
    assert names == {
        *("PRIVACY.md", "account.json", "crops.csv", "images", "privacy.json"),
        *("privacy_evidence.json", "rounds", "run.json"),
    }


def test_votes_in_the_features_of_a_network_are_those_of_a_loop_over_crops(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    space = evolve.FeatureSpace(CropClassifier(backbone_args=BODY, image_size=16).eval())
    voters = Electorate.of_manifest(cohort, "train", described=space)
    simulator = PhantomSimulator(size=32)
    rng = np.random.default_rng(0)
    candidates = tuple(
        tuple(Genome.fresh(rng, malignant=bool(label)) for _ in range(5)) for label in (0, 1)
    )
    described = evolve.Described(simulator, space)
    votes = voters.votes(described(candidates))
    naive = np.zeros((2, 5))
    for rows in voters.sampling.rows_of:
        own = np.zeros((2, 5))
        for row in rows:
            label = int(cohort.crops[row].malignant)
            (crop,) = space((cohort.images([row]) / 65535).astype(np.float32))
            offered = [space(simulator.render([one]))[0] for one in candidates[label]]
            own[label, int(np.argmin([math.dist(crop, one) for one in offered]))] += 1
        naive += own / np.linalg.norm(own)  # a vote of length 1, whatever the space
    np.testing.assert_allclose(votes, naive, atol=1e-9)
    assert np.ptp(votes) > 0


def test_each_candidate_is_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(images: Floats) -> Floats:
        seen.append(len(images))
        return describe(images)

    rng = np.random.default_rng(0)
    one, two, three = (Genome.fresh(rng, malignant=False) for _ in range(3))
    described = evolve.Described(simulator := PhantomSimulator(size=32), counted)
    described(((one, two), (two, two)))
    found = described(((three, one), (one, two)))
    assert seen == [2, 1]
    naive = describe(simulator.render([three, one, one, two])).reshape(2, 2, -1)
    np.testing.assert_allclose(found, naive, atol=1e-5)


def test_statement_names_the_public_network_whose_features_decide(
    cohort: CropsManifest, tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = CropClassifier(backbone_args=BODY, image_size=16)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(content, "body.ckpt")
    assert evolution(cohort, Path("unknown"), "--features=body.ckpt") == 1
    described = {"source": "a hub", "data": "ImageNet-1k", "licence": "Apache-2.0"}
    described["sha256"] = file_sha256(Path("body.ckpt"))
    Path("body.ckpt.provenance.yaml").write_text(yaml.safe_dump(described))
    assert evolution(cohort, Path("out"), "--features=body.ckpt") == 0
    assert 7.9 < statement(Path("out"))["epsilon"] <= 8
    assert "ImageNet-1k" in Path("out/PRIVACY.md").read_text()
    assert verify("out")["findings"] == []


def test_verify_derives_the_statement_again(evolved: str, verify: Verify) -> None:
    found = verify()
    assert found["findings"] == []
    assert (found["checked"]["accounts"], found["checked"]["cohorts"]) == (1, 1)


def test_a_mechanism_that_the_account_does_not_hold_is_named(evolved: str, verify: Verify) -> None:
    forge(evolved, lambda stored: mechanism(stored).update(steps=1), key=True)
    assert "but evolved/privacy.json says" in said(verify(), "evolved/account.json")


def test_an_account_of_other_noise_or_more_rounds_is_named(evolved: str, verify: Verify) -> None:
    def otherwise(stored: dict[str, Any]) -> None:
        stored["mechanism"].update(steps=9, noise_multiplier=0.1)

    edit("evolved/account.json", otherwise)
    assert "does not fit its seal" in said(verify(), "evolved/account.json")
    edit(
        "evolved/account.json",
        lambda stored: stored.pop("seal") and stored.update(seal=seal(stored)),
    )
    forge(
        evolved,
        lambda stored: mechanism(stored).update(steps=9, noise_multiplier=0.1),
        key=True,
    )
    found = verify()
    assert files(found) == {"evolved/account.json"}
    assert "accounts for 9 rounds, but rounds is 3" in said(found, "evolved/account.json")


def test_a_lost_account_and_an_altered_round_are_named(evolved: str, verify: Verify) -> None:
    Path("evolved/account.json").unlink()
    edit("evolved/rounds/002.json", lambda stored: stored["votes"][0].reverse())
    found = verify()
    assert files(found) == {"evolved/account.json", "evolved/rounds/002.json"}


def test_a_hidden_vote_is_named(evolved: str, verify: Verify) -> None:
    forge(evolved, lambda stored: stored["accesses"].clear(), key=True)
    what = said(verify(), "evolved/privacy.json")
    assert "lists no access to phantom-archive/train, which evolved used" in what


def test_crops_of_another_round_are_named(evolved: str, verify: Verify) -> None:
    path = Path("evolved/rounds/002.json")
    edit(str(path), lambda stored: stored["votes"][0].reverse())
    forge(evolved, lambda stored: None, key=True)
    assert files(verify()) == {"evolved/account.json"}
    assert any("002.json: does not fit its seal" in found["what"] for found in verify()["findings"])
    stored = json.loads(path.read_text())
    del stored["seal"]
    path.write_text(json.dumps({**stored, "seal": seal(stored)}))
    forge(evolved, lambda stored: None, key=True)
    assert files(verify()) == {"evolved/crops.csv"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_private_fit_on_evolved_crops_composes_with_their_votes(
    evolved: str, cohort: CropsManifest
) -> None:
    for name, config in (("plain", PLAIN), ("dp", DP)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    fit = ["fit", "--config"]
    pretrain = ["plain.yaml", "--data.init_args.crops", evolved, "--run_dir", "pretrain"]
    assert main([*fit, *pretrain]) == 0
    (access,) = json.loads(Path("pretrain/privacy.json").read_text())["accesses"]
    assert access == json.loads(Path(evolved, "privacy.json").read_text())["accesses"][0]
    weights = ["--model.init_args.weights", "pretrain/checkpoints/last.ckpt"]
    tune = ["dp.yaml", "--data.init_args.crops", str(cohort.folder), "--run_dir", "dp"]
    assert main([*fit, *tune, *weights]) == 0
    assert main(["privacy", "verify", "dp"]) == 0
    votes, steps = (
        Mechanism(noise_multiplier=s["noise_multiplier"], sampling_rate=1.0, steps=s["steps"])
        for s in (statement(Path(evolved)), statement(Path("dp")))
    )
    joint = compose([votes, steps]).epsilon(1e-3)
    assert statement(Path("dp"))["epsilon"] == pytest.approx(joint, rel=1e-6)
    assert joint > 1.2 * statement(Path(evolved))["epsilon"]


def killed(*_: object, **__: object) -> None:
    """In place of what the process does next."""
    raise KeyboardInterrupt


def test_a_killed_run_pays_for_the_round_it_lost_and_repeats_none(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    out, save = tmp_path / "evolved", RoundsAccount.save

    def killed(account: RoundsAccount, step: int, result: Round) -> None:
        if step == 1:
            raise KeyboardInterrupt
        save(account, step, result)

    with monkeypatch.context() as patch:
        patch.setattr(RoundsAccount, "save", killed)
        assert evolution(cohort, out) == 130
    first = (out / "rounds" / "000.json").read_bytes()
    assert json.loads((out / "account.json").read_text())["mechanism"]["steps"] == 2
    assert evolution(cohort, out) == 0
    assert (out / "rounds" / "000.json").read_bytes() == first
    assert sorted(path.name for path in (out / "rounds").iterdir()) == ["000.json", "002.json"]
    assert statement(out)["steps"] == 3
    monkeypatch.chdir(tmp_path)
    assert verify()["findings"] == []


def test_a_run_killed_while_it_writes_crops_writes_the_same_without_voting_again(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evolve, "write_crops", killed)
        assert evolution(cohort, tmp_path / "out") == 130
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "rounds").iterdir()}
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    for name in ("out", "copy"):
        assert evolution(cohort, tmp_path / name) == 0
    assert {path: path.read_bytes() for path in before} == before
    one, other = ((tmp_path / name / "crops.csv").read_bytes() for name in ("out", "copy"))
    assert one == other
    assert evolution(cohort, tmp_path / "out") == 0  # finished: nothing happens
    assert {path: path.read_bytes() for path in before} == before


def test_the_first_crop_that_is_written_ends_the_rounds(
    cohort: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "evolved"

    with monkeypatch.context() as patch:
        patch.setattr(CropsManifest, "write", killed)
        assert evolution(cohort, out) == 130
    images = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    shutil.copytree(out, tmp_path / "kept")
    shutil.rmtree(out / "rounds")
    (out / "account.json").unlink()
    capsys.readouterr()
    assert evolution(cohort, out) == 1
    assert "an earlier start wrote crops" in capsys.readouterr().err
    shutil.rmtree(out)
    shutil.copytree(tmp_path / "kept", out)
    assert evolution(cohort, out) == 0
    assert {path.name: path.read_bytes() for path in (out / "images").iterdir()} == images


def test_crops_that_may_have_been_seen_are_made_no_second_time(
    cohort: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed before the statement; then state is lost, or an older one put back."""
    out, older = tmp_path / "evolved", tmp_path / "older"
    save = RoundsAccount.save

    def saved(self: RoundsAccount, step: int, result: Round) -> None:
        save(self, step, result)
        if step == 0:
            shutil.copytree(out, older)

    with monkeypatch.context() as patch:
        patch.setattr(RoundsAccount, "save", saved)
        patch.setattr("mammo_dp.privacy.evolution.rounds.write_evolution_statement", killed)
        assert evolution(cohort, out) == 130
    crops = (out / "crops.csv").read_bytes()
    shutil.copytree(out, tmp_path / "kept")
    for state in (None, older):
        shutil.rmtree(out / "rounds", ignore_errors=True)
        (out / "account.json").unlink(missing_ok=True)
        if state is not None:
            shutil.copytree(state / "rounds", out / "rounds")
            shutil.copy(state / "account.json", out)
        capsys.readouterr()
        assert evolution(cohort, out) == 1
        assert "an earlier start wrote crops" in capsys.readouterr().err
        assert (out / "crops.csv").read_bytes() == crops
    shutil.rmtree(out)
    shutil.copytree(tmp_path / "kept", out)
    assert evolution(cohort, out) == 0
    assert (out / "crops.csv").read_bytes() == crops
    assert main(["privacy", "verify", str(out)]) == 0


def test_crops_of_patients_in_an_unfinished_folder_become_none_of_this_run(
    cohort: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the table, under its origin, and in place of an image: all follow from the last round."""
    out = tmp_path / "evolved"

    with monkeypatch.context() as patch:
        patch.setattr("mammo_dp.privacy.evolution.rounds.write_evolution_statement", killed)
        assert evolution(cohort, out) == 130
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    made, image = CropsManifest.read(out), out / "images" / "000000_benign.png"
    theirs = [
        replace(one, file=f"images/{number:06d}_x.png", patient_id="", origin=made.crops[0].origin)
        for number, one in enumerate(cohort.crops)
        if one.split == "train"
    ]
    for one, row in zip(theirs, cohort.rows("train"), strict=True):
        shutil.copyfile(cohort.folder / cohort.crops[row].file, out / one.file)
    CropsManifest.write(out, theirs)
    capsys.readouterr()
    assert evolution(cohort, out) == 1
    assert "_x.png is no crop of this run" in capsys.readouterr().err
    for one in theirs:
        (out / one.file).unlink()
    shutil.copyfile(cohort.folder / cohort.crops[0].file, image)
    assert evolution(cohort, out) == 1
    assert "is not the crop that follows from the last round" in capsys.readouterr().err
    image.write_bytes(before[image][:100])  # half of it, after a power cut
    rounded = made.image(1) ^ 1  # by another machine
    Image.fromarray(rounded).save(image.with_name("000001_malignant.png"), compress_level=9)
    assert evolution(cohort, out) == 0
    written = {path for path in before if path.name != "run.json"}
    assert {path: path.read_bytes() for path in written} == {path: before[path] for path in written}
    assert main(["privacy", "verify", str(out)]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--delta", "0.3"], "delta=0.3 is not below 1/4"),
        (["--candidates", "0"], "candidates=0 (give 1 or more)"),
        (["--rounds", "0"], "rounds=0 (give 1 or more)"),
        (["--per_class", "0"], "per_class=0"),
        (["--split", "test"], "split 'test' holds no crop"),
        (["--target_advantage", "0.1"], "epsilon and advantage given"),
    ],
)
def test_what_cannot_be_promised_is_refused_before_any_vote(
    flags: list[str],
    message: str,
    cohort: CropsManifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evolution(cohort, tmp_path / "out", *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()  # free for the right flags


def test_a_folder_of_something_else_is_left_alone(
    made: Path, cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evolution(cohort, made, "--candidates", "5") == 1
    assert "candidates: 4, now 5" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert evolution(cohort, tmp_path) == 1
    assert "holds files but no run.json" in capsys.readouterr().err


def trained(folder: Path, ledger: PrivacyLedger) -> Path:
    """A run folder of an MCGAN with a given lineage; untrained weights."""
    torch.manual_seed(0)
    net = MCGAN(image_size=32, channels=2, latent=8)
    record = open_run(folder, command="fit", config={}, inputs={}, seed=1)
    weights = folder / "last.ckpt"
    torch.save(
        {
            "state_dict": net.state_dict(),
            "hyper_parameters": dict(net.hparams),
            "crop_rule": "as-is",
            "pytorch-lightning_version": "2.6",
        },
        weights,
    )
    write_statement(folder, ledger, artefact=weights, run=record)
    close_run(record)
    return weights


def test_a_generator_of_other_patients_serves_and_its_patients_are_listed(
    cohort: CropsManifest, make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    others = make_cohort("others", origin="another-archive")
    ledger = PrivacyLedger().plus(Access.of_training("MCGAN", others, "train"))
    weights = trained(tmp_path / "gan", ledger)
    assert evolution(cohort, tmp_path / "out", "--checkpoint", str(weights)) == 0
    stored = json.loads((tmp_path / "out" / "privacy.json").read_text())
    theirs, ours = stored["statements"]
    assert (theirs["cohort"], theirs["epsilon"]) == (
        Cohort.of_manifest(others, "train").tag,
        "infinity",
    )
    assert ours["cohort"] == Cohort.of_manifest(cohort, "train").tag
    assert 7.9 < ours["epsilon"] <= 8
    assert "by hand beside" not in json.dumps(stored)
    crops = CropsManifest.read(tmp_path / "out").crops
    assert {(crop.crop_rule, len(crop.attributes)) for crop in crops} == {("as-is", 0)}


def test_a_generator_that_saw_these_patients_is_refused_unless_infinity_is_accepted(
    cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = PrivacyLedger().plus(Access.of_training("MCGAN", cohort, "train"))
    flags = ["--checkpoint", str(trained(tmp_path / "gan", ledger))]
    assert evolution(cohort, tmp_path / "out", *flags) == 1
    said = capsys.readouterr().err
    assert "MCGAN was trained on these patients without DP. No noise can restore" in said
    assert not (tmp_path / "out" / "account.json").exists()
    assert evolution(cohort, tmp_path / "open", *flags, "--allow_unbounded", "true") == 0
    assert statement(tmp_path / "open")["epsilon"] == "infinity"


def test_a_generator_of_unknown_patients_may_have_seen_these(
    cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = PrivacyLedger().plus(Access.of_unknown("medigan 00008", ""))
    weights = trained(tmp_path / "gan", ledger)
    assert evolution(cohort, tmp_path / "out", "--checkpoint", str(weights)) == 1
    assert "It is unknown whose data medigan 00008 used." in capsys.readouterr().err


def test_a_private_generator_of_these_patients_composes(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    earlier = Mechanism(noise_multiplier=2.0, sampling_rate=1.0, steps=4)
    ledger = PrivacyLedger().plus(
        Access.of_training("DPMCGAN", cohort, "train", mechanism=earlier, released="x")
    )
    weights = trained(tmp_path / "gan", ledger)
    assert evolution(cohort, tmp_path / "out", "--checkpoint", str(weights)) == 0
    (found,) = json.loads((tmp_path / "out" / "privacy.json").read_text())["statements"]
    votes = Mechanism(noise_multiplier=found["noise_multiplier"], sampling_rate=1.0, steps=3)
    assert found["epsilon"] == pytest.approx(compose([earlier, votes]).epsilon(1e-3), rel=1e-6)


def simulators(folder: Path) -> list[Simulator]:
    weights = trained(folder / "gan", PrivacyLedger())
    return [PhantomSimulator(size=32), GanSimulator.read(weights)]


def test_simulators_draw_equal_genomes_alike_and_relatives_similarly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for simulator in simulators(tmp_path):
        genomes = [Genome.fresh(rng, malignant=bool(i % 2)) for i in range(8)]
        images = simulator.render(genomes)
        assert images.shape == (8, 32, 32)
        assert images.dtype == np.float32
        assert 0 <= images.min() < images.max() <= 1
        assert np.allclose(simulator.render(genomes[3:4])[0], images[3], atol=1e-5)
        change = [
            np.abs(
                simulator.render([genome.varied(rng, degree=degree) for genome in genomes]) - images
            ).mean()
            for degree in (0.01, 0.3, 1.0)
        ]
        assert change[0] < change[1] < change[2]
        assert change[0] < 0.2 * change[2]


def test_latent_vectors_stay_standard_normal_under_variation(tmp_path: Path) -> None:
    simulator, rng = simulators(tmp_path)[1], np.random.default_rng(1)
    assert isinstance(simulator, GanSimulator)
    genome = Genome.fresh(rng, malignant=True)
    before = simulator._input(genome)
    after = simulator._input(genome.varied(rng, degree=0.6).varied(rng, degree=0.6))
    assert abs(after.std() - 1) < 0.1
    correlation = np.corrcoef(before, after)[0, 1]
    assert math.isclose(correlation, 1 - 0.6**2, abs_tol=0.08)


def test_help_explains(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["evolve", "--help"])
    assert status.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("patients' noisy votes chose", "--target_epsilon", "splits the votes"):
        assert part in shown
