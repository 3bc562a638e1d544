"""Many runs in one table and on one page."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifar_pl.evaluation.predictions import SPLITS
from cifar_pl.inference import kept
from cifar_pl.inference.kept import Votes
from cifar_pl.reporting import comparison_figures, figures, page, sprites, wall
from cifar_pl.runs import files, rundir
from cifar_pl.runs.compare import Comparison, Configuration
from cifar_pl.runs.monitors import TEST_SELECTED
from cifar_pl.runs.overrides import TRAIN, key_of
from cifar_pl.runs.record import REPLICATES
from cifar_pl.runs.seeds import Spread, front

TABLE, PAGE = "sweep.csv", "sweep.html"
SHOWN = 20  # configurations in the table at the end, and at once on the page; all of them are in the files
WALL = 100  # images on a wall
FIRST = 3  # seeds for a first difference with an interval
FIGURES = ("mean", "std", "low", "high")
ACCURACIES = tuple(f"{split}_acc_{figure}" for split in SPLITS for figure in FIGURES)
COLUMNS = ("status", "configuration", "n", *ACCURACIES, "lr", "seconds", "runs", "error")


class Search(NamedTuple):
    """What a search found, see `comparison_figures.parallel`."""

    rows: Sequence[Mapping[str, Any]]
    log: Collection[str]
    better: str
    importance: Mapping[str, float]  # by parameter, most important first; empty if there were too few trials


def write(out: Path, comparison: Comparison, typed: Sequence[str], search: Search | None = None) -> None:
    """Write `sweep.csv` and the page `sweep.html` into `out`; `typed` is what made them."""
    files.write_csv(out / TABLE, COLUMNS, _rows(comparison, out))
    votes = kept.votes([list(one.runs.values()) for one in comparison.configurations])
    text = page.render(
        "sweep.html",
        name=out.resolve().name,
        c=comparison,
        judge=SPLITS[comparison.judge],
        shown=SHOWN,
        splits=SPLITS,
        charts={key: figures.svg(figure, key) for key, figure in _charts(comparison, search).items()},
        search=search,
        more=more_seeds(out, comparison),
        votes=votes,
        wall=_wall(votes) if votes and len(votes.runs) > 1 else None,
        versions=sorted({run.code for run in comparison.runs}),
        command=shlex.join(typed),
        out=out,
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
        runs = " ".join(run.place(out) for run in one.runs.values())
        rows.append({**row, "lr": one.lr, "seconds": one.seconds, "runs": runs})
    for run in comparison.others:
        row = {"status": run.status, "configuration": comparison.name(run), "n": 0}
        rows.append({**row, "runs": run.place(out), "error": run.error})
    return rows


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.2f}" + (f" ± {100 * spread.std:.2f}" if spread.n > 1 else "")


def _charts(comparison: Comparison, search: Search | None) -> dict[str, Figure]:
    """As far as the runs have something to show."""
    ylabel, charts = f"{SPLITS[comparison.judge]} accuracy, %", {}
    families = _families(comparison)
    if any(len(points) > 1 for points in families.values()):
        charts["rates"] = comparison_figures.comparison(families, "learning rate", ylabel, log=True)
    if curves := _curves(comparison):
        charts["curves"] = comparison_figures.comparison(curves, "epoch", "validation accuracy, %")
    points = [(c.seconds / len(c.runs) / 60, 100 * comparison.judged(c).mean) for c in comparison.configurations]
    if len({minutes for minutes, _ in points}) > 1 and min(points)[0] > 0:
        charts["costs"] = comparison_figures.costs(points, front(points), ylabel)
    if search:
        charts["search"] = comparison_figures.parallel(search.rows, search.log, search.better)
    return charts


def more_seeds(out: Path, comparison: Comparison) -> list[str]:
    """The command lines that would tell the best two apart: one that resumes the sweep in `out`, else one for each.

    Empty if they are told apart, or if it would take too many.
    """
    gap = comparison.differences.get(comparison.judge)
    pairs = comparison.needed if gap else FIRST
    if len(comparison.configurations) < 2 or pairs is None:
        return []
    best = comparison.configurations[:2]
    seeds = {replicate[0] for one in best for replicate in one.runs}
    folds = set.intersection(*({replicate[1] for replicate in one.runs} for one in best)) or {None}
    first, number = 0, -(-pairs // len(folds))
    resumed = (out / rundir.SWEEP).is_file() and not (out / rundir.STUDY).exists()
    if not resumed or not any(key_of(o) == "seed" for one in best for run in one.runs.values() for o in run.overrides):
        # Another sweep, or one that named no seed, would train these again.
        first = 1 + max((seed for seed in seeds if isinstance(seed, int)), default=0)
        number = max(1, number - len(seeds))
    added = [f"seed=range({f'{first},' if first else ''}{first + number})"]
    if resumed:
        of = _lists(*best) if len(comparison.configurations) > 2 else [()]
        return [shlex.join([*TRAIN.split(), "-m", f"sweep.resume={out}", *overrides, *added]) for overrides in of]
    if folds != {None}:
        added = [f"data.fold={','.join(map(str, sorted(folds)))}", *added]
    same = [[o for o in next(iter(one.runs.values())).overrides if key_of(o) not in REPLICATES] for one in best]
    return [shlex.join([*TRAIN.split(), "-m", *overrides, *added]) for overrides in same]


def _lists(first: Configuration, second: Configuration) -> list[Sequence[str]]:
    """Overrides of a sweep over these two alone, or of one sweep for each; none if their keys differ."""
    if [*map(key_of, first.overrides)] != [*map(key_of, second.overrides)]:
        return [()]
    pairs = [*zip(first.overrides, second.overrides, strict=True)]
    if sum(a != b for a, b in pairs) > 1:  # lists of both would be all combinations
        return [first.overrides, second.overrides]
    return [[a if a == b else f"{a},{b.partition('=')[2]}" for a, b in pairs]]


def _wall(votes: Votes) -> dict[str, Any] | None:
    """The images that every run gets wrong, those first of which most runs say the same; None without any."""
    rows, images = votes.all_wrong(), (votes.runs[0], votes.split, votes.index, votes.label, votes.counts.shape[1])
    if not len(rows) or (data := kept.images(*images)) is None:
        return None
    names, shown = data.load().classes, rows[:WALL]
    said = votes.counts[shown].argmax(1).tolist()
    texts = [
        f"{wall.name(data, votes.split, votes.index[row])}, {names[votes.label[row]]}: "
        f"{votes.counts[row, one]} of {len(votes.runs)} say {names[one]}"
        for row, one in zip(shown.tolist(), said, strict=True)
    ]
    sheet = sprites.sheet(data.pixels(votes.split, votes.index[shown]))
    return {"sheet": sheet, "tiles": list(enumerate(texts)), "total": len(rows)}


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
    """Epoch and mean validation accuracy (%) of each configuration that has one, and its deviation over runs."""
    lines = {}
    for one in comparison.configurations:
        values = [[100 * row.get("val/acc", np.nan) for row in run.metrics] for run in one.runs.values()]
        table = np.array([v[: min(map(len, values))] for v in values])
        std = [table.std(axis=0, ddof=1)] if len(table) > 1 else []
        points = np.column_stack([1 + np.arange(table.shape[1]), table.mean(axis=0), *std])
        if np.isfinite(points[:, 1]).any():
            lines[one.name + (f" ({TEST_SELECTED})" if one.test_selected else "")] = points[np.isfinite(points[:, 1])]
    return lines
