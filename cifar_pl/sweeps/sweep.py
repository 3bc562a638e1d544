"""A sweep: which runs, what is missing of one that was interrupted, one table at the end."""

import gc
import itertools
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from cifar_pl.config import resume, schema
from cifar_pl.errors import UserError, require
from cifar_pl.evaluation.predictions import SPLITS
from cifar_pl.reporting import comparison_page
from cifar_pl.runs import files, overrides, record, rundir
from cifar_pl.runs.compare import Comparison
from cifar_pl.sweeps import slots
from cifar_pl.sweeps.slots import Slot, Work

OVER = ("finished", "pruned")
Check = Callable[[list[list[str]]], object]


class Job(NamedTuple):
    """One run of a sweep: what varies in words, its overrides, its number, and where it is or goes."""

    name: str
    overrides: tuple[str, ...]
    number: int
    directory: Path

    def status(self) -> str | None:
        """What `rundir.state` says of it; None where it was not begun."""
        begun = (self.directory / rundir.STATUS).exists()
        return str(rundir.state(self.directory)["status"]) if begun else None


class Sweep:
    """The jobs of one sweep, in one directory."""

    def __init__(self, directory: Path, launcher: Launcher) -> None:
        """Launch into `directory`; whoever plans sets `total`."""
        self.directory, self.total = directory, 0
        self.jobs: list[Job] = []
        self._launcher = launcher
        started = [path.parents[1] for path in directory.glob(f"[0-9]*-*/{overrides.FILE}")]
        self._known = {frozenset(overrides.of_run(run)): run for run in started}
        self._begun: set[Job] = set()
        self._stopping, self._told = False, set[int]()  # processes that were interrupted
        self._done = self._skipped = 0
        self._start = time.monotonic()

    def job(self, overrides: Iterable[str], varied: Iterable[str], number: int | None = None) -> Job:
        """The job of this number, or else the one with these overrides, or else a new one."""
        typed, name = tuple(overrides), " ".join(varied)
        directory = self._known.get(frozenset(typed)) if number is None else None
        if directory is not None:
            number = int(directory.name.partition("-")[0])
        elif number is None:
            taken = [int(path.name.partition("-")[0]) for path in self._known.values()]
            number = max([*taken, *(job.number for job in self.jobs)], default=-1) + 1
        job = Job(name, typed, number, directory or self.directory / f"{number}-{_file_name(name)}")
        self.jobs.append(job)
        self._skipped += job.status() in OVER
        return job

    def launch(self, job: Job, slot: Slot) -> None:
        """Run a job, unless it is over; what was interrupted after its first epoch goes on from there."""
        before = job.status()
        if before in OVER:
            return
        place = f"{self.jobs.index(job) + 1} of {self.total}"
        if before == "running":
            tqdm.write(f"== Job {place} is still running, begun by another sweep: {job.directory}")
            return
        tqdm.write(f"== Job {place}: {job.name}")
        arguments, reason = self._arguments(job, slot), ""
        self._begun.add(job)
        try:
            self._launcher.launch([arguments], job.number)
        except Exception as error:  # noqa: BLE001 - a process is gone, a queue refused: each launcher has its own
            message = " ".join(str(error).strip().splitlines()[:2]).strip(" -")
            reason = f" {type(self._launcher).__name__}: {message}"
        self._begun.remove(job)
        self._done += 1
        gc.collect()  # a run's network hangs in cycles, and the next run comes before Python looks for them
        tqdm.write(f"== Job {place} {_outcome(job) or f'was not begun{reason}'}{self._left()}.")
        _require_a_gpu_that_works(self.directory)

    def interrupt(self) -> bool:
        """Ask the runs that are processes of this machine to stop, each once; whether they are worth waiting for."""
        local = slots.local(self._launcher)
        if not self._stopping:
            here = "Stopping: the runs write what they have ..."
            tqdm.write(here if local else "What is in the queue goes on; when it is over, sweep.resume=DIR goes on.")
        self._stopping = True
        for job in list(self._begun) if local else ():
            if job.status() == "running":
                pid = files.read_json(job.directory / rundir.STATUS)["pid"]
                if pid not in self._told:
                    self._told.add(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        return local

    def _arguments(self, job: Job, slot: Slot) -> list[str]:
        place = [f"hydra.sweep.dir={overrides.quoted(self.directory)}", f"hydra.sweep.subdir={job.directory.name}"]
        if (job.directory / rundir.LAST).exists():
            place.append(f"resume={overrides.quoted(job.directory)}")
        else:
            (job.directory / rundir.STATUS).unlink(missing_ok=True)  # it ended before its first epoch did
        return [*job.overrides, *place, *(f"++hydra.job.env_set.{name}='{value}'" for name, value in slot.items())]

    def _left(self) -> str:
        rest = self.total - self._skipped - self._done
        seconds = (time.monotonic() - self._start) / self._done * rest
        duration = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        return f"; {rest} left, about {duration}" if rest > 0 else ""


Plan = Callable[[DictConfig, Sweep, Mapping[str, Override], Check], list[Work]]


def run(plan: Plan, config: DictConfig, launcher: Launcher, overrides: Iterable[Override], check: Check) -> None:
    """Run a sweep in `hydra.sweep.dir`, and write its table and page there, whatever becomes of it.

    Args:
        plan: What it is made of: `grid`, or `search.trials`.
        config: Of the sweep, with `hydra` and `sweep`.
        launcher: Hydra's: runs jobs in this process, in others, or on other machines.
        overrides: As typed; those of `sweep` are no job's.
        check: Raises where one of some jobs' overrides cannot be composed.

    Raises:
        UserError: the sweep cannot be run as asked, or not every job has a result in the end.
    """
    schema.check(OmegaConf.masked_copy(config, ["sweep"]))
    directory = Path(config.hydra.sweep.dir)
    free = slots.allocate(launcher, config.sweep.at_once)
    typed = {o.get_key_element(): o for o in overrides if o.key_or_group.partition(".")[0] != "sweep"}
    sweep = Sweep(directory, launcher)
    work = plan(config, sweep, typed, check)
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, directory / resume.SWEEP)
    hydra = [o for o in config.hydra.overrides.hydra if not o.startswith(("hydra.mode=", "hydra.sweep.dir="))]
    try:
        slots.run_all(work, free, sweep.interrupt)
    finally:
        _report(directory, comparison_page.shell("train.py", "-m", *config.hydra.overrides.task, *hydra))
    missing = [job for job in sweep.jobs if job.status() not in OVER]
    require(
        not missing,
        f"{len(missing)} of {len(sweep.jobs)} runs have no result (above). Once the cause is mended, "
        f"to run what is missing: python train.py -m sweep.resume={shlex.quote(str(directory))}",
    )


