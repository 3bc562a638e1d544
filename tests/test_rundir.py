import json
import multiprocessing
import os
from pathlib import Path

import pytest

from cifar_pl.errors import UserError
from cifar_pl.runs import files, rundir


def status(run_dir: Path) -> dict[str, str]:
    read: dict[str, str] = json.loads((run_dir / "status.json").read_text())
    return read


def test_the_status_follows_the_run(tmp_path: Path) -> None:
    with rundir.tracked(tmp_path):
        assert status(tmp_path)["status"] == "running"
    assert status(tmp_path)["status"] == "finished"
    with pytest.raises(RuntimeError), rundir.tracked(tmp_path):
        raise RuntimeError("no luck")
    assert status(tmp_path)["status"] == "failed"
    assert status(tmp_path)["error"] == "RuntimeError: no luck"
    assert "Traceback" in (tmp_path / "train.log").read_text()
    with pytest.raises(KeyboardInterrupt), rundir.tracked(tmp_path):
        raise KeyboardInterrupt
    assert status(tmp_path)["status"] == "interrupted"


def enter(run_dir: Path, queue: "multiprocessing.Queue[str]") -> None:
    try:
        with rundir.tracked(run_dir):
            queue.put("in")
    except UserError as error:
        queue.put(str(error))


def test_a_second_process_is_kept_out_and_changes_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with rundir.tracked(tmp_path):
        process = context.Process(target=enter, args=(tmp_path, queue))
        process.start()
        assert "is in use" in queue.get(timeout=60)
        process.join()
        assert status(tmp_path)["status"] == "running"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    files.write(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write(tmp_path / "file", "\ud800")
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write(tmp_path / "directory", "new")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "directory"}
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_that_windows_holds_for_a_moment_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old, tries, replace = tmp_path / "new", tmp_path / "old", list[str](), os.replace
    new.write_text("new")
    old.write_text("old")

    def held(source: str, target: Path) -> None:
        tries.append(source)
        if len(tries) < 3:
            raise PermissionError(13, "Access is denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        files._rename(str(new), old)
    assert (old.read_text(), len(tries)) == ("new", 3)
    tries.clear()
    with pytest.raises(PermissionError):  # elsewhere it is no matter of time
        files.write(old, "newer")
    assert len(tries) == 1


def test_json_has_null_for_what_it_cannot_say(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"a": [float("nan"), 1.5], "b": float("inf")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.5], "b": None}
