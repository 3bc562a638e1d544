"""The campaign of training runs, on the digits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import campaign
from benchmarks.common import TINY
from cifar_pl.runs import rundir
from cifar_pl.runs.summary import read_metrics
from tests.conftest import LEAN, ROOT

EPOCHS = 3
RUN = (*TINY, *LEAN, f"trainer.max_epochs={EPOCHS}", "+trainer.limit_train_batches=3")


def test_the_plan_is_of_different_runs_and_composes() -> None:
    jobs = campaign.plan(Path("runs"), ())
    assert len({job.run_dir for job in jobs}) == len({job.overrides for job in jobs}) == len(jobs)
    assert all(job.left() > 0 for job in jobs if job.seed == 0)


@pytest.mark.slow
def test_ended_and_killed_it_trains_all_that_is_left(tmp_path: Path) -> None:
    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchmarks.campaign", "--seeds", "2", "--only", "default", "--no-records"]
        return subprocess.Popen(
            [*command, "--runs", "runs", *arguments, *RUN],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def epochs() -> list[int]:
        return [len(read_metrics(tmp_path / f"runs/default-seed{seed}" / rundir.METRICS)) for seed in range(2)]

    process = begin("--minutes", "9")
    while not rundir.is_run(tmp_path / "runs/default-seed0"):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()  # the campaign alone, which ends train.py
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert rundir.state(tmp_path / "runs/default-seed0")["status"] == "interrupted"
    process = begin("--minutes", "9")
    while not epochs()[1]:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # and with it train.py
    process.communicate()
    before = epochs()
    assert before[0] == EPOCHS
    plan, _ = begin("--plan").communicate()
    assert [line.split(" | ")[1] for line in plan.splitlines()[2:]] == ["1"]
    printed, _ = begin("--minutes", "9", "--at-once", "2").communicate()
    assert printed.endswith(campaign.show([]) + "\n")  # nothing is left
    assert epochs() == [EPOCHS] * 2


@pytest.mark.slow
def test_after_an_error_no_run_is_started(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.campaign",
        "--only",
        "default",
        "--no-records",
        "optimizer.lr=-1",
        *RUN,
    ]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.count("error:") == 1
    assert ended.stderr.endswith("default-seed0: train.py ended with status 1.\n")
