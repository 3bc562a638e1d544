"""Runs grouped into configurations over their seeds, best first, and the best two compared."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from cifar_pl.runs.overrides import key_of
from cifar_pl.runs.record import REPLICATES, Record
from cifar_pl.runs.seeds import MOST, Spread, chances, pairs_needed, spread

# Keys of a resolved config in which runs of one configuration may differ: repetition, place, copies of other keys.
APART = re.compile(
    r"(^|\.)(seed|fold|num_workers)$|^(run_dir|resume)$|^(sweep|logger|datamodule|callbacks\.dashboard)(\.|$)"
)
ROOTS = ("data.root", "data.source.root")


class Configuration(NamedTuple):
    """Finished runs that differ only in seed and fold."""

    overrides: tuple[str, ...]  # those that not every configuration has
    runs: Mapping[tuple[Any, ...], Record]  # by their replicate
    accuracy: Mapping[str, Spread | None]  # over the runs, in `val` and `test`; None if a run has none
    lr: float  # the median: they differ if each run had a range test
    seconds: float  # of training and validation, all runs together
    test_selected: bool

    @property
    def name(self) -> str:
        """The overrides in one line."""
        return " ".join(self.overrides) or "defaults"


class Comparison:
    """Runs side by side.

    Attributes:
        configurations: Best first. Of two runs with the same seed and fold, the one with the later name counts.
        judge: The split by which they are ordered: `val`, or `test` if not every run has a validation.
        common: The overrides that every configuration has.
        followed: What runs monitored in place of the validation accuracy, else empty.
    """

    def __init__(self, runs: Iterable[Record]) -> None:
        """Group `runs`."""
        self.runs = list(runs)
        self.finished = [run for run in self.runs if run.status == "finished"]
        self.others = [run for run in self.runs if run.status != "finished"]
        self.test_selected = any(run.test_selected for run in self.finished)
        monitors = {str(run.config.get("monitor", "val/acc")) for run in self.finished}
        self.followed = " and ".join(sorted(monitors - {"val/acc"}))
        self._counts = Counter(o for run in self.runs for o in set(run.overrides))
        groups: dict[str, list[Record]] = {}
        for run in self.finished:
            groups.setdefault(_configuration(run), []).append(run)
        typed = [[o for o in group[0].overrides if key_of(o) not in REPLICATES] for group in groups.values()]
        common = set.intersection(*map(set, typed)) if len(typed) > 1 else set()
        self.common = [o for o in (typed[0] if typed else []) if o in common]
        found: dict[tuple[str, ...], Configuration] = {}
        for overrides, group in zip(typed, groups.values(), strict=True):
            own = tuple(o for o in overrides if o not in common)
            if own in found:  # typed alike, but a default has changed
                own = (*own, f"(as {group[0].directory})")
            found[own] = _configured(own, {run.replicate: run for run in group})
        self.judge = "val" if all(c.accuracy["val"] for c in found.values()) else "test"
        self.configurations = sorted(found.values(), key=lambda c: -self.judged(c).mean)

    def name(self, run: Record) -> str:
        """The overrides that not every run has."""
        return " ".join(o for o in run.overrides if self._counts[o] < len(self.runs))

    def judged(self, configuration: Configuration) -> Spread:
        """The accuracy that decides the place of a configuration."""
        result = configuration.accuracy[self.judge]
        assert result  # every finished run has a test accuracy
        return result

    @cached_property
    def differences(self) -> dict[str, Spread]:
        """Best less second best, seed by seed, in `val` and `test`; without a split that has fewer than two pairs."""
        if len(self.configurations) < 2:
            return {}
        first, second = (c.runs for c in self.configurations[:2])
        found = {}
        for split in ("val", "test"):
            pairs = [(first[r].accuracy[split], second[r].accuracy[split]) for r in first if r in second]
            gaps = [a - b for a, b in pairs if a is not None and b is not None]
            if len(gaps) > 1:
                found[split] = spread(gaps)
        return found

    @cached_property
    def chances(self) -> dict[str, float]:
        """By name, how likely each configuration is the best of those with two runs or more; empty if they are one."""
        several = [c for c in self.configurations if len(c.runs) > 1]
        if len(several) < 2:
            return {}
        values = [{r: run.accuracy[self.judge] or 0.0 for r, run in c.runs.items()} for c in several]
        return dict(zip((c.name for c in several), chances(values).tolist(), strict=True))

    @property
    def needed(self) -> int | None:
        """How many pairs are likely to tell the best two apart; None if they do, if too many would, or none can say."""
        gap = self.differences.get(self.judge)
        return pairs_needed(gap) if gap and gap.low <= 0 <= gap.high else None

    @property
    def verdict(self) -> str:
        """Whether the best two are distinguishable, in a sentence; if not, what would tell, in another."""
        if len(self.configurations) < 2:
            return "There are no two configurations to compare."
        gap = self.differences.get(self.judge)
        if gap is None:
            return "Best and second best have fewer than two seeds in common: not distinguishable. Add seeds."
        told = not gap.low <= 0 <= gap.high
        points = f"{100 * gap.mean:+.2f} points, 95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
        result = f"{'' if told else 'not '}distinguishable: {points}, {gap.n} pairs of runs with the same seed."
        many = f"{self.needed} pairs tell" if self.needed else f"more than {MOST} pairs are needed to tell"
        hint = "" if told else f" If that is the true difference, {many} them apart in four of five attempts."
        return f"Best and second best are {result}{hint}"


def _configured(overrides: tuple[str, ...], runs: Mapping[tuple[Any, ...], Record]) -> Configuration:
    accuracy: dict[str, Spread | None] = {}
    for split in ("val", "test"):
        values = [value for run in runs.values() if (value := run.accuracy[split]) is not None]
        accuracy[split] = result = spread(values) if len(values) == len(runs) else None
        if result and result.n > 1:
            accuracy[split] = result._replace(low=max(0.0, result.low), high=min(1.0, result.high))
    lr, seconds = statistics.median(run.lr for run in runs.values()), sum(run.seconds for run in runs.values())
    return Configuration(overrides, runs, accuracy, lr, seconds, any(run.test_selected for run in runs.values()))


def _configuration(run: Record) -> str:
    """Equal for runs that differ only in seed, fold and place."""
    run_dir, own_images = str(run.config.get("run_dir")), "image_folder" in str(run.config.get("data.source._target_"))
    kept = {
        key: value
        for key, value in sorted(run.config.items())
        if not APART.search(key) and run_dir not in str(value) and (own_images or key not in ROOTS)
    }
    folds = run.config.get("data.fold") is not None  # a fold trains on another number of images
    return repr((folds, kept))
