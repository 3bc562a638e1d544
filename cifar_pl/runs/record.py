"""A run read from its directory, and all runs below some directories."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifar_pl.errors import UserError, require
from cifar_pl.runs import files, rundir, summary
from cifar_pl.runs.overrides import flat

REPLICATES = ("seed", "data.fold")  # differ between repetitions of a configuration


@dataclass(frozen=True)
class Record:
    """A run, as far as it got.

    Attributes:
        directory: Its run directory.
        status: finished, pruned (by a search), failed, interrupted, killed, running or unreadable.
        error: Why it failed or cannot be read, else empty.
        overrides: As typed.
        facts: What status.json holds.
        config: Resolved and flat.
        summary: What summary.json holds; empty unless the run is finished.
        metrics: The rows of metrics.csv; none unless the run is finished.
    """

    directory: Path
    status: str
    error: str = ""
    overrides: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, float]] = ()

    def __post_init__(self) -> None:
        """Refuse what damaged files hold, so that nothing below fails later."""
        texts, git = (self.status, self.error, *self.overrides), self.facts.get("git")
        words = all(isinstance(text, str) for text in texts)
        require(words, f"{rundir.STATUS}: status, error and overrides must be text.")
        known = not git or (isinstance(git["commit"] or "", str) and "dirty" in git)
        require(known, f"{rundir.STATUS}: git must have commit and dirty.")
        hash(self.replicate)
        if self.status == "finished":
            shares = [share for split in ("val", "test") if (share := self.accuracy(split)) is not None]
            usable = all(0 <= s <= 1 for s in shares) and 0 < self.lr < math.inf and 0 <= self.seconds < math.inf
            rule = "accuracies must be from 0 to 1, lr above 0, seconds 0 or more"
            require(usable, f"{rundir.SUMMARY}: {rule}; they are {shares}, {self.lr}, {self.seconds}.")

    @property
    def replicate(self) -> tuple[Any, ...]:
        """The values of `REPLICATES`."""
        return tuple(self.config.get(name) for name in REPLICATES)

    @property
    def lr(self) -> float:
        """The learning rate that was used."""
        return float(self.summary["lr"]["value"])

    @property
    def seconds(self) -> float:
        """Of training and validation."""
        return float(self.summary.get("seconds", 0))

    @property
    def test_selected(self) -> bool:
        """Whether the test images stood in for the validation."""
        return bool(self.summary["protocol"]["test_selected"])

    def best(self, monitor: str) -> float | None:
        """`val/acc` or `val/loss` of the best epoch; None if it was NaN, or no validation images were held out."""
        scores = {} if self.test_selected else self.summary["val"] or {}
        value = scores.get(f"best_{monitor.removeprefix('val/')}")
        return None if value is None else float(value)

    def accuracy(self, split: str) -> float | None:
        """Of `val` (see `best`) or `test`, in [0, 1]."""
        return self.best("val/acc") if split == "val" else float(self.summary["test"]["acc"])


def read(directory: Path) -> Record:
    """The run in `directory`; its status is `unreadable` if a file is damaged."""
    try:
        facts = rundir.state(directory)
        finished = facts["status"] == "finished"
        return Record(
            directory,
            facts["status"],
            facts.get("error", ""),
            tuple(facts.get("overrides", ())),
            facts,
            flat(rundir.read_config(directory)) if (directory / rundir.CONFIG).is_file() else {},
            files.read_json(directory / rundir.SUMMARY) if finished else {},
            summary.read_metrics(directory / rundir.METRICS) if finished else (),
        )
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise anything
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return Record(directory, "unreadable", text)


def list_runs(directories: Sequence[Path]) -> list[Record]:
    """Every run in and below `directories`, in the order of their names, numbers by their value."""
    for directory in directories:
        require(directory.is_dir(), f"{directory}: there is no such directory.")
    found = {path.parent.resolve(): path.parent for d in directories for path in d.rglob(rundir.STATUS)}
    require(found, f"{', '.join(map(str, directories))}: there is no run in it (no {rundir.STATUS}).")

    def natural(path: Path) -> list[str]:
        return [part.zfill(12) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]

    return [read(directory) for directory in sorted(found.values(), key=natural)]
