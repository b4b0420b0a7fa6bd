"""What a user installs: names, package data, entry point."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import mammo_dp
from mammo_dp.main import name_clash

ROOT = Path(__file__).resolve().parent.parent


def test_version_stands_once_in_effect() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == mammo_dp.__version__ == distribution("mammo-dp").version
    assert f"version: {mammo_dp.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_no_gpl_and_each_named_library_is_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = " ".join(project["dependencies"])
    for name in ("torch", "timm", "opacus", "pydicom", "albumentations", "scikit-learn"):
        assert name in required
    assert "pylibjpeg-libjpeg" not in (ROOT / "pyproject.toml").read_text()


def test_the_four_packages_lie_side_by_side() -> None:
    assert name_clash() is None


def test_a_foreign_package_in_place_of_ours_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gan").mkdir()
    (tmp_path / "gan" / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "gan", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    message = name_clash()
    assert message is not None
    assert "'gan'" in message
    assert "fresh virtual environment" in message


@pytest.mark.slow
def test_wheel_holds_the_four_packages_and_their_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("data_prep", "gan", "classifier", "mammo_dp", "pyproject.toml", "README.md"):
        (source / name).symlink_to(ROOT / name)
    (source / "LICENSE").write_text((ROOT / "LICENSE").read_text())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"data_prep", "gan", "classifier", "mammo_dp"}
    assert {f"{top}/py.typed" for top in tops} <= names
    assert {
        "mammo_dp/demo.yaml",
        "mammo_dp/report/page.html.jinja",
        "data_prep/card.html.jinja",
    } <= names
