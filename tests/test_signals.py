"""Signals that real processes get, beside those of test_command.py."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from pytorch_lightning import Callback

from benchmarks import faults
from cifar_pl.runs.summary import read_metrics
from tests.conftest import ROOT
from tests.test_guard import BARE

pytestmark = pytest.mark.slow

RUN = (*BARE, "+trainer.limit_train_batches=2")


class Slow(Callback):
    """Takes its time to stop."""

    def on_exception(self, *_: object) -> None:
        print("stopping", flush=True)
        time.sleep(100)


def until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert any(said.startswith(line) for said in process.stdout), f"it ended without {line!r}"


def start(cwd: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *RUN, *arguments, "hydra.run.dir=run"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with start(tmp_path, "trainer.max_epochs=99", "+callbacks.slow._target_=tests.test_signals.Slow") as process:
        until(process, "epoch 1/")
        process.send_signal(signal.SIGINT)
        until(process, "stopping")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    assert not faults.damaged(tmp_path / "run")


def test_slurms_warning_puts_the_job_back_and_it_goes_on_in_its_directory(tmp_path: Path) -> None:
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/said\n")
    scontrol.chmod(0o755)
    slurm = {
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}",
        **{f"SLURM_{name}": value for name, value in {
            "JOB_ID": "77", "ARRAY_JOB_ID": "70", "ARRAY_TASK_ID": "7", "JOB_NAME": "train", "NTASKS": "1",
            "NTASKS_PER_NODE": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NNODES": "1", "NODELIST": "one",
        }.items()},
    }  # fmt: skip
    status = tmp_path / "run/status.json"
    with start(tmp_path, "trainer.max_epochs=3", **slurm) as process:
        until(process, "epoch 2/")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 128 + signal.SIGUSR1
    assert (tmp_path / "said").read_text() == "requeue 70_7\n"
    assert json.loads(status.read_text())["status"] == "interrupted"
    assert not list((tmp_path / "run").rglob("hpc_ckpt*"))  # Lightning's, of the middle of an epoch

    with start(tmp_path, "trainer.max_epochs=3", **slurm, SLURM_RESTART_COUNT="1") as process:
        said, _ = process.communicate()
    assert process.returncode == 0
    assert "epoch 3/3" in said
    assert "epoch 1/3" not in said
    assert [row["epoch"] for row in read_metrics(tmp_path / "run/metrics.csv")] == [1, 2, 3]


def test_no_worker_outlives_its_run() -> None:
    assert faults.leftovers("SIGKILL") == []
