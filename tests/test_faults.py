"""The campaign of benchmarks/faults/, a few times: real kills, a real full disk."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults
from cifar_pl.runs import rundir
from tests.conftest import ROOT, Train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults.undisturbed(tmp_path_factory.mktemp("whole"), *PLATEAU)


PLATEAU = (*faults.SHORT, *faults.SCHEDULES["plateau"], "callbacks.dashboard=null")


def test_killed_at_any_moment_it_resumes_to_the_same_bits() -> None:
    counts = faults.kills("plateau", ["writing a checkpoint"], seed=0)
    assert counts["kills"] == sum(counts[moment] for moment in faults.MOMENTS) == 1
    assert counts["finished"] == counts["finished with the same bits"] > 0
    assert counts["whole files"] > 0
    assert [counts[name] for name in ("damaged files", "tracebacks", "other refusals")] == [0, 0, 0]


def test_what_a_killed_run_was_writing_is_removed_when_it_resumes(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    part = tmp_path / "checkpoints/.last.ckpt.abc.part"
    part.write_bytes(b"half")
    with rundir.tracked(tmp_path):
        assert not part.exists()


def test_a_full_disk_is_one_message_and_the_last_checkpoint_is_good(intact: Path) -> None:
    counts = faults.full_disk(200, intact, *PLATEAU)
    assert counts["said so in one message"] == 1
    assert counts["damaged files"] == 0
    assert counts["went on to the same bits"] == 1


def test_damage_is_seen(intact: Path, tmp_path: Path) -> None:
    assert not faults.damaged(intact)
    assert faults.same(intact, intact)
    copy = shutil.copytree(intact, tmp_path / "copy")
    files = [path for path in copy.rglob("*") if path.suffix in (".json", ".ckpt", ".npz", ".png", ".csv", ".html")]
    for path in files:
        path.write_bytes(path.read_bytes()[:-3])
    assert len(faults.damaged(copy)) == len(files) > 10


def test_a_directory_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    script = 'mkdir disk && mount -t tmpfs -o ro none disk && cd disk && exec "$@"'
    command = [sys.executable, str(ROOT / "train.py"), *faults.SHORT]
    result = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script, "bash", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("\nerror: Read-only file system: ")
    assert "Traceback" not in result.stderr


NAME = 'a run\'s "name" with $(touch owned); spaces & ünï-cödé, ' + "数字" * 20 + "n" * 20  # 200 bytes


def test_any_directory_will_do_and_runs_of_the_same_second_have_one_each_and_the_same_bits(
    train: Train, tmp_path: Path
) -> None:
    cwd = tmp_path / NAME
    cwd.mkdir()
    quick = (*PLATEAU, "trainer.max_epochs=1", "callbacks.best=null")
    runs = [faults.begin(cwd, *quick, f"data.num_workers={workers}") for workers in (0, 1, 3)]
    assert [process.communicate() and process.returncode for process in runs] == [0, 0, 0]
    first, *others = (path.parent for path in cwd.glob("outputs/*/*/summary.json"))
    assert len(others) == 2
    assert not faults.damaged(first)
    assert all(faults.same(first, other) for other in others)
    assert f"resume={first}: the run is finished" in train(f"resume={first.relative_to(tmp_path)}").stderr
    assert not list(tmp_path.rglob("owned"))
