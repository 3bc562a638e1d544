"""Many runs in one table and on one page."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from cifar_pl.evaluation.predictions import SPLITS
from cifar_pl.reporting import figures, page
from cifar_pl.runs import files, rundir
from cifar_pl.runs.compare import Comparison, Spread
from cifar_pl.runs.monitors import TEST_SELECTED
from cifar_pl.runs.overrides import key_of

TABLE, PAGE = "sweep.csv", "sweep.html"
SHOWN = 20  # configurations in the table at the end; all of them are in the files
FIGURES = ("mean", "std", "low", "high")
ACCURACIES = tuple(f"{split}_acc_{figure}" for split in SPLITS for figure in FIGURES)
COLUMNS = ("status", "configuration", "n", *ACCURACIES, "lr", "seconds", "runs", "error")


def write(out: Path, comparison: Comparison, arguments: Sequence[str]) -> None:
    """Write `sweep.csv` and the page `sweep.html` into `out`; `python` with these arguments made them."""
    files.write_csv(out / TABLE, COLUMNS, _rows(comparison, out))
    judge, families, charts = SPLITS[comparison.judge], _families(comparison), {}
    if any(len(points) > 1 for points in families.values()):
        charts["rates"] = figures.comparison(families, "learning rate", f"{judge} accuracy, %", log=True)
    if curves := _curves(comparison):
        charts["curves"] = figures.comparison(curves, "epoch", "validation accuracy, %")
    text = page.render(
        "sweep.html",
        name=out.resolve().name,
        c=comparison,
        judge=judge,
        splits=SPLITS,
        charts={key: figures.svg(figure, key) for key, figure in charts.items()},
        versions=sorted({run.code for run in comparison.runs}),
        place=lambda run: os.path.relpath(run.directory, out),
        link=lambda run: "./" + quote(os.path.relpath(run.directory / rundir.PAGE, out)),
        exists=lambda run: (run.directory / rundir.PAGE).is_file(),
        command=shlex.join(["python", *arguments]),
    )
    files.write(out / PAGE, text)


def text(comparison: Comparison) -> str:
    """The table at the end: the best configurations, the verdict, and what has no result."""
    rows = [["", "validation, %", "test, %", "n", "configuration"]]
    for place, one in enumerate(comparison.configurations[:SHOWN], 1):
        cells = (_percent(one.accuracy[split]) for split in SPLITS)
        rows.append([str(place), *cells, str(len(one.runs)), one.name])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    if comparison.common:
        lines.insert(0, f"All with {' '.join(comparison.common)}")
    if (more := len(comparison.configurations) - SHOWN) > 0:
        lines.append(f"... and {more} more in {TABLE}")
    lines.append(f"{comparison.verdict} (Mean ± standard deviation over n runs; by {SPLITS[comparison.judge]}.)")
    if comparison.followed:
        lines.append(f"!! The runs monitored {comparison.followed}, so the best of them need not be the first here.")
    if comparison.test_selected:
        lines.append(f"!! {TEST_SELECTED}: with protocol=published the test images stood in for the validation.")
    lines += [f"{run.status}: {run.directory} {run.error}".rstrip() for run in comparison.others]
    return "\n".join(lines)


def _rows(comparison: Comparison, out: Path) -> list[dict[str, Any]]:
    """One row per configuration, best first, then one per run without a result; fractions in [0, 1]."""
    rows = []
    for one in comparison.configurations:
        row: dict[str, Any] = {"status": "finished", "configuration": one.name, "n": len(one.runs)}
        for split in SPLITS:
            if spread := one.accuracy[split]:
                row |= {f"{split}_acc_{f}": getattr(spread, f) for f in (FIGURES if spread.n > 1 else FIGURES[:1])}
        runs = " ".join(os.path.relpath(run.directory, out) for run in one.runs.values())
        rows.append({**row, "lr": one.lr, "seconds": one.seconds, "runs": runs})
    for run in comparison.others:
        row = {"status": run.status, "configuration": comparison.name(run), "n": 0}
        rows.append({**row, "runs": os.path.relpath(run.directory, out), "error": run.error})
    return rows


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.2f}" + (f" ± {100 * spread.std:.2f}" if spread.n > 1 else "")


def _families(comparison: Comparison) -> dict[str, NDArray[np.float64]]:
    """Configurations that differ only in the rate: rate, mean and deviation (%) of the accuracy that ranks them."""
    families: dict[str, list[tuple[float, float, float]]] = {}
    for one in comparison.configurations:
        name = " ".join(o for o in one.overrides if key_of(o) != "optimizer.lr") or "all"
        accuracy = comparison.judged(one)
        point = (one.lr, 100 * accuracy.mean, 100 * float(np.nan_to_num(accuracy.std)))
        families.setdefault(name, []).append(point)
    return {name: np.array(sorted(points)) for name, points in families.items()}


def _curves(comparison: Comparison) -> dict[str, NDArray[np.float64]]:
    """Epoch and mean validation accuracy (%) of each configuration that has one."""
    lines = {}
    for one in comparison.configurations:
        values = [[100 * row.get("val/acc", np.nan) for row in run.metrics] for run in one.runs.values()]
        mean = np.mean([v[: min(map(len, values))] for v in values], axis=0)
        points = np.column_stack([1 + np.arange(len(mean)), mean])[np.isfinite(mean)]
        if len(points):
            lines[one.name + (f" ({TEST_SELECTED})" if one.test_selected else "")] = points
    return lines
