from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.manifest import CropsManifest
from data_prep.phantoms.crops import write_phantom_crops
from data_prep.phantoms.parameters import (
    MarginShares,
    PhantomError,
    PhantomParameters,
    ShapeShares,
)
from mammo_dp.main import run

DEFAULT = Path(__file__).parents[3] / "configs" / "phantoms" / "default.yaml"
KNOWN = PhantomParameters()


def test_the_default_file_holds_the_defaults() -> None:
    assert flat(yaml.safe_load(DEFAULT.read_text())) == flat(asdict(KNOWN))


def flat(values: dict[str, Any]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            pairs |= {f"{name}.{key}": list(pair) for key, pair in value.items()}
        else:
            pairs[name] = list(value) if isinstance(value, tuple) else value
    return pairs


def test_parameters_come_from_a_file_and_from_single_flags(tmp_path: Path) -> None:
    line = ["prepare", "phantoms", "--per_class", "2", "--size", "16"]
    line += ["--parameters", str(DEFAULT), "--parameters.level_mean", "0.9", "--out"]
    run([*line, str(tmp_path / "flag")])
    brighter = replace(KNOWN, level_mean=0.9)
    direct = write_phantom_crops(tmp_path / "direct", per_class=2, size=16, parameters=brighter)
    assert CropsManifest.read(tmp_path / "flag").sha256 == direct.sha256
    plain = write_phantom_crops(tmp_path / "plain", per_class=2, size=16)
    assert plain.sha256 != direct.sha256
    with pytest.raises(PhantomError, match=r"margins, benign: .*sum 1"):
        run([*line, str(tmp_path / "share"), "--parameters.margins.spiculated", "[0.03, 0.39]"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("densities", (0.5, 0.5, 0.5, 0.5), "densities: .*sum 1"),
        ("subtleties", (1.5, -0.5, 0, 0, 0), "subtleties: .*at least 0"),
        ("margins", MarginShares(spiculated=(0.08, 0.5)), "margins, malignant: .*sum 1"),
        ("shapes", ShapeShares(round=(0.3, 0.09)), "shapes, benign: .*sum 1"),
        ("size_range", (0.6, 0.3), "size_range: .*smaller one first"),
        ("size_range", (0.0, 0.3), "size_range: .*at least 0.001"),
        ("mass_contrast_range", (0.0, 0.3), "mass_contrast_range: .*at least 0.001"),
        ("grain_range", (-0.1, 0.3), "grain_range: .*at least 0"),
        ("skin_probability", 1.5, "skin_probability: 1.5.*0 to 1"),
        ("calcification_probability", (0.1, -0.1), "calcification_probability: .*0 to 1"),
        ("offset", 0.4, "offset: 0.4.*0 to 0.25"),
        ("level_sd", -0.1, "level_sd: -0.1.*0 to 0.25"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(PhantomError, match=f"phantoms, {message}"):
        replace(KNOWN, **{name: value})  # type: ignore[arg-type]


def test_every_parameter_is_described() -> None:
    described = PhantomParameters.__doc__ or ""
    assert all(f"        {item.name}: " in described for item in fields(KNOWN))
