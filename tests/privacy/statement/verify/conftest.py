import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mammo_dp.main import main, run
from tests.privacy.statement.verify.chain import DP, GAN, LINES, PLAIN, Verify


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        for name, config in (("plain", PLAIN), ("dp", DP), ("gan", GAN)):
            Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
        for line in LINES:
            run(line.split())
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the chain, as working directory; recorded paths are relative."""
    copied = tmp_path / "copied"
    shutil.copytree(made, copied)
    monkeypatch.chdir(copied)
    return copied


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    def called(folder: str = "dp") -> dict[str, Any]:
        capsys.readouterr()
        status = main(["privacy", "verify", folder, "--format", "json"])
        captured = capsys.readouterr()
        found: dict[str, Any] = json.loads(captured.out)
        assert status == (1 if found["findings"] else 0)
        assert found["verified"] == (not found["findings"])
        for finding in found["findings"]:
            assert finding["where"] in captured.err
            assert finding["what"] in captured.err
        return found

    return called
