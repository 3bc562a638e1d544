"""A sweep: which runs, how many at once, what is missing of one that was interrupted, one table at the end."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from cifar_pl import compare, hardware, report, resume, rundir
from cifar_pl.command import safe
from cifar_pl.errors import UserError, require

OVER = ("finished", "pruned")
Slot = Mapping[str, str]  # the environment of one of the runs that go on at the same time


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

    def __init__(self, directory: Path, launcher: Launcher, total: int) -> None:
        """Launch into `directory`; `total` jobs are planned."""
        self.directory, self._launcher, self._total = directory, launcher, total
        self._known = {}
        for path in directory.glob(f"*/{resume.OVERRIDES}"):
            typed = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(typed, list)
            self._known[frozenset(o for o in typed if not o.startswith("resume="))] = path.parents[1]
        self.jobs: list[Job] = []
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._start, self._before = time.monotonic(), 0
        self._ended, self._looking = Event(), Lock()

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
        facts = job.facts()
        self._seen[number] = tuple(facts.values())
        self._before += facts["status"] in OVER
        return job

    def launch(self, jobs: Sequence[Job], slot: Slot) -> None:
        """Run what of `jobs` is not over; what was interrupted after its first epoch goes on from there."""
        todo = [job for job in jobs if job.facts()["status"] not in OVER]
        if not todo:
            return
        for job in todo:
            tqdm.write(f"== Job {self._place(job)}: {job.name}")
        try:
            self._launcher.launch([self._arguments(job, slot) for job in todo], todo[0].number)
        except Exception as error:  # noqa: BLE001 - a process is gone, a queue refused: each launcher has its own
            if all(job.facts()["status"] is None for job in todo):
                tqdm.write(f"{type(self._launcher).__name__}: {str(error).strip().partition(chr(10))[0]}")
        self._look()
        for job in todo:
            if job.facts()["status"] == "running":
                tqdm.write(f"== Job {self._place(job)} was killed.")

    def _place(self, job: Job) -> str:
        return f"{self.jobs.index(job) + 1} of {self._total}"

    def _arguments(self, job: Job, slot: Slot) -> list[str]:
        place = [f"hydra.sweep.dir={resume.quoted(self.directory)}", f"hydra.sweep.subdir={job.directory.name}"]
        if (job.directory / rundir.LAST).exists():
            place.append(f"resume={resume.quoted(job.directory)}")
        else:
            (job.directory / rundir.STATUS).unlink(missing_ok=True)  # it ended before its first epoch did
        return [*job.overrides, *place, *(f"+hydra.job.env_set.{name}='{value}'" for name, value in slot.items())]

    def watched(self, work: Callable[[], None]) -> None:
        """Do `work`, and say meanwhile what became of the jobs, also of those that one launch began together."""

        def watch() -> None:
            while not self._ended.wait(1):
                self._look()

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            work()
        finally:
            self._ended.set()
            thread.join()
            self._look()

    def _look(self) -> None:
        with self._looking:
            for job in list(self.jobs):
                facts = job.facts()
                if facts["status"] in (None, "running") or tuple(facts.values()) == self._seen[job.number]:
                    continue
                self._seen[job.number] = tuple(facts.values())
                done = sum(j.facts()["status"] not in (None, "running") for j in self.jobs)
                left = self._left(done)
                tqdm.write(f"== Job {self._place(job)} {_outcome(job, facts)}; {done} done{left}.")

    def _left(self, done: int) -> str:
        """By what this sweep's jobs took so far; those of an earlier one that it resumes took none of its time."""
        seconds = (time.monotonic() - self._start) / max(1, done - self._before) * (self._total - done)
        return (
            f", about {seconds / 60:.0f} min left"
            if seconds > 90
            else f", about {seconds:.0f} s left"
            if seconds
            else ""
        )


