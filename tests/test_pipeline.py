from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from mammo_dp import pipeline
from mammo_dp.main import main
from mammo_dp.pipeline import Pipeline, PipelineError
from mammo_dp.runs import RunError


def write(path: Path, **changes: object) -> Path:
    content = {
        "description": "Two stages.",
        "arguments": {"crops": "Folder of crops."},
        "configs": {"tiny": {"trainer": {"max_epochs": 1}}},
        "stages": [
            "prepare crop_folder --root {crops} --out {out}/real",
            {
                "grid": {"source": ["a", "b"], "epsilon": [1, 6]},
                "each": "fit --config {configs}/tiny.yaml --run_dir {out}/{source}_{epsilon}",
            },
        ],
    }
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return path


def test_stages_unfold_in_order(tmp_path: Path) -> None:
    file, out, calls = write(tmp_path / "two.yaml"), tmp_path / "out", []
    arguments = [str(file), "--crops", "my crops", "--out", str(out)]
    pipeline.pipeline(arguments, lambda line: calls.append(list(line)))
    assert calls[0] == ["prepare", "crop_folder", "--root", "my crops", "--out", f"{out}/real"]
    assert [line[-1] for line in calls[1:]] == [
        f"{out}/{name}" for name in ("a_1", "a_6", "b_1", "b_6")
    ]
    assert yaml.safe_load((out / "configs" / "tiny.yaml").read_text()) == {
        "trainer": {"max_epochs": 1}
    }


def test_first_failure_stops_and_the_same_call_goes_on(tmp_path: Path) -> None:
    file, calls = write(tmp_path / "two.yaml"), []

    def fail_at_third(line: Sequence[str]) -> None:
        calls.append(line)
        if len(calls) == 3:
            raise RuntimeError("power cut")

    arguments = [str(file), "--crops", "c", "--out", str(tmp_path / "out")]
    with pytest.raises(RuntimeError, match="power cut"):
        pipeline.pipeline(arguments, fail_at_third)
    assert len(calls) == 3
    pipeline.pipeline(arguments, fail_at_third)
    assert len(calls) == 8


def test_another_pipeline_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    arguments = ["--crops", "c", "--out", str(tmp_path / "out")]
    pipeline.pipeline([str(write(tmp_path / "a.yaml")), *arguments], lambda _: None)
    other = write(tmp_path / "b.yaml", stages=["report --runs {out}"])
    with pytest.raises(RunError, match="another configuration"):
        pipeline.pipeline([str(other), *arguments], lambda _: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ["fit --run_dir {outt}/x"]}, r"stage 1: \['outt'\] have no value"),
        ({"stages": [{"each": "fit"}]}, "stage 1: is no command line and no grid"),
        ({"arguments": {"out": "x", "crops": "y"}}, r"arguments \['out'\] are reserved"),
        ({"colour": "red"}, "is no pipeline"),
        ({"stages": ["fit 'quoted"]}, r"is no pipeline \(No closing quotation"),
        ({"stages": [{"grid": ["a"], "each": "fit"}]}, "is no pipeline"),
    ],
)
def test_malformed_files_are_named(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        Pipeline.read(write(tmp_path / "bad.yaml", **changes))


def test_missing_file_and_missing_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PipelineError, match=r"no\.yaml: is no pipeline"):
        Pipeline.read(tmp_path / "no.yaml")
    with pytest.raises(PipelineError, match="FILE: is missing"):
        pipeline.pipeline([], lambda _: None)
    with pytest.raises(SystemExit):
        pipeline.pipeline([str(write(tmp_path / "a.yaml")), "--out", "x"], lambda _: None)
    assert "--crops" in capsys.readouterr().err
    pipeline.pipeline(["--help"], lambda _: None)
    assert "pipeline file" in capsys.readouterr().out


def test_verify_of_a_pipeline_visits_its_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ["prepare phantoms --per_class 1 --size 16 --out {out}/phantoms"]
    file = write(tmp_path / "one.yaml", stages=stages, arguments={}, configs={})
    out = tmp_path / "out"
    assert main(["pipeline", str(file), "--out", str(out)]) == 0
    assert main(["privacy", "verify", str(out)]) == 0
    assert "folders 2" in capsys.readouterr().out
    table = out / "phantoms" / "crops.csv"
    table.write_text(table.read_text() + "\n")
    assert main(["privacy", "verify", str(out)]) == 1
    assert f"{table}: was altered" in capsys.readouterr().err
