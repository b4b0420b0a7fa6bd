import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mammo_dp import runs
from mammo_dp.runs import (
    LOCK,
    RunError,
    RunRecord,
    close_run,
    file_sha256,
    files_sha256,
    forget_run,
    input_sha256,
    is_still,
    open_run,
    read_run,
    run_folder,
    run_of,
    write_text_atomically,
)

ROOT = Path(__file__).resolve().parent.parent


def start(folder: Path, **changes: object) -> RunRecord:
    config = {"epochs": 3, "model": {"rate": 0.1}} | changes
    return open_run(folder, command="fit", config=config, inputs={}, seed=1)


def test_new_unfinished_and_finished_folders(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = open_run(folder, command="fit", config={"a": 1}, inputs={}, seed=1)
    assert not first.resumed
    assert not first.is_finished
    again = open_run(folder, command="fit", config={"a": 1}, inputs={}, seed=1)
    assert again.resumed
    assert again.started == first.started
    (folder / "result.txt").write_text("42")
    done = close_run(again)
    assert done.outputs == {"result.txt": file_sha256(folder / "result.txt")}
    third = open_run(folder, command="fit", config={"a": 1}, inputs={}, seed=1)
    assert third.is_finished
    assert not third.resumed
    assert read_run(folder).outputs == done.outputs


def test_one_number_is_one_configuration_however_it_is_written(tmp_path: Path) -> None:
    start(tmp_path / "run", epochs=3, limits=[0, 1])
    start(tmp_path / "run", epochs=3.0, limits=[0.0, 1.0])
    with pytest.raises(RunError, match=r"epochs: 3, now 3\.5"):
        start(tmp_path / "run", epochs=3.5, limits=[0, 1])


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    start(tmp_path / "run")
    with pytest.raises(RunError, match=r"model\.rate: 0\.1, now 0\.2"):
        start(tmp_path / "run", model={"rate": 0.2})
    with pytest.raises(RunError, match="seed: 1, now 2"):
        open_run(
            tmp_path / "run",
            command="fit",
            config={"epochs": 3, "model": {"rate": 0.1}},
            inputs={},
            seed=2,
        )
    with pytest.raises(RunError, match="command 'fit', now 'generate'"):
        open_run(tmp_path / "run", command="generate", config={}, inputs={})


def test_changed_input_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "weights.ckpt"
    source.write_text("one")
    inputs = {"weights": source}
    open_run(tmp_path / "run", command="fit", config={}, inputs=inputs)
    source.write_text("two")
    with pytest.raises(RunError, match=r"inputs \['weights'\] have changed"):
        open_run(tmp_path / "run", command="fit", config={}, inputs=inputs)


def test_a_folder_within_one_that_is_read_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    for folder in ("images", "images/out", "link/a/b", "images/../images/out"):
        with pytest.raises(RunError, match=r"lies in .*images, which is read as images.*outside"):
            open_run(
                tmp_path / folder, command="p", config={}, inputs={"images": tmp_path / "images"}
            )
    assert list((tmp_path / "images").iterdir()) == []
    (tmp_path / "images" / "crops.csv").write_text("of crops the table is read")
    assert open_run(
        tmp_path / "images/out", command="p", config={}, inputs={"images": tmp_path / "images"}
    )


def test_foreign_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match=r"holds files but no run\.json"):
        start(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_record_that_was_being_written_at_a_kill_is_no_file_of_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json.part").write_text("{")
    record = start(folder)
    (folder / "run.json.part").write_text("{")  # killed as it closed the folder
    assert close_run(record).outputs == {}
    assert sorted(path.name for path in folder.iterdir()) == ["run.json"]


def test_a_full_disk_leaves_no_half_file_and_a_folder_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left") as caught:
            start(folder)
    assert caught.value.filename == str(folder / "run.json")
    assert list(folder.iterdir()) == []
    assert not start(folder, epsilon=2).resumed


def test_missing_input_and_broken_record_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        open_run(tmp_path / "run", command="fit", config={}, inputs={"data": tmp_path / "no"})
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RunError, match="no readable run record"):
        read_run(tmp_path / "run")


def test_nested_runs_caches_and_logs_are_not_hashed(tmp_path: Path) -> None:
    outer = open_run(tmp_path / "run", command="fit", config={}, inputs={})
    inner = open_run(tmp_path / "run" / "test_val", command="test", config={}, inputs={})
    for file in ("model.txt", "test_val/scores.txt", "features/a.pt", "logs/part_0/metrics.csv"):
        write_text_atomically(tmp_path / "run" / file, file)
    assert list(close_run(inner).outputs) == ["scores.txt"]
    assert list(close_run(outer).outputs) == ["model.txt"]
    assert run_of(tmp_path / "run" / "test_val" / "scores.txt") == tmp_path / "run" / "test_val"
    assert run_of(tmp_path / "run" / "model.txt") == tmp_path / "run"
    assert run_of(tmp_path) is None


def test_files_of_a_run_are_those_that_a_slow_search_finds(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for name in ("logs/a", "features/b", "run.json", "x/logs/c", "x/run.part", "x.y", "x-y/d"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    for name in ("x/inner/run.json", "x/inner/e", "x/inner/deep/f"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    elsewhere.mkdir()
    (elsewhere / "g").write_text("g")
    (run / "folder").symlink_to(elsewhere)
    (run / "file").symlink_to(elsewhere / "g")
    (run / "broken").symlink_to(elsewhere / "nothing")

    nested = {path.parent for path in run.rglob(runs.FILE_NAME)} - {run}
    slow = [
        path
        for path in sorted(run.rglob("*"))
        if path.is_file()
        and path.name != runs.FILE_NAME
        and path.relative_to(run).parts[0] not in ("logs", "features")
        and not nested & set(path.parents)
    ]
    found = runs.files_of(run)
    assert found == slow
    assert [path.relative_to(run).as_posix() for path in found] == [
        *("file", "x/logs/c", "x/run.part", "x-y/d", "x.y"),
    ]
    for path in found:
        assert runs.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_refused_run_is_forgotten_and_one_that_made_something_is_not(tmp_path: Path) -> None:
    for made in ("model.ckpt", "logs/0/metrics.csv", "inner/run.json"):
        kept = open_run(tmp_path / "run", command="fit", config={}, inputs={})
        write_text_atomically(kept.folder / made, "42")
        forget_run(kept, "config.yaml", "logs/*/hparams.yaml")
        assert (kept.folder / "run.json").exists()
        (kept.folder / made).unlink()
    for trace in ("config.yaml", "logs/0/hparams.yaml"):
        write_text_atomically(kept.folder / trace, "asked for")
    done = close_run(kept)
    forget_run(done, "config.yaml", "logs/*/hparams.yaml")
    assert (kept.folder / "run.json").exists()
    forget_run(kept, "config.yaml", "logs/*/hparams.yaml")
    assert list(tmp_path.iterdir()) == []


# Waits in the block of an unfinished run until it is told to end.
AT_WORK = """import sys
from mammo_dp.runs import run_folder
with run_folder(sys.argv[1], command="fit", config={}, inputs={}):
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_an_unfinished_run_belongs_to_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-c", AT_WORK, str(folder)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(RunError, match="run: another process is at work on this run"):
            open_run(folder, command="fit", config={}, inputs={})
        further = open_run(folder, command="fit", config={}, inputs={}, alone=False)
        assert further.resumed
        other.kill()
        other.wait()
        with run_folder(folder, command="fit", config={}, inputs={}) as record:
            assert record.resumed
            assert (folder / LOCK).is_file()
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert open_run(folder, command="fit", config={}, inputs={}).is_finished


def test_an_unfinished_run_belongs_to_one_thread(tmp_path: Path) -> None:
    said = []

    def other() -> None:
        with pytest.raises(RunError, match="another thread of this process is at work") as caught:
            open_run(tmp_path / "run", command="fit", config={}, inputs={})
        said.append(caught)

    with run_folder(tmp_path / "run", command="fit", config={}, inputs={}):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(said) == 1
        assert (tmp_path / "run" / LOCK).is_file()


def test_a_run_that_failed_is_free_for_others(tmp_path: Path) -> None:
    def fails() -> None:
        with run_folder(tmp_path / "run", command="fit", config={}, inputs={}):
            (tmp_path / "run/part").write_text("kept")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fails()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["part", "run.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_a_lock_ends_with_its_process_though_a_worker_lives_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-c", FORKS.replace("FOLDER", str(folder))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    worker = int(done.stdout)
    try:
        assert open_run(folder, command="fit", config={}, inputs={}).resumed
    finally:
        os.kill(worker, signal.SIGKILL)


# Ends at once, and leaves a forked process behind.
FORKS = """import os, sys, time
from mammo_dp.runs import open_run
open_run("FOLDER", command="fit", config={}, inputs={})
if not (child := os.fork()):
    for stream in (0, 1, 2):
        os.close(stream)
    time.sleep(60)
print(child, flush=True)
os._exit(0)
"""


def test_without_locks_a_run_begins_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(runs, "_lock", refuses)
    with run_folder(tmp_path / "run", command="fit", config={}, inputs={}):
        assert "its file system has no locks" in caplog.text


def test_folder_hash_sees_what_is_read_through_a_link(tmp_path: Path) -> None:
    """Archives lie on several disks: readers follow links to folders, so the hash does."""
    archive, disk = tmp_path / "archive", tmp_path / "disk"
    archive.mkdir()
    (disk / "patient").mkdir(parents=True)
    (archive / "linked").symlink_to(disk, target_is_directory=True)
    (archive / "circle").symlink_to(archive, target_is_directory=True)
    (archive / "nowhere").symlink_to("gone")
    found = [input_sha256(archive)]
    for content in ("one", "two"):
        (disk / "patient" / "a.dcm").write_text(content)
        found.append(input_sha256(archive))
    assert len(set(found)) == 3
    (archive / ".DS_Store").write_text("of a file manager, and read by nobody")
    assert input_sha256(archive) == found[-1]
    assert is_still(archive, found[-1])
    assert not is_still(archive, found[0])
    (archive / "\udcff").mkdir()
    (archive / "\udcff" / "b.dcm").touch()  # a name that is no text: nobody can read it
    assert not is_still(archive, found[-1])


def test_folder_hash_sees_names_sizes_and_ends_and_crops_by_their_table(tmp_path: Path) -> None:
    file, content = tmp_path / "a.dcm", bytearray(20_000)
    found = []
    for place in (None, 0, 4095, len(content) - 4096, -1):
        if place is not None:
            content[place] ^= 1
        file.write_bytes(content)
        found.append(input_sha256(tmp_path))
    file.write_bytes(content + b"x")
    found.append(input_sha256(tmp_path))
    for short in (b"", b"x", b"y"):
        (tmp_path / "b.dcm").write_bytes(short)
        found.append(input_sha256(tmp_path))
    (tmp_path / "b.dcm").rename(tmp_path / "c.dcm")
    found.append(input_sha256(tmp_path))
    assert len(set(found)) == len(found)
    assert input_sha256(tmp_path) == found[-1]
    (tmp_path / "crops.csv").write_text("file\n")
    assert input_sha256(tmp_path) == file_sha256(tmp_path / "crops.csv")


def test_the_hash_of_files_sees_contents_and_names_and_whether_they_can_be_read(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "a.tif", tmp_path / "b.tif"
    one.write_text("x")
    two.write_text("y")
    found = [files_sha256([one, two]), files_sha256([one]), files_sha256([two, one])]
    one.write_text("z")
    found.append(files_sha256([one, two]))
    one.unlink()
    found.append(files_sha256([one, two]))
    assert len(set(found)) == len(found)
    assert files_sha256([one, two]) == found[-1]


def test_record_is_json_with_versions_and_commit(tmp_path: Path) -> None:
    open_run(tmp_path / "run", command="fit", config={"path": Path("x")}, inputs={})
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["finished"] is None
    assert stored["versions"]["torch"] != "unknown"
    assert stored["config"] == {"path": "x"}
    assert set(stored) >= {"command", "config_sha256", "inputs", "outputs", "seed", "commit"}


def test_a_killed_write_leaves_the_old_text(tmp_path: Path) -> None:
    """A process that dies inside the write leaves either text, never half of one."""
    path = tmp_path / "run.json"
    write_text_atomically(path, "old")
    code = (
        "import os, pathlib; from mammo_dp import runs\n"
        "pathlib.Path.replace = lambda *_: os._exit(9)\n"
        f"runs.write_text_atomically({str(path)!r}, 'new' * 1000)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert path.read_text() == "old"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout that `mammo_dp.runs` takes for its own."""
    root = tmp_path / "checkout"
    for package in ("data_prep", "mammo_dp", "docs"):
        (root / package).mkdir(parents=True)
        (root / package / "a.py").write_text("one = 1\n")
    monkeypatch.setattr(runs, "__file__", str(root / "mammo_dp" / "runs.py"))
    for words in ("init -q", "add .", "-c user.name=x -c user.email=x@x commit -qm first"):
        subprocess.run(["git", "-C", str(root), *words.split()], check=True)
    return root


SOURCE_COMMIT = runs.source_commit  # which a fixture of all tests replaces


def test_a_clean_checkout_has_a_commit(checkout: Path) -> None:
    found = SOURCE_COMMIT()
    assert found is not None
    assert re.fullmatch("[0-9a-f]{40}", found)


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("mammo_dp/a.py", True),
        ("data_prep/a.py", True),
        ("classifier/new.py", True),
        ("gan/deep/new.py", True),
        ("docs/a.py", False),
        ("results/run.json", False),
    ],
)
@pytest.mark.parametrize("staged", [True, False])
def test_changed_and_new_source_is_dirty(
    checkout: Path, file: str, dirty: bool, staged: bool
) -> None:
    (checkout / file).parent.mkdir(parents=True, exist_ok=True)
    (checkout / file).write_text("two = 2\n")
    if staged:
        subprocess.run(["git", "-C", str(checkout), "add", "."], check=True)
    assert (SOURCE_COMMIT() or "").endswith("+dirty") == dirty


def test_removed_source_is_dirty_and_no_git_is_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "data_prep" / "a.py").unlink()
    assert (SOURCE_COMMIT() or "").endswith("+dirty")
    monkeypatch.setattr(runs, "__file__", str(checkout.parent / "elsewhere" / "runs.py"))
    assert SOURCE_COMMIT() is None


@pytest.mark.parametrize(
    ("sources", "recorded"),
    [
        (["a", "a"], "a"),
        (["a", "b"], "a, then b"),
        (["a", "a+dirty", "a+dirty", "b"], "a, then a+dirty, then b"),
        ([None, None], None),
        ([None, "a"], "unknown, then a"),
        (["a", None], "a, then unknown"),
    ],
)
def test_a_run_that_resumes_on_other_source_says_so(
    tmp_path: Path,
    sources: list[str | None],
    recorded: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for source in sources:
        monkeypatch.setattr(runs, "source_commit", lambda source=source: source)
        record = open_run(tmp_path / "run", command="fit", config={}, inputs={})
        assert record.commit == read_run(tmp_path / "run").commit
    assert record.commit == recorded
    close_run(record)
    monkeypatch.setattr(runs, "source_commit", lambda: "later")
    assert open_run(tmp_path / "run", command="fit", config={}, inputs={}).commit == recorded
