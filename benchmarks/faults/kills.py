"""Runs that are killed again and again at random moments, and resumed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.faults.files import damaged, same
from benchmarks.faults.processes import EPOCHS, SCHEDULES, SHORT, begin, drain, end, undisturbed
from cifar_pl.runs import files, rundir

# Where a kill is aimed at: a line that the run prints, and the most seconds after it.
MOMENTS = {
    "start-up": ("", 5.0),
    "range test": ("Learning-rate range test", 3.0),
    "an epoch": ("at train", 0.5),
    "validation": ("at validation", 0.1),
    "writing a checkpoint": ("at checkpoint", 0.25),
    "gallery": ("at gallery", 2.0),
    "test, summary, page": ("at test", 3.0),
}
REPEATED = ("an epoch", "validation", "writing a checkpoint")  # in every epoch
AIMED = "+callbacks.moments._target_=benchmarks.faults.Moments"
RESUMED = ("resume=latest", AIMED)  # a target that is not in the project's configs has to be typed again


class Moments(Callback):
    """Prints where a run is, so that a kill can be aimed."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """In the middle of an epoch."""
        if batch_idx == 1:
            print("at train", flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the start of a validation."""
        print("at validation", flush=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Right before a checkpoint is written."""
        print("at checkpoint", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Right before the gallery."""
        print("at gallery", flush=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the test, the summary, the page."""
        print("at test", flush=True)


def kill(process: subprocess.Popen[str], moment: str, rng: random.Random) -> bool:
    """SIGKILL it at about this moment; return whether it was killed before it ended."""
    start, seconds = MOMENTS[moment]
    assert process.stdout is not None
    for line in process.stdout if start else ():
        if line.startswith(start) and (moment not in REPEATED or rng.random() < 0.5):
            break
    drain(process)
    try:
        process.wait(rng.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def kills(schedule: str, moments: list[str], seed: int) -> Counter[str]:
    """Kill runs with this schedule once in each of these moments, resuming with `resume=latest` each time, to the end.

    Returns:
        How often each moment was hit, and what came of it.
    """
    rng, counts = random.Random(seed), Counter[str]()
    arguments = (*SHORT, *SCHEDULES[schedule], AIMED)
    with tempfile.TemporaryDirectory() as folder:
        intact, cwd = undisturbed(Path(folder), *arguments), Path(folder, "killed")
        cwd.mkdir()
        aims, next_run, workers = list(moments), arguments, False
        while True:
            possible = [aim for aim in aims if aim in _ahead(cwd, next_run)]
            process = begin(cwd, *next_run)
            killed = bool(possible) and kill(process, possible[0], rng)
            if not killed:
                end(process)
            stderr = (cwd / "stderr").read_text()
            counts["tracebacks"] += "Traceback" in stderr
            if killed:
                aims.remove(possible[0])
                counts.update(["kills", possible[0]])
                counts["kills with loader workers"] += workers
                _count_files(cwd, counts)
                next_run = RESUMED
                continue
            if process.returncode == 0 or "the run is finished" in stderr:
                (run,) = cwd.glob("outputs/*/*")
                counts["finished"] += 1
                counts["finished with the same bits"] += same(run, intact)
                if not aims:
                    return counts
            elif "there is no run below" in stderr:
                counts["nothing to resume"] += 1
            else:
                counts["other refusals"] += 1
                print(stderr, file=sys.stderr)
            shutil.rmtree(cwd / "outputs", ignore_errors=True)
            workers = not workers
            next_run = (*arguments, "data.num_workers=2") if workers else arguments


def _count_files(cwd: Path, counts: Counter[str]) -> None:
    for run in cwd.glob("outputs/*/*"):
        counts["damaged files"] += len(damaged(run))
        counts["whole files"] += sum(path.is_file() for path in run.rglob("*.*"))
        parts = [path.stat().st_size for path in run.rglob(f".*{files.PART}")]
        counts["unfinished files"] += len(parts)
        counts["unfinished bytes"] += sum(parts)


def _ahead(cwd: Path, arguments: tuple[str, ...]) -> list[str]:
    """The moments that are still to come in a run."""
    if arguments != RESUMED:
        return [m for m in MOMENTS if m != "range test" or "lr_finder=range_test" in arguments]
    epochs = [len(path.read_text().splitlines()) - 1 for path in cwd.glob(f"outputs/*/*/{rundir.METRICS}")]
    if not epochs:
        return ["start-up"]
    return ["start-up", *(REPEATED if epochs[0] < EPOCHS else ()), "gallery", "test, summary, page"]
