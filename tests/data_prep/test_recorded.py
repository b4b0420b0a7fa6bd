import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_prep.errors import DataError
from data_prep.manifest import CropsManifest
from data_prep.recorded import as_recorded, read_recorded
from mammo_dp.main import main
from mammo_dp.runs import file_sha256
from tests.export.classifiers import run_of_classifier
from tests.export.conftest import run_of_fit
from tests.privacy.statement.verify.chain import PLAIN
from tests.privacy.training.fits import quiet

pytestmark = quiet
MODEL, GAN, MEANS = "model/checkpoints/last.ckpt", "gan/checkpoints/last.ckpt", "means/means.pt"
ASK = f"release-means --crops patients --checkpoint {MODEL} --target_epsilon 20 --delta 1e-2 --out"
EVOLVE = "--target_epsilon 8 --delta 1e-2 --candidates 2 --rounds 1 --per_class 2 --out out"


def test_a_file_is_read_as_it_was_recorded_and_no_other_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, other = Path("one"), Path("other")
    path.write_text("recorded")
    with as_recorded({path: file_sha256(path)}), as_recorded({Path("gone"): ""}):
        assert read_recorded(tmp_path / "one") == b"recorded"
        other.write_text("anything")
        assert read_recorded(other) == b"anything"
        path.write_text("exchanged")
        Path("link").symlink_to(path)
        for spelled in (path, tmp_path / ".." / tmp_path.name / "one", Path("link")):
            with pytest.raises(DataError, match=r"(one|link): is not the file that was recorded"):
                read_recorded(spelled)
    assert read_recorded(path) == b"exchanged"


def test_a_table_of_crops_is_read_as_it_was_recorded(cohort: CropsManifest) -> None:
    table = cohort.folder / "crops.csv"
    with as_recorded({table: file_sha256(table)}):
        assert CropsManifest.read(cohort.folder) == cohort
    with (
        as_recorded({table: "0" * 64}),
        pytest.raises(DataError, match=r"crops\.csv: is not the file that was recorded"),
    ):
        CropsManifest.read(cohort.folder)


@pytest.fixture
def chain(
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Classifiers, generators and means, each of them twice."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cohort.folder, "patients")
    make_cohort("phantoms", origin="phantom", crops=16)
    others = make_cohort("others", origin="another-archive")
    for name in ("model", "model2"):
        run_of_classifier(Path(name), others, calibration=(1.0, float(len(name))))
        run_of_fit(Path(name.replace("model", "gan")), None)
    with Path("gan2/checkpoints/last.ckpt").open("ab") as file:
        file.write(b"\0")
    config = {**PLAIN, "model": {**PLAIN["model"]}, "data": {**PLAIN["data"]}}
    for part in ("model", "data"):
        config[part]["init_args"] = {**config[part]["init_args"], "image_size": 16}
    Path("fit.yaml").write_text(yaml.safe_dump(config))


def exchange(patch: pytest.MonkeyPatch, path: Path, other: Path) -> None:
    """Whoever loads a file finds another, which is gone when its hash is taken."""
    read, load, hidden = Path.read_bytes, torch.load, path.absolute()
    assert read(path) != read(other)

    def read_other(self: Path) -> bytes:
        return read(other if self.absolute() == hidden else self)

    def load_other(source: Any, **named: Any) -> object:  # noqa: ANN401  whatever torch.load takes
        is_hidden = isinstance(source, str | Path) and Path(source).absolute() == hidden
        return load(other if is_hidden else source, **named)

    patch.setattr(Path, "read_bytes", read_other)
    patch.setattr(torch, "load", load_other)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"relabel --crops phantoms --checkpoint {MODEL} --out out", MODEL),
        (f"{ASK} out", MODEL),
        (f"match-means --crops phantoms --means {MEANS} --per_class 2 --out out", MEANS),
        (f"evolve --crops patients --features {MODEL} {EVOLVE}", MODEL),
        (f"evolve --crops patients --checkpoint {GAN} {EVOLVE}", GAN),
        (f"generate --checkpoint {GAN} --per_class 2 --out out", GAN),
        (f"export medigan --checkpoint {GAN} --name M --out out", GAN),
        (
            "fit --config fit.yaml --data.init_args.crops phantoms --run_dir out "
            f"--model.init_args.weights {MODEL}",
            MODEL,
        ),
    ],
)
def test_a_file_that_is_exchanged_while_it_is_loaded_stops_the_command(
    line: str,
    name: str,
    chain: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == MEANS:
        assert main(f"{ASK} means".split()) == main(f"{ASK} means2".split()) == 0
    folder = name.partition("/")[0]
    exchange(monkeypatch, Path(name), Path(name.replace(folder, f"{folder}2", 1)))
    assert main(line.split()) == 1
    assert f"{name}: is not the file that was recorded" in capsys.readouterr().err


def test_an_export_is_of_the_checkpoint_that_its_statement_is_about(
    chain: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        exchange(patch, Path(MODEL), Path("model2/checkpoints/last.ckpt"))
        line = "export classifier --run model --out out --licence_of_cohort ours"
        assert main(line.split()) == 1
    assert f"{MODEL}: is not the file that was recorded" in capsys.readouterr().err
    assert main(line.split()) == 0