def grid(_config: DictConfig, sweep: Sweep, typed: Mapping[str, Override], check: Check) -> list[Work]:
    """Every combination of the values that `typed` lists.

    Raises:
        UserError: there is no end of values.
    """
    for o in typed.values():
        require(
            not o.is_sweep_override() or o.is_discrete_sweep(),
            f"{o.input_line}: an interval has no end of values. List some, or search: sweep=search.",
        )
    lists = {
        key: list(dict.fromkeys(f"{key}={value}" for value in o.sweep_string_iterator()))
        if o.is_sweep_override()
        else [str(o.input_line)]
        for key, o in typed.items()
    }
    combinations = list(itertools.product(*lists.values()))
    check([list(c) for c in combinations])
    fixed = {values[0] for values in lists.values() if len(values) == 1}
    sweep.total = len(combinations)
    jobs = [sweep.job(c, [o for o in c if o not in fixed]) for c in combinations]
    return [partial(sweep.launch, job) for job in jobs]


def _require_a_gpu_that_works(directory: Path) -> None:
    """After an error such as an illegal access CUDA refuses whatever else its process asks for.

    Raises:
        UserError: that is so in this process, where runs follow one another.
    """
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError as error:
        raise UserError(
            f"The GPU is lost to this process, and every further run would fail ({str(error).partition(chr(10))[0]}). "
            "With hydra/launcher=local each run has a process of its own: "
            f"python train.py -m sweep.resume={shlex.quote(str(directory))} hydra/launcher=local"
        ) from error


def _file_name(text: str) -> str:
    """`text` as a part of a file name: letters, digits and `._-`, at most 80 of them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:80].strip("_") or "default"


def _outcome(job: Job) -> str:
    """What became of a job, in words; empty where it was not begun."""
    status = job.status()
    if status == "finished":
        result = record.read(job.directory)
        split = "val" if result.accuracy("val") is not None else "test"
        return f"finished, {SPLITS[split]} {result.accuracy(split):.2%}"
    error = files.read_json(job.directory / rundir.STATUS).get("error", "") if status else ""
    return f"{status or ''} {error}".strip(" .")


def _report(directory: Path, how: str) -> None:
    """Print and write what there is."""
    try:
        comparison = Comparison(record.list_runs([directory]))
    except UserError:
        return  # nothing was begun
    tqdm.write(f"\n{comparison_page.text(comparison)}")
    comparison_page.write(directory, comparison, how)
    tqdm.write(f"Look at: {directory / comparison_page.PAGE}")
