"""A sweep: which runs, how many at once, what is missing of one that was interrupted, one table at the end."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from cifar_pl import compare, report, resume, rundir, slots
from cifar_pl.command import safe
from cifar_pl.errors import UserError, require
from cifar_pl.slots import Slot, Work

OVER = ("finished", "pruned")
Check = Callable[[list[list[str]]], object]


class Job(NamedTuple):
    """One run of a sweep: its number, what varies in words, its overrides, and where it is or goes."""

    number: int
    name: str
    overrides: tuple[str, ...]
    directory: Path

    def facts(self) -> Mapping[str, Any]:
        """Its status.json; without one, a status of None."""
        path = self.directory / rundir.STATUS
        known: Mapping[str, Any] = rundir.read_json(path) if path.exists() else {"status": None}
        return known


class Sweep:
    """The jobs of one sweep, in one directory."""

    def __init__(self, directory: Path, launcher: Launcher, together: bool = False) -> None:
        """Launch into `directory`; `together` where the launcher takes all jobs at once. Whoever plans sets `total`."""
        self.directory, self.together, self.total = directory, together, 0
        self.jobs: list[Job] = []
        self._launcher = launcher
        self._known = {}
        for path in directory.glob(f"*/{resume.OVERRIDES}"):
            typed = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(typed, list)
            self._known[frozenset(o for o in typed if not o.startswith("resume="))] = path.parents[1]
        self._open: dict[Job, Mapping[str, Any]] = {}  # launched: what its status.json said before
        self._done = self._skipped = 0
        self._told: set[int] = set()  # processes that were interrupted
        self._start, self._ended, self._looking = time.monotonic(), Event(), Lock()

    def job(self, overrides: Iterable[str], varied: Iterable[str], number: int | None = None) -> Job:
        """The job with these overrides, in the directory that it has or in a new one."""
        typed, name = tuple(overrides), " ".join(varied)
        directory = self._known.get(frozenset(typed))
        if directory is not None:
            number = int(directory.name.partition("-")[0])
        elif number is None:
            taken = [int(path.name.partition("-")[0]) for path in self._known.values()]
            number = max([*taken, *(job.number for job in self.jobs)], default=-1) + 1
        job = Job(number, name, typed, directory or self.directory / f"{number}-{safe(name)}")
        self.jobs.append(job)
        self._skipped += job.facts()["status"] in OVER
        return job

    def launch(self, jobs: Sequence[Job], slot: Slot) -> None:
        """Run what of `jobs` is not over; what was interrupted after its first epoch goes on from there."""
        todo = [job for job in jobs if job.facts()["status"] not in OVER]
        if not todo:
            return
        arguments = [self._arguments(job, slot) for job in todo]
        for job in todo:
            self._open[job] = job.facts()
            tqdm.write(f"== Job {self._place(job)}: {job.name}")
        try:
            self._launcher.launch(arguments, todo[0].number)
        except Exception as error:  # noqa: BLE001 - a process is gone, a queue refused: each launcher has its own
            if all(job.facts()["status"] is None for job in todo):
                tqdm.write(f"{type(self._launcher).__name__}: {str(error).strip().partition(chr(10))[0]}")
        self._look()
        for job in todo:
            if self._open.pop(job, None) is not None:
                tqdm.write(f"== Job {self._place(job)} was killed.")

    def watched(self, work: Callable[[], None]) -> None:
        """Do `work`, and say meanwhile what became of the jobs, also of those that one launch began together."""

        def watch() -> None:
            # Fifty files a second at most: a cluster's file system has other things to do.
            while not self._ended.wait(max(1, len(self._open) / 50)):
                self._look()

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            work()
        finally:
            self._ended.set()
            thread.join()
            self._look()

    def interrupt(self) -> None:
        """Ask those of the runs that are processes of this machine to stop, each once."""
        for job in list(self._open):
            facts = job.facts()
            here = facts["status"] == "running" and facts["host"] == socket.gethostname()
            if here and facts["pid"] not in self._told:
                self._told.add(facts["pid"])
                with suppress(ProcessLookupError):
                    os.kill(facts["pid"], signal.SIGINT)

    def _arguments(self, job: Job, slot: Slot) -> list[str]:
        place = [f"hydra.sweep.dir={resume.quoted(self.directory)}", f"hydra.sweep.subdir={job.directory.name}"]
        if (job.directory / rundir.LAST).exists():
            place.append(f"resume={resume.quoted(job.directory)}")
        else:
            (job.directory / rundir.STATUS).unlink(missing_ok=True)  # it ended before its first epoch did
        return [*job.overrides, *place, *(f"+hydra.job.env_set.{name}='{value}'" for name, value in slot.items())]

    def _look(self) -> None:
        with self._looking:
            for job, before in list(self._open.items()):
                facts = job.facts()
                if facts["status"] not in (None, "running") and facts != before:
                    del self._open[job]
                    self._done += 1
                    tqdm.write(f"== Job {self._place(job)} {_outcome(job, facts)}{self._left()}.")

    def _place(self, job: Job) -> str:
        return f"{self.jobs.index(job) + 1} of {self.total}"

    def _left(self) -> str:
        rest = self.total - self._skipped - self._done
        seconds = (time.monotonic() - self._start) / self._done * rest
        duration = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        return f"; {rest} left, about {duration}" if rest else ""


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
    directory = Path(config.hydra.sweep.dir)
    free = slots.of(launcher, config.sweep.at_once)
    typed = {o.get_key_element(): o for o in overrides if o.key_or_group.partition(".")[0] != "sweep"}
    sweep = Sweep(directory, launcher, together=free is None)
    work = plan(config, sweep, typed, check)
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, directory / resume.SWEEP)
    try:
        sweep.watched(lambda: slots.each(work, free, sweep.interrupt))
    finally:
        _report(sweep, [*map(str, config.hydra.overrides.task)])
    missing = [job for job in sweep.jobs if job.facts()["status"] not in OVER]
    require(
        not missing,
        f"{len(missing)} of {len(sweep.jobs)} runs have no result (above). Once the cause is mended, "
        f"to run what is missing: python train.py -m sweep.resume={resume.quoted(directory)}",
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
        key: [f"{key}={value}" for value in o.sweep_string_iterator()] if o.is_sweep_override() else [str(o.input_line)]
        for key, o in typed.items()
    }
    combinations = list(itertools.product(*lists.values()))
    check([list(c) for c in combinations])
    fixed = {values[0] for values in lists.values() if len(values) == 1}
    sweep.total = len(combinations)
    jobs = [sweep.job(c, [o for o in c if o not in fixed]) for c in combinations]
    batches = [jobs] if sweep.together else [[job] for job in jobs]
    return [partial(sweep.launch, batch) for batch in batches]


def _outcome(job: Job, facts: Mapping[str, Any]) -> str:
    if facts["status"] != "finished":
        return f"{facts['status']} {facts.get('error', '')}".rstrip(" .")
    result = compare.read(job.directory)
    split = "val" if result.accuracy("val") is not None else "test"
    return f"finished, {report.JUDGES[split]} {result.accuracy(split):.2%}"


def _report(sweep: Sweep, typed: Sequence[str]) -> None:
    """Write and print what there is."""
    try:
        comparison = compare.Comparison(compare.find([sweep.directory]))
    except UserError:
        return  # nothing was begun
    report.write(sweep.directory, comparison, report.shell("train.py", "-m", *typed))
    tqdm.write(f"\n{report.text(comparison)}\nLook at: {sweep.directory / report.PAGE}")
