"""The jobs of a sweep: each is one run, which is started, resumed or already over."""

import gc
import itertools
import os
import re
import shlex
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.plugins.launcher import Launcher
from tqdm import tqdm

from cifar_pl.errors import UserError
from cifar_pl.evaluation.predictions import SPLITS
from cifar_pl.runs import overrides, record, rundir
from cifar_pl.sweeps import slots
from cifar_pl.sweeps.slots import Slot

OVER = ("finished", "pruned")


class Job(NamedTuple):
    """One run of a sweep: what varies in words, its overrides, its number, and its directory."""

    name: str
    overrides: tuple[str, ...]
    number: int
    directory: Path

    def state(self) -> dict[str, Any]:
        """See `rundir.state`; empty if the run was not started."""
        return rundir.state(self.directory) if (self.directory / rundir.STATUS).exists() else {}

    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.state().get("status") in OVER

    def outcome(self) -> str:
        """The result or the error, in words; empty if the run was not started."""
        if not self.state():
            return ""
        run = record.read(self.directory)
        if run.status != "finished":
            return f"{run.status} {run.error}".strip(" .")
        split = "test" if run.accuracy["val"] is None else "val"
        return f"finished, {SPLITS[split]} {run.accuracy[split]:.2%}"


class Sweep:
    """The jobs of one sweep, in one directory, which may hold runs of an earlier attempt."""

    def __init__(self, directory: Path, launcher: Launcher) -> None:
        """Without jobs yet; `total` is how many there will be."""
        self.directory, self.jobs, self.total = directory, list[Job](), 0
        self._launcher = launcher
        earlier = [file.parent for file in directory.glob(f"[0-9]*-*/{rundir.STATUS}")]
        self._earlier = {frozenset(rundir.state(run).get("overrides", ())): run for run in earlier}
        self._numbers = itertools.count(1 + max(map(_number, earlier), default=-1))
        self._running = set[Job]()
        self._stopping, self._signalled = False, set[int]()  # processes
        self._start, self._launched, self._skipped = time.monotonic(), 0, 0

    def job(self, overrides: Iterable[str], varied: Iterable[str], number: int | None = None) -> Job:
        """The job with this number, else the earlier one with these overrides, else a new one."""
        typed, name = tuple(overrides), " ".join(varied)
        earlier = self._earlier.get(frozenset(typed)) if number is None else None
        if number is None:
            number = _number(earlier) if earlier else next(self._numbers)
        part = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80].strip("_") or "default"
        job = Job(name, typed, number, earlier or self.directory / f"{number}-{part}")
        self.jobs.append(job)
        self._skipped += job.is_over()
        return job

    def launch(self, job: Job, slot: Slot) -> None:
        """Run a job, unless it is over; it resumes if its first epoch was over."""
        before = job.state()
        if before.get("status") in OVER:
            return
        place, reason = f"{self.jobs.index(job) + 1} of {self.total}", ""
        if before.get("status") == "running":
            tqdm.write(f"== Job {place} is still running, started by another sweep: {job.directory}")
            return
        tqdm.write(f"== Job {place}: {job.name}")
        arguments = self._arguments(job, slot)
        self._running.add(job)
        try:
            self._launcher.launch([arguments], job.number)
        except Exception as error:  # noqa: BLE001 - a process died, a queue refused: each launcher raises its own
            message = " ".join(str(error).strip().splitlines()[:2]).strip(" -")
            reason = f" {type(self._launcher).__name__}: {message}"
        self._running.remove(job)
        self._launched += 1
        gc.collect()  # a run's network hangs in cycles, and the next run comes before Python looks for them
        rest, seconds = self.total - self._skipped - self._launched, time.monotonic() - self._start
        left = f"; {rest} left, about {tqdm.format_interval(seconds / self._launched * rest)}" if rest > 0 else ""
        outcome = job.outcome() if job.state() != before else f"was not started{reason}"
        tqdm.write(f"== Job {place} {outcome}{left}.")
        _require_working_gpu(self.directory)

    def interrupt(self) -> bool:
        """Send SIGTERM to the runs on this machine, once each. Returns whether to wait for them."""
        local = slots.is_local(self._launcher)
        if not self._stopping:
            here = "Stopping: the runs write what they have ..."
            tqdm.write(
                here if local else "Jobs in the queue continue; once they are over, sweep.resume=DIR runs the rest."
            )
        self._stopping = True
        for job in list(self._running) if local else ():
            state = job.state()
            if state.get("status") == "running" and state["pid"] not in self._signalled:
                self._signalled.add(state["pid"])
                with suppress(ProcessLookupError):
                    os.kill(state["pid"], signal.SIGTERM)
        return local

    def _arguments(self, job: Job, slot: Slot) -> list[str]:
        place = [f"hydra.sweep.dir={overrides.quoted(self.directory)}", f"hydra.sweep.subdir={job.directory.name}"]
        if (job.directory / rundir.LAST).exists():
            place.append(f"resume={overrides.quoted(job.directory)}")
        else:
            (job.directory / rundir.METRICS).unlink(missing_ok=True)  # of a run that ended in its first epoch
        return [*job.overrides, *place, *(f"++hydra.job.env_set.{name}='{value}'" for name, value in slot.items())]


def _number(run_dir: Path) -> int:
    return int(run_dir.name.partition("-")[0])


def _require_working_gpu(directory: Path) -> None:
    """After an error such as an illegal access CUDA refuses everything else to its process."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError as error:
        raise UserError(
            f"The GPU is lost to this process, and every further run would fail ({str(error).partition(chr(10))[0]}). "
            "With hydra/launcher=local each run has a process of its own: "
            f"{overrides.TRAIN} -m sweep.resume={shlex.quote(str(directory))} hydra/launcher=local"
        ) from error
