"""The import graph is the architecture: who may import whom, and what help costs."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {
    "data_prep": {"data_prep"},
    "gan": {"data_prep", "gan"},
    "classifier": {"data_prep", "classifier"},
    "mammo_dp": {"data_prep", "gan", "classifier", "mammo_dp"},
}
# Within mammo_dp: each may import those to its left.
ORDER = (
    "runs",
    "signatures",
    "usage",
    "crop_rule",
    "drawing",
    "projected",
    "privacy",
    "training_help",
    "training_progress",
    "training_cli",
    "attacks",
    "fidelity",
    "report",
    "export",
    "benchmark",
    "pipeline",
    "select",
    "commands",
    "main",
)
# Within mammo_dp.privacy and mammo_dp.attacks: likewise. ``privacy.commands`` alone knows the
# checks of all stages.
ATTACKS_ORDER = (
    "arrays",
    "statistics",
    "lower_bounds",
    "statements",
    "audit",
    "membership",
    "synthetic",
    "bounds",
    "reconstruction",
    "ladder",
)
PRIVACY_ORDER = ("errors", "accounting", "statement", "training", "evolution", "means", "commands")
WITHIN = {"privacy": PRIVACY_ORDER, "attacks": ATTACKS_ORDER}

USERS_OF_PYDICOM = (
    "dicom",
    "dicom_checks",
    "dicom_volumes",
    "phantoms/archive",
    "phantoms/tomosynthesis_archive",
    "secondary_capture",
)


def modules() -> list[Path]:
    return sorted(path for package in LAYERS for path in (ROOT / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return frozenset(found)


def test_imports_follow_the_direction() -> None:
    upwards = []
    for path in modules():
        parts = path.relative_to(ROOT).with_suffix("").parts
        ours = {name for name in imports(path) if name.split(".")[0] in LAYERS}
        wrong = {name.split(".")[0] for name in ours} - LAYERS[parts[0]]
        if parts[0] == "mammo_dp" and parts[1] in ORDER:
            inner = {name.split(".")[1] for name in ours if name.startswith("mammo_dp.")}
            wrong |= inner - set(ORDER[: ORDER.index(parts[1]) + 1])
        if wrong:
            upwards.append((path, wrong))
    assert upwards == []


def test_imports_within_a_package_follow_the_direction() -> None:
    upwards = []
    for package, order in WITHIN.items():
        for path in (ROOT / "mammo_dp" / package).rglob("*.py"):
            _, _, *rest = path.relative_to(ROOT).with_suffix("").parts
            if rest[0] == "__init__":
                continue
            found = imports(path)
            inner = {
                name.split(".")[2] for name in found if name.startswith(f"mammo_dp.{package}.")
            }
            if wrong := inner - set(order[: order.index(rest[0]) + 1]):
                upwards.append((path, wrong))
    assert upwards == []


def test_pydicom_is_used_where_dicom_is_read_or_written() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in modules()
        if any(name.split(".")[0] == "pydicom" for name in imports(path))
    }
    assert users <= {f"data_prep/{name}.py" for name in USERS_OF_PYDICOM}


def test_monai_is_imported_by_functions_alone() -> None:
    """It takes ten seconds, which commands without a diffusion shall not."""
    for path in modules():
        for node in parsed(path).body:
            names = [alias.name for alias in getattr(node, "names", ())]
            found = {name.split(".")[0] for name in [*names, getattr(node, "module", None) or ""]}
            assert not found & {"monai", "einops"}, path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mammo_dp.main import main; main(['--help'])\n"
        "heavy = {'torch', 'lightning', 'timm', 'opacus', 'numpy', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_every_file_has_its_licence_line() -> None:
    for path in modules():
        first = path.read_text().partition("\n")[0]
        assert first == "# SPDX-License-Identifier: Apache-2.0", path
