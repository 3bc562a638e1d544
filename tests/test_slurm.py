"""SLURM: a real cluster of one node where it is installed; what is asked and understood, everywhere."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import slurm as real
from cifar_pl.runs import rundir

slurm = pytest.importorskip("cifar_pl.machine.slurm", reason="submitit is an optional part")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    if why := real.missing():
        pytest.skip(why)
    with real.cluster():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cancelled_job_of_a_sweep_ends_in_order_and_polling_is_quiet(tmp_path: Path) -> None:
    """No GPU is asked for, or the jobs would be refused; without accounting only the queue tells that one is over."""
    arguments = (*real.RUN, *real.ON_SLURM, "seed=0,1", "hydra.sweep.dir=sweep")
    process = real.begin(tmp_path, *real.train("-m", *arguments))
    run = real.until(lambda: next(tmp_path.glob("sweep/*-seed_1/metrics.csv"), None)).parent
    subprocess.run(["scancel", real.job_of(run)], check=True)
    assert process.wait(240) == 1
    said = (tmp_path / "said").read_text()
    assert real.statuses(tmp_path / "sweep") == {"0": "finished", "1": "interrupted"}, said
    assert "== Job 2 of 2 interrupted" in said
    assert "submitit" not in said
    assert "sacct" not in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_job_that_goes_back_into_the_queue_ends_without_a_traceback(tmp_path: Path) -> None:
    command = " ".join(["srun", *real.train(*real.RUN, "trainer.max_epochs=99", "hydra.run.dir=run")])
    options = ("--requeue", "--output=log", "--open-mode=append", "--parsable", f"--wrap={command}")
    real.begin(tmp_path, "sbatch", *options).wait()
    job = (tmp_path / "said").read_text().strip()
    real.until((tmp_path / "run" / rundir.LAST).exists)
    subprocess.run(["scancel", "--signal=USR1", job], check=True)  # as --signal=USR1@90 has it done
    real.until(lambda: real.queue("--states=PENDING") == [job])
    subprocess.run(["scancel", job], check=True)
    log = (tmp_path / "log").read_text()
    assert "DUE TO JOB REQUEUE" in log
    assert "Interrupted. To resume" in log
    assert "Traceback" not in log
    assert rundir.state(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("how", "words"),
    [
        (("srun", "--ntasks=2"), "give --ntasks-per-node"),
        (("sbatch", "--wait", "--ntasks=2", "--output=said", "--open-mode=append"), "put srun before python"),
    ],
    ids=["srun", "sbatch"],
)
def test_tasks_that_lightning_would_not_understand_are_refused(
    how: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    arguments = (*(a for a in real.RUN if a != "trainer=cpu"), "trainer=ddp", "trainer.accelerator=cpu")
    command = real.train(*arguments, "hydra.run.dir=run")
    real.begin(tmp_path, *how, *((f"--wrap={' '.join(command)}",) if how[0] == "sbatch" else command)).wait(120)
    errors = {line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("error: ")}
    assert len(errors) == 1
    assert words in errors.pop()
    assert "Traceback" not in (tmp_path / "said").read_text()


@pytest.mark.usefixtures("cluster")
def test_a_cluster_without_gpus_is_asked_for_none() -> None:
    assert slurm.gpus("auto", None) is slurm.gpus("auto", "main") is None


@pytest.mark.parametrize(("gres", "asked"), [("gpu:a100:4(S:0-1)", 1), ("(null)\nlustre:1,gpu:1", 1), ("(null)", None)])
def test_a_gpu_is_asked_for_where_the_partition_has_some(
    gres: str, asked: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinfo = tmp_path / "sinfo"
    sinfo.write_text(f"#!/bin/sh\nset -e\n[ \"$3\" = --partition=gpu ]\necho '{gres}'\n")
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.gpus("auto", "gpu") == asked
    assert slurm.gpus("cpu", "gpu") is None


def test_only_what_the_queue_says_is_over_is_over() -> None:
    queue = slurm.Queue()
    for job in ("1", "2", "3", "4"):
        queue.register_job(job)
    queue._asked = {"1", "2", "3"}  # 4 was submitted after squeue looked
    queue._info_dict.update(queue.read_info(b"1|CONFIGURING\n2|CANCELLED\n9|RUNNING\n"))
    queue._last_status_check = float("inf")
    assert [queue.is_done(job, "cache") for job in ("1", "2", "3", "4")] == [False, True, True, False]
