"""A run read from its directory, and all runs below some directories."""

import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field
from pydantic.dataclasses import dataclass

from cifar_pl.errors import UserError, reason, require
from cifar_pl.runs import files, rundir, summary
from cifar_pl.runs.overrides import flat

REPLICATES = ("seed", "data.fold")  # differ between repetitions of a configuration

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Record:
    """A run, as far as it got."""

    directory: Path
    status: str  # finished, pruned (by a search), failed, interrupted, killed, running or unreadable
    error: str = ""  # why it failed or cannot be read
    overrides: tuple[str, ...] = ()  # as typed
    code: str = "unknown"  # its commit, and whether that was changed
    facts: dict[str, Any] = field(default_factory=dict)  # status.json
    config: dict[str, Any] = field(default_factory=dict)  # resolved and flat
    replicate: tuple[Hashable, ...] = ()  # the values of `REPLICATES`
    # Of a finished run:
    summary: dict[str, Any] = field(default_factory=dict)  # summary.json
    metrics: list[dict[str, float]] = field(default_factory=list)  # metrics.csv
    accuracy: dict[str, Share | None] = field(default_factory=dict)  # `test`; `val` is None without images of its own
    test_selected: bool = False  # the test images stood in for the validation
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # of training and validation

    def place(self, out: Path) -> str:
        """The way from `out` to its directory, with slashes on every system."""
        return Path(os.path.relpath(self.directory, out)).as_posix()

    def link(self, out: Path) -> str:
        """The address of its page on a page in `out`; empty if it has none."""
        page = Path(self.place(out), rundir.PAGE)
        return "./" + quote(page.as_posix()) if (self.directory / rundir.PAGE).is_file() else ""


def read(directory: Path) -> Record:
    """The run in `directory`; its status is `unreadable` if a file is damaged."""
    try:
        return _read(directory)
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise anything
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return Record(directory, "unreadable", kind + reason(error))


def _read(directory: Path) -> Record:
    facts = rundir.state(directory)
    config = flat(rundir.read_config(directory)) if (directory / rundir.CONFIG).is_file() else {}
    git, code = facts.get("git"), "unknown"
    if git and git["commit"]:
        code = git["commit"][:10] + (" with changes" if git["dirty"] else "")
    replicate = tuple(config.get(name) for name in REPLICATES)
    error, overrides = facts.get("error", ""), facts.get("overrides", ())
    run = Record(directory, facts["status"], error, overrides, code, facts, config, replicate)
    if run.status != "finished":
        return run
    results = files.read_json(directory / rundir.SUMMARY)
    selected = results["protocol"]["test_selected"]
    validated = None if selected else results["val"]
    return replace(
        run,
        summary=results,
        metrics=summary.read_metrics(directory / rundir.METRICS),
        accuracy={"val": validated and validated["best_acc"], "test": float(results["test"]["acc"])},
        test_selected=selected,
        lr=results["lr"]["value"],
        seconds=results.get("seconds", 0),
    )


def list_runs(directories: Sequence[Path]) -> list[Record]:
    """Every run in and below `directories`, in the order of their names, numbers by their value."""
    for directory in directories:
        require(directory.is_dir(), f"{directory}: there is no such directory.")
    found = {path.parent.resolve(): path.parent for d in directories for path in d.rglob(rundir.STATUS)}
    require(found, f"{', '.join(map(str, directories))}: there is no run in it (no {rundir.STATUS}).")

    def natural(path: Path) -> list[str]:
        return [part.zfill(12) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]

    return [read(directory) for directory in sorted(found.values(), key=natural)]
