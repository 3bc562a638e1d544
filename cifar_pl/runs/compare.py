"""Many runs side by side: grouped into configurations over their seeds, best first, the best two compared."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import t as student

from cifar_pl.errors import UserError, require
from cifar_pl.runs import files, rundir, summary
from cifar_pl.runs.overrides import flat, key_of

REPLICATES = ("seed", "data.fold")  # what repeats a configuration
# Of a resolved config: what repeats it, says where it ran, or only joins what stands elsewhere in it.
APART = re.compile(
    r"(^|\.)(seed|fold|num_workers)$|^(run_dir|resume)$|^(sweep|logger|datamodule|callbacks\.dashboard)(\.|$)"
)
ROOTS = ("data.root", "data.source.root")


class Spread(NamedTuple):
    """Mean, standard deviation and number of some values; `low` to `high` is the mean's 95 % interval (Student's t).

    NaN where a single value says nothing of the spread.
    """

    mean: float
    std: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Run:
    """A run directory, as far as it got.

    Attributes:
        directory: Where it is.
        status: finished, pruned (by a search), failed, interrupted, killed, running or unreadable.
        error: Of a failed one, else empty.
        overrides: As typed.
        config: Resolved and flat, without what differs between repetitions.
        replicate: The values of `REPLICATES`.
        summary: What is in summary.json; empty where it is not finished.
        git: Commit of the code, and whether it was dirty; None where that is not known.
        metrics: The rows of metrics.csv; none where it is not finished.
    """

    directory: Path
    status: str
    error: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    replicate: tuple[Any, ...]
    summary: Mapping[str, Any]
    git: Mapping[str, Any] | None
    metrics: Sequence[Mapping[str, float]] = ()

    def __post_init__(self) -> None:
        """Refuse what damaged files hold: whatever is asked of a run later is there, and of its kind.

        Raises:
            ValueError: it is not.
        """
        require(all(isinstance(word, str) for word in (self.status, self.error, *self.overrides)), "its words are none")
        hash(self.replicate)
        if self.git is not None:
            require(isinstance(self.git["commit"] or "", str) and "dirty" in self.git, "its commit is none")
        if self.status == "finished":
            shares = [share for split in ("val", "test") if (share := self.accuracy(split)) is not None]
            require(all(0 <= share <= 1 for share in shares), f"its accuracies are {shares}")
            require(0 < self.lr < math.inf and 0 <= self.seconds < math.inf, "its rate or its seconds are none")

    @property
    def lr(self) -> float:
        """The rate, above 0."""
        return float(self.summary["lr"]["value"])

    @property
    def seconds(self) -> float:
        """Of training and validation."""
        return float(self.summary.get("seconds", 0))

    @property
    def test_selected(self) -> bool:
        """Whether the test images stood in for the validation."""
        return bool(self.summary["protocol"]["test_selected"])

    def accuracy(self, split: str) -> float | None:
        """Of `val` (the best epoch's) or `test`, in [0, 1]; None where the run has no such figure of its own."""
        if split == "test":
            return float(self.summary["test"]["acc"])
        own = self.summary["val"] and not self.test_selected
        return float(self.summary["val"]["best_acc"]) if own else None


@dataclass(frozen=True)
class Configuration:
    """Finished runs that differ in nothing but seed and fold.

    Attributes:
        overrides: Those that tell it from the others.
        runs: By their replicate.
    """

    overrides: tuple[str, ...]
    runs: Mapping[tuple[Any, ...], Run]

    @property
    def name(self) -> str:
        """How to call it."""
        return " ".join(self.overrides) or "defaults"

    def spread(self, split: str) -> Spread | None:
        """Of the accuracy of `val` or `test` over the runs; None where not every run has one."""
        values = [run.accuracy(split) for run in self.runs.values()]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        whole = spread(known)
        return whole._replace(low=max(0.0, whole.low), high=min(1.0, whole.high)) if whole.n > 1 else whole

    @property
    def test_selected(self) -> bool:
        """Whether the test images stood in for the validation."""
        return any(run.test_selected for run in self.runs.values())

    @property
    def lr(self) -> float:
        """The median of the runs' rates; they differ where each had a range test."""
        return float(statistics.median(run.lr for run in self.runs.values()))

    @property
    def seconds(self) -> float:
        """Of training and validation, all runs together."""
        return float(sum(run.seconds for run in self.runs.values()))


class Comparison:
    """What many runs say together."""

    def __init__(self, runs: Iterable[Run]) -> None:
        """Group `runs`; of two finished repetitions with the same seed and fold the one with the later name counts."""
        self.runs = list(runs)
        groups: dict[str, list[Run]] = {}
        for run in self.finished:
            folds = run.replicate[1] is not None  # of k, or without: other numbers of images train
            groups.setdefault(repr((folds, sorted(run.config.items()))), []).append(run)
        typed = [[o for o in group[0].overrides if key_of(o) not in REPLICATES] for group in groups.values()]
        common = set.intersection(*map(set, typed)) if len(typed) > 1 else set()
        found: list[Configuration] = []
        for own, group in zip(typed, groups.values(), strict=True):
            telling = tuple(o for o in own if o not in common)
            if any(telling == other.overrides for other in found):  # typed alike, yet another: defaults changed
                telling = (*telling, f"(as {group[0].directory.name})")
            found.append(Configuration(telling, {r.replicate: r for r in group}))
        judged = all(c.spread("val") for c in found)
        self.judge = "val" if judged else "test"
        self.configurations = sorted(found, key=lambda c: -self.judged(c).mean)
        self.common = [o for o in (typed[0] if typed else []) if o in common]

    @property
    def finished(self) -> list[Run]:
        """Those with a result."""
        return [run for run in self.runs if run.status == "finished"]

    @property
    def others(self) -> list[Run]:
        """Those without."""
        return [run for run in self.runs if run.status != "finished"]

    def name(self, run: Run) -> str:
        """The overrides that not every run has."""
        return " ".join(o for o in run.overrides if o not in self._shared)

    @cached_property
    def _shared(self) -> set[str]:
        return set.intersection(*(set(run.overrides) for run in self.runs))

    def judged(self, one: Configuration) -> Spread:
        """What decides the place of a configuration."""
        known = one.spread(self.judge)
        assert known  # every finished run has a test accuracy
        return known

    @property
    def followed(self) -> str:
        """What the runs, or the search of them, went by in place of the accuracy that decides here; else empty."""
        others = {str(run.config.get("monitor", "val/acc")) for run in self.finished} - {"val/acc"}
        return " and ".join(sorted(others))

    @property
    def test_selected(self) -> bool:
        """Whether a result here was chosen by the test images that it is measured on."""
        return any(run.test_selected for run in self.finished)

    @cached_property
    def differences(self) -> dict[str, Spread]:
        """Best less second best, seed by seed, in `val` and `test`; without what fewer than two seeds say."""
        if len(self.configurations) < 2:
            return {}
        first, second = (c.runs for c in self.configurations[:2])
        found = {}
        for split in ("val", "test"):
            pairs = [(first[r].accuracy(split), second[r].accuracy(split)) for r in first if r in second]
            gaps = [a - b for a, b in pairs if a is not None and b is not None]
            if len(gaps) > 1:
                found[split] = spread(gaps)
        return found

    @property
    def verdict(self) -> str:
        """Whether the best two can be told apart, in a sentence."""
        if len(self.configurations) < 2:
            return "There are no two configurations to compare."
        gap = self.differences.get(self.judge)
        if gap is None:
            return "Best and second best have fewer than two seeds in common: not distinguishable. Add seeds."
        told = "distinguishable" if not gap.low <= 0 <= gap.high else "not distinguishable"
        points = f"{100 * gap.mean:+.2f} points, 95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
        return f"Best and second best are {told}: {points}, {gap.n} pairs of runs with the same seed."


def spread(values: Sequence[float]) -> Spread:
    """Of one value or more."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Spread(mean, math.nan, 1, math.nan, math.nan)
    std = statistics.stdev(values)
    half = float(student.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return Spread(mean, std, n, mean - half, mean + half)


def find(directories: Sequence[Path]) -> list[Run]:
    """Every run in and below `directories`, in the order of their names, numbers by their value.

    Raises:
        UserError: there is none.
    """
    for directory in directories:
        require(directory.is_dir(), f"{directory}: there is no such directory.")
    found = {path.parent.resolve(): path.parent for d in directories for path in d.rglob(rundir.STATUS)}
    require(found, f"{', '.join(map(str, directories))}: there is no run in it (no {rundir.STATUS}).")
    return [read(directory) for directory in sorted(found.values(), key=_natural)]


def read(directory: Path) -> Run:
    """The run in `directory`; where its files are damaged, its status is `unreadable`."""
    try:
        return _read(directory)
    except Exception as error:  # noqa: BLE001 - whatever damaged files make of their readers
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return Run(directory, "unreadable", said, (), {}, (None, None), {}, None)


def _read(directory: Path) -> Run:
    status = rundir.state(directory)
    config: dict[str, Any] = {}
    if (directory / rundir.CONFIG).is_file():
        config = flat(rundir.read_config(directory))
    where = str(config.get("run_dir"))
    if not str(config.get("data.source._target_")).endswith("image_folder"):  # the same images wherever they lie
        config = {k: v for k, v in config.items() if k not in ROOTS}
    finished = status["status"] == "finished"
    return Run(
        directory,
        status["status"],
        status.get("error", ""),
        tuple(status.get("overrides", ())),
        {k: v for k, v in config.items() if not APART.search(k) and where not in str(v)},
        tuple(config.get(name) for name in REPLICATES),
        files.read_json(directory / rundir.SUMMARY) if finished else {},
        status.get("git"),
        summary.read_metrics(directory / rundir.METRICS) if finished else (),
    )


def _natural(path: Path) -> list[str]:
    return [part.zfill(12) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