def run(config: DictConfig, launcher: Launcher, overrides: Iterable[Override], check: Callable[[Any], None]) -> None:
    """Run a sweep in `hydra.sweep.dir`, and write its table and page there, whatever becomes of it.

    Args:
        config: Of the sweep, with `hydra` and `sweep`.
        launcher: Hydra's: runs jobs in this process, in others, or on other machines.
        overrides: As typed; those of `sweep` are no job's.
        check: Raises where one of some jobs' overrides cannot be composed.

    Raises:
        UserError: the sweep cannot be run as asked, or not every job has a result in the end.
    """
    directory = Path(config.hydra.sweep.dir)
    slots = _slots(config.sweep.at_once, launcher)
    typed = {o.get_key_element(): o for o in overrides if o.key_or_group.partition(".")[0] != "sweep"}
    if "trials" in config.sweep:
        from cifar_pl import search  # optuna is optional

        sweep = Sweep(directory, launcher, config.sweep.trials)
        work = search.trials(config, sweep, typed.values(), check)
    else:
        sweep, work = _grid(directory, launcher, typed, check, together=slots is None)
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, directory / resume.SWEEP)
    try:
        sweep.watched(lambda: _each(work, slots, sweep))
    finally:
        _report(sweep, [*map(str, config.hydra.overrides.task)])
    missing = [job for job in sweep.jobs if job.facts()["status"] not in OVER]
    require(
        not missing,
        f"{len(missing)} of {len(sweep.jobs)} runs have no result (above). Once the cause is mended, "
        f"to run what is missing: python train.py -m sweep.resume={resume.quoted(directory)}",
    )


def _grid(
    directory: Path, launcher: Launcher, typed: Mapping[str, Override], check: Callable[[Any], None], together: bool
) -> tuple[Sweep, list[Callable[[Slot], None]]]:
    """Every combination; all in one launch where `together`."""
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
    sweep = Sweep(directory, launcher, len(combinations))
    fixed = {values[0] for values in lists.values() if len(values) == 1}
    jobs = [sweep.job(c, [o for o in c if o not in fixed]) for c in combinations]
    batches = [jobs] if together else [[job] for job in jobs]
    return sweep, [partial(sweep.launch, batch) for batch in batches]


def _slots(at_once: Any, launcher: Launcher) -> list[Slot] | None:
    """One for each run that goes on at the same time; none in this process; None where the launcher takes all at once.

    Raises:
        UserError: so many cannot be run at once, or it is not said how many.
    """
    kind = type(launcher).__name__
    require(
        at_once is None or (isinstance(at_once, int) and at_once > 0),
        f"sweep.at_once={at_once}: it must be a whole number, 1 or more.",
    )
    require(
        kind != "BasicLauncher" or at_once in (None, 1),
        f"sweep.at_once={at_once}: in one process runs follow one another. "
        'Add hydra/launcher=local (pip install -e ".[sweep]"), which gives each a process of its own.',
    )
    if kind == "BasicLauncher":
        return []
    if kind != "LocalLauncher":
        return [{}] * at_once if at_once else None
    gpus = hardware.gpus()
    count = at_once or len(gpus)
    require(
        count,
        "hydra/launcher=local runs one job per GPU, and here is none. Say how many at the same time, "
        f"for example sweep.at_once={min(2, hardware.cores())}: the {hardware.cores()} cores are divided among them.",
    )
    threads = {"OMP_NUM_THREADS": str(max(1, hardware.cores() // count))}
    return [{**threads, **({"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if gpus else {})} for k in range(count)]


def _each(work: Sequence[Callable[[Slot], None]], slots: Sequence[Slot] | None, sweep: Sweep) -> None:
    """Do all of `work`: here, one after the other, or as many at once as there are slots."""
    if not slots:
        for one in work:
            one({})
        return
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in slots:
        free.put(slot)

    def take(one: Callable[[Slot], None]) -> None:
        slot = free.get()
        try:
            one(slot)
        finally:
            free.put(slot)

    # The runs are other processes, started by the launcher; a thread waits for each.
    with ThreadPoolExecutor(len(slots)) as pool:
        futures = [pool.submit(take, one) for one in work]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                future.result()
        except BaseException:
            tqdm.write("Stopping: the runs write what they have ...")
            told: set[int] = set()
            pool.shutdown(wait=False, cancel_futures=True)
            begun = [future for future in futures if not future.cancelled()]
            while wait(begun, timeout=3).not_done:  # Ctrl-C on a terminal has reached them already
                _interrupt(sweep.jobs, told)
            raise


def _interrupt(jobs: Iterable[Job], told: set[int]) -> None:
    """Ask the runs that are processes of this machine to stop, each once."""
    for job in jobs:
        facts = job.facts()
        if facts["status"] == "running" and facts["host"] == socket.gethostname() and facts["pid"] not in told:
            told.add(facts["pid"])
            with suppress(ProcessLookupError):
                os.kill(facts["pid"], signal.SIGINT)


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
