import sys

import pytest

from mammo_dp import main as table
from mammo_dp.main import COMMANDS, main
from mammo_dp.runs import RunError


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_no_command_is_help_and_version_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert "mammo-dp 0." in capsys.readouterr().out


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert "unknown command 'fitt'. Did you mean fit?" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "unknown command 'xyz'. `mammo-dp --help` lists all." in capsys.readouterr().err


def test_an_interrupt_that_lightning_turned_into_an_end_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr(table, "run", stop)
    assert main(["fit"]) == 130
    assert "Run the same command to resume" in capsys.readouterr().err


def test_an_end_for_another_reason_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "run", lambda _: sys.exit(2))
    with pytest.raises(SystemExit, match="2"):
        main(["fit"])


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (RunError("runs/x: is taken."), 1, "mammo-dp report: runs/x: is taken."),
        (KeyboardInterrupt(), 130, "Run the same command to resume"),
        (
            PermissionError(13, "Permission denied", "out"),
            1,
            "out: Permission denied. Check the path",
        ),
        (OSError(28, "No space left on device", "runs/x/last.ckpt"), 1, "No space left on device"),
        (OSError(28, "No space left", "pool/a.png", None, "out/a.png"), 1, "as out/a.png was"),
    ],
)
def test_expected_failures_are_sentences(
    error: BaseException,
    status: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(table, "run", fail)
    assert main(["report"]) == status
    captured = capsys.readouterr().err
    assert shown in captured
    assert "Traceback" not in captured


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(table, "run", fail)
    with pytest.raises(KeyError):
        main(["report"])


def test_a_name_clash_stops_before_any_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "name_clash", lambda: "package 'gan' comes from elsewhere.")
    assert main(["report"]) == 1
    assert "comes from elsewhere" in capsys.readouterr().err
