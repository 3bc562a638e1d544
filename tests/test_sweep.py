"""Sweeps as a person types them: real processes, failures, kills, and what is run again."""

import csv
import html
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_pl.errors import UserError
from cifar_pl.machine import hardware
from cifar_pl.runs import files
from cifar_pl.sweeps.jobs import Sweep
from tests.conftest import LEAN, ROOT, TINY, Train

pytestmark = pytest.mark.slow

FAST = (*TINY, *LEAN, "trainer.max_epochs=2", "+trainer.limit_train_batches=3")


def statuses(directory: Path) -> dict[str, str]:
    return {path.parent.name: files.read_json(path)["status"] for path in sorted(directory.glob("*/status.json"))}


def table(directory: Path) -> list[dict[str, str]]:
    with (directory / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def begin(cwd: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`python train.py ...`, to be disturbed; its words go to `said`."""
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", *arguments],
        cwd=cwd,
        stdout=(cwd / "said").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )


def wait_for(what: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not what():
        assert process.poll() is None, "it ended before what was waited for"
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_failing_run_costs_no_other_and_only_what_is_missing_runs_again(train: Train, tmp_path: Path) -> None:
    result = train("-m", *FAST, "seed=0,-1,1", "hydra.sweep.dir=sweep")
    assert result.returncode == 1
    assert result.stderr.count("error: ") == 1
    assert "1 of 3 runs have no result" in result.stderr
    assert "python train.py -m sweep.resume=sweep" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    printed = result.stdout
    assert printed.index("== Job 2 of 3 failed UserError: seed=-1") < printed.index("== Job 3 of 3: seed=1")  # at once
    assert re.search(r"^== Job 1 of 3 finished, validation \d+\.\d\d%; 2 left, about \d\d:\d\d\.$", printed, re.M)
    directory = tmp_path / "sweep"
    assert statuses(directory) == {"0-seed_0": "finished", "1-seed_-1": "failed", "2-seed_1": "finished"}
    assert "seed=-1" in files.read_json(directory / "1-seed_-1/status.json")["error"]
    (good, bad) = table(directory)
    summaries = [files.read_json(directory / name / "summary.json") for name in ("0-seed_0", "2-seed_1")]
    assert (good["n"], bad["status"], bad["configuration"]) == ("2", "failed", "seed=-1")
    assert float(good["val_acc_mean"]) == pytest.approx(sum(s["val"]["best_acc"] for s in summaries) / 2)
    assert float(good["test_acc_mean"]) == pytest.approx(sum(s["test"]["acc"] for s in summaries) / 2)

    before = (directory / "0-seed_0/summary.json").stat().st_mtime_ns
    again = train("sweep.resume=sweep", "seed=range(3)")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("== Job") == 2  # begins, ends
    assert (directory / "0-seed_0/summary.json").stat().st_mtime_ns == before
    assert statuses(directory)["3-seed_2"] == "finished"
    assert table(directory)[0]["n"] == "3"
    made = html.unescape((directory / "sweep.html").read_text()).partition("How it was made")[2]
    assert "seed=range(3)" in made
    assert "sweep.resume" not in made  # it would need what it makes


def test_the_line_on_the_page_adds_the_seeds_that_are_missing(train: Train, tmp_path: Path) -> None:
    drawn = [option for option in FAST if option != "callbacks.dashboard=null"]  # it keeps the predictions
    result = train("-m", *drawn, "scheduler=constant,multistep", "hydra.sweep.dir=sweep")
    assert result.returncode == 0, result.stderr
    page = html.unescape((tmp_path / "sweep/sweep.html").read_text())
    (line,) = re.findall(r"python (train\.py -m sweep\.resume=.*)</pre>", page)
    assert line == "train.py -m sweep.resume=sweep 'seed=range(1,3)'"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/summary.json")}
    again = train(*shlex.split(line)[1:])
    assert again.returncode == 0, again.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert [row["n"] for row in table(tmp_path / "sweep")] == ["3", "3"]
    page = (tmp_path / "sweep/sweep.html").read_text()
    assert "ensemble, validation" in page
    assert "validation images are wrong in all 6 runs" in page  # so little was learnt


def test_two_at_once_each_in_its_process_and_one_of_them_killed(train: Train, tmp_path: Path) -> None:
    directory = tmp_path / "sweep"
    arguments = (*FAST, "hydra/launcher=local", "sweep.at_once=2", "seed=0,1,2")
    process = begin(tmp_path, "-m", *arguments, f"hydra.sweep.dir={directory}")
    wait_for(lambda: list(statuses(directory).values()).count("running") == 2, process)
    first, second = (files.read_json(path) for path in sorted(directory.glob("*/status.json")))
    assert len({first["pid"], second["pid"], process.pid}) == 3
    os.kill(first["pid"], signal.SIGKILL)
    assert process.wait(timeout=200) == 1
    said = (tmp_path / "said").read_text()
    assert re.search("^== Job 1 of 3 killed", said, re.M)
    assert sorted(statuses(directory).values()) == ["finished"] * 2 + ["running"]
    assert [(row["n"], row["status"]) for row in table(directory)] == [("2", "finished"), ("0", "killed")]
    result = train("-m", f"sweep.resume={directory}")
    assert result.returncode == 0, result.stderr
    assert [row["n"] for row in table(directory)] == ["3"]
    summaries = [files.read_json(path) for path in directory.glob("*/summary.json")]
    assert [s["hardware"]["threads"] for s in summaries] == [max(1, hardware.cores() // 2)] * 3


@pytest.mark.parametrize("local", [(), ("hydra/launcher=local", "sweep.at_once=2")], ids=["here", "local"])
def test_ctrl_c_ends_the_sweep_after_writing_what_there_is(local: tuple[str], train: Train, tmp_path: Path) -> None:
    directory = tmp_path / "sweep"
    seeds = ("seed=0,1", *local)
    process = begin(tmp_path, "-m", *FAST, *seeds, "trainer.max_epochs=6", f"hydra.sweep.dir={directory}")
    wait_for((directory / "0-seed_0/checkpoints/last.ckpt").exists, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    assert process.wait(timeout=60) == 130
    interrupted = ["0-seed_0", "1-seed_1"] if local else ["0-seed_0"]
    assert statuses(directory) == dict.fromkeys(interrupted, "interrupted")
    assert [row["status"] for row in table(directory)] == ["interrupted"] * len(interrupted)
    assert (directory / "sweep.html").exists()
    if not local:
        rows = (directory / "0-seed_0/metrics.csv").read_text()
        result = train("-m", f"sweep.resume={directory}", "seed=0")
        assert result.returncode == 0, result.stderr
        assert statuses(directory) == {"0-seed_0": "finished"}
        assert (directory / "0-seed_0/metrics.csv").read_text().startswith(rows)  # it went on


def test_a_search_goes_on_where_it_was_killed_and_its_best_run_can_be_had_again(train: Train, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    directory = tmp_path / "search"
    space = ("optimizer.lr=tag(log, interval(1e-6, 0.2))", "scheduler=constant,multistep")
    options = ("data.batch_size=128", "sweep=search", "sweep.trials=6", "sweep.startup=1", "sweep.warmup=0")
    process = begin(tmp_path, "-m", *FAST, *options, *space, f"hydra.sweep.dir={directory}")
    wait_for(lambda: len(statuses(directory)) == 3, process)
    process.kill()
    process.wait()
    result = train(f"sweep.resume={directory}")
    assert result.returncode == 0, result.stderr + result.stdout
    study = optuna.load_study(study_name="cifar-pl", storage=f"sqlite:///{directory}/study.db")
    assert [trial.state.name for trial in study.trials].count("RUNNING") == 0
    assert len(study.trials) == len(statuses(directory)) == 6
    assert len({trial.params["optimizer.lr"] for trial in study.trials}) == 6  # it did not begin again
    pruned = [t.number for t in study.trials if t.state.name == "PRUNED"]
    assert pruned
    for number in pruned:
        (run,) = directory.glob(f"{number}-*")
        assert files.read_json(run / "status.json")["status"] == "pruned"
        assert not (run / "summary.json").exists()  # the test images were not read
        assert (run / "checkpoints/last.ckpt").exists()
    (best,) = directory.glob(f"{study.best_trial.number}-*")
    assert study.best_value == files.read_json(best / "summary.json")["val"]["best_acc"]
    again = train(*files.read_json(best / "status.json")["overrides"], "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    assert files.read_json(tmp_path / "again/summary.json")["val"]["best_acc"] == study.best_value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "scheduler=plato,onecycle"], ["plato", "Did you mean plateau?"]),
        (["-m", "seed=0,1", "sweep.at_once=2"], ["sweep.at_once=2", "hydra/launcher=local"]),
        (["-m", "optimizer.lr=interval(0.1,1)"], ["interval(0.1,1)", "sweep=search"]),
        (["-m", "sweep.resume=nowhere"], ["nowhere", "not a sweep's directory"]),
        (["sweep=search"], ["sweep=search", "add -m"]),
    ],
)
def test_a_mistake_gets_one_message(train: Train, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    flags = [a for a in arguments if a.startswith("-")]
    result = train(*flags, *FAST, *(a for a in arguments if a not in flags))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "multirun").exists()


class Launcher:
    """Of Hydra's kind: runs nothing."""

    def launch(self, jobs: list[list[str]], number: int) -> None:
        pass


def test_a_gpu_that_is_lost_ends_a_sweep_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher: Any = Launcher()
    plan = Sweep(tmp_path / "a sweep", launcher)
    plan.total = 1
    plan.launch(plan.job(["seed=0"], ["seed=0"]), {})

    def synchronize() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(UserError, match=r"illegal memory access was encountered\).*'.*/a sweep' hydra/launcher=local"):
        plan.launch(plan.job(["seed=1"], ["seed=1"]), {})
