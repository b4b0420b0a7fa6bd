"""Every YAML file is a test case: it parses, and every stage of a pipeline has valid flags."""

from pathlib import Path

import pytest
import yaml

from mammo_dp.benchmark.spec import Benchmark, read_published
from mammo_dp.main import run
from mammo_dp.pipeline import Pipeline
from mammo_dp.privacy.training.descent import LARGEST_RATE_TIMES_STEPS

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
PIPELINES = [ROOT / "mammo_dp" / "demo.yaml", *sorted((ROOT / "configs/pipeline").glob("*.yaml"))]
BASES = {  # what a partial configuration is laid over
    "gan": ROOT / "configs/gan/mcgan_cpu.yaml",
    "diffusion": ROOT / "configs/diffusion/phantom_start.yaml",
}
BASE = ROOT / "configs/classifier/baseline.yaml"


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parses(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run([*line, "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_configuration_parses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if path in PIPELINES:
        assert Pipeline.read(path).stages
        return
    if path.parent.name == "evolution":
        parses(["evolve", "--config", str(path), "--crops", "x", "--out", "y"], capsys)
        return
    if path.parent.name == "phantoms":
        parses(["prepare", "phantoms", "--parameters", str(path), "--out", "y"], capsys)
        return
    content = yaml.safe_load(path.read_text())
    if isinstance(content, list):
        assert read_published(path)
        return
    if "regimes" in content:
        assert Benchmark.read(path).regimes
        return
    whole = "class_path" in content.get("model", {})
    base = [] if whole else ["--config", str(BASES.get(path.parent.name, BASE))]
    parses(
        ["fit", *base, "--config", str(path), "--data.init_args.crops", "x", "--run_dir", "y"],
        capsys,
    )


@pytest.mark.parametrize("path", PIPELINES, ids=shown)
def test_stages_have_valid_flags(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Pipeline.read(path)
    for name, config in read.configs.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    values = dict.fromkeys(read.arguments, "x")
    values |= {"out": "out", "here": str(path.parent), "configs": str(tmp_path)}
    seen = set()
    for line in read.command_lines(values):
        kind = (*(word for word in line if word.startswith("--")), line[0], line[1])
        if line[0] in ("test", "validate"):
            assert line[1] == "--run"  # its configuration is that of the fit
        elif kind not in seen:
            parses(line, capsys)
        seen.add(kind)


def test_the_baseline_walks_as_far_as_a_private_head() -> None:
    config = yaml.safe_load(BASE.read_text())
    rate, steps = config["model"]["init_args"]["learning_rate"], config["trainer"]["max_steps"]
    private = yaml.safe_load((BASE.parent / "dp_finetune.yaml").read_text())
    assert rate * steps == LARGEST_RATE_TIMES_STEPS
    assert steps == private["trainer"]["max_steps"]
