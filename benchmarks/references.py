"""The five published runs next to ours, epoch by epoch: a table on the screen and a picture.

`python -m benchmarks.references`                       from the committed records
`python -m benchmarks.references add --data TEXT RUN...`  add run directories, finished or not, to their record

A run is one of `python train.py experiment=NAME`, with `protocol=honest` or without, of any seed and length.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy import percent, spread
from benchmarks.common import RED, RESULTS, ROOT, accuracy_records, head, save, table
from benchmarks.published import PUBLISHED, RULES, lagging, published_curve
from cifar_pl.machine import hardware
from cifar_pl.reporting.figures import MARK, TRAIN, VAL, png
from cifar_pl.runs.files import read_json
from cifar_pl.runs.monitors import TEST_SELECTED
from cifar_pl.runs.rundir import FIRST_STEPS, METRICS, RANGE_TEST, STATUS, SUMMARY, read_config
from cifar_pl.runs.summary import read_metrics
from cifar_pl.training import lr_finder

RECORD, PICTURE = RESULTS / "references.json", RESULTS / "references.png"
SHOWN = (1, 2, 3, 4, 5, 10, 16, 22, 30, 40, 50)  # epochs of the table
BEFORE = 10  # epochs before a drop, of which the mean and the spread are compared
ALIKE = 0.03  # a published accuracy further above ours asks for a cause


def of_run(run: Path) -> dict[str, Any]:
    """What the record keeps of one run directory; exits if its code was not that of a commit."""
    status = read_json(run / STATUS)
    git = status.get("git") or {}
    if git.get("dirty", True):
        sys.exit(f"{run} is not a run of one clean commit: {git}")
    config, typed = read_config(run), status["overrides"]
    name = next(o.partition("=")[2] for o in typed if o.startswith("experiment="))
    rows = read_metrics(run / METRICS)
    on = read_json(run / FIRST_STEPS)["on"] if (run / FIRST_STEPS).exists() else None
    return {
        "experiment": name,
        "protocol": config["protocol"],
        "seed": config["seed"],
        "overrides": typed,
        "commit": git["commit"],
        "on": f"{hardware.named(on)}, torch {on['torch']}" if on else "",
        "held_out": config["data"]["val_size"] if config["protocol"] == "honest" else 0,
        "curve": [
            {
                "epoch": int(row["epoch"]),
                "train": row["train/acc"],
                "val": row.get("val/acc"),
                "val_loss": row.get("val/loss"),
                "lr": row["lr"],
            }
            for row in rows
        ],
        "test": read_json(run / SUMMARY)["test"]["acc"] if (run / SUMMARY).exists() else None,
        "range_test": range_test(run / RANGE_TEST, PUBLISHED[name].rule) if (run / RANGE_TEST).exists() else None,
    }


def add(path: Path, runs: Sequence[Path], data: str, module: str) -> None:
    """Write the record with these run directories, and with its other runs if they were trained on the same data."""
    earlier = read_json(path) if path.exists() else {"data": data, "runs": []}
    kept = earlier["runs"] if earlier["data"] == data else []
    by_key = {_key(run): run for run in [*kept, *map(of_run, runs)]}
    parts = [by_key[key] for key in sorted(by_key)]
    save(path, {"benchmark": "references", **head(module), "data": data, "runs": parts})


def _key(run: Mapping[str, Any]) -> tuple[int, str, int]:
    return list(PUBLISHED).index(run["experiment"]), run["protocol"], run["seed"]


def range_test(path: Path, rule: str) -> dict[str, Any]:
    """The rates that a measured curve suggests: by the project's rule, by ours, and why ours refuses, if it does."""
    columns = np.genfromtxt(path, delimiter=",", names=True)
    curve = lr_finder.finite(lr_finder.Curve(columns["lr"], columns["loss"]))
    choice = lr_finder.choose(curve, 10, stays=True)
    return {
        "by_its_rule": lagging(curve, rule) if rule else None,
        "suggestions": choice.suggestions,
        "problem": None if choice.suggestions else choice.told,
    }


def curves_by_protocol(record: Mapping[str, Any], name: str, protocol: str) -> dict[int, list[float]]:
    """For each epoch the accuracies of all seeds: on the test images (published) or held-out ones (honest)."""
    values: dict[int, list[float]] = {}
    for run in record["runs"]:
        if (run["experiment"], run["protocol"]) == (name, protocol):
            for row in run["curve"]:
                values.setdefault(row["epoch"], []).append(row["val"])
    return values


def curves(record: Mapping[str, Any]) -> str:
    """One column per epoch: the published accuracy and ours."""
    last = max(row["epoch"] for run in record["runs"] for row in run["curve"])
    shown = [epoch for epoch in SHOWN if epoch <= last]
    rows = []
    for name in PUBLISHED:
        theirs, ours = published_curve(name), curves_by_protocol(record, name, "published")
        cells = []
        for epoch in shown:
            their = f"{100 * theirs[epoch]['test']:.1f}" if epoch in theirs else "-"
            mean = statistics.fmean(ours[epoch]) if epoch in ours else None
            our = "-" if mean is None else f"{100 * mean:.1f}"
            late = epoch in theirs and mean is not None and theirs[epoch]["test"] - mean > ALIKE
            cells.append(f"{their} / {f'**{our}**' if late else our}")
        if theirs or ours:
            rows.append((f"`{name}`", *cells))
    return table((f"published / ours, %; both {RED}", *(f"epoch {epoch}" for epoch in shown)), rows)


def protocols(record: Mapping[str, Any]) -> str:
    """The end of each run: its best epoch, and the test read once if the protocol is honest."""
    rows = []
    for run in record["runs"]:
        best = max((row for row in run["curve"] if row["val"] is not None), key=lambda row: row["val"])
        rows.append(
            (
                f"`{run['experiment']}`",
                run["protocol"],
                run["seed"],
                f"{best['epoch']} of {len(run['curve'])}",
                f"{100 * best['train']:.1f}",
                f"{100 * best['val']:.2f} " + (f"on {run['held_out']:,} held out" if run["held_out"] else RED),
                f"{100 * run['test']:.2f}" if run["held_out"] and run["test"] is not None else "-",
                run["on"],
                run["commit"][:7],
            )
        )
    accuracies = ("train, %", "its accuracy, %", "test read once, %")
    return table(("experiment", "protocol", "seed", "best epoch", *accuracies, "on", "commit"), rows)


def drops(record: Mapping[str, Any]) -> str:
    """Mean and spread of the last epochs before the published rate fell for the first time, and the best afterwards."""
    rows = []
    for run in record["runs"]:
        name, curve = run["experiment"], run["curve"]
        last = PUBLISHED[name].drop
        if run["protocol"] == "published" and 0 < last < len(curve):
            theirs = [published_curve(name)[epoch]["test"] for epoch in range(last - BEFORE + 1, last + 1)]
            both = [spread(values) for values in (theirs, [row["val"] for row in curve[last - BEFORE : last]])]
            fell = (before["epoch"] for before, after in pairwise(curve) if after["lr"] < before["lr"])
            best = PUBLISHED[name].best, max(row["val"] for row in curve[last:])
            ends = (f"{100 * value:.2f}" for value in best)
            rows.append((f"`{name}`", run["seed"], last, next(fell, "never"), *map(percent, both), *ends))
    before, after = f"the {BEFORE} epochs up to there, %", "best afterwards, %"
    parts = (f"{before}: published", "ours", f"{after}: published", "ours")
    return table(("experiment", "seed", "the published rate fell after epoch", "ours", *parts), rows)


def rates(record: Mapping[str, Any]) -> str:
    """The published rates, what our curve gives by the same rule, and what our own rule gives."""
    rows = []
    for run in record["runs"]:
        project, measured = PUBLISHED[run["experiment"]], run["range_test"]
        if measured:
            ours = f"{measured['suggestions']['steepest']:.3g}" if measured["suggestions"] else measured["problem"]
            rows.append(
                (
                    f"`{run['experiment']}`, {run['protocol']}",
                    RULES[project.rule],
                    *(
                        f"{rate:.3g}" if rate else "-"
                        for rate in (project.lr, project.shifted, measured["by_its_rule"])
                    ),
                    ours,
                )
            )
    header = ("experiment", "its rule", "published", "without its shift", "our curve by its rule", "by ours (steepest)")
    return table(header, rows)


def own() -> str:
    """What the five reached after as many epochs as our own recipes take, and what those reach."""
    ours = own_records()
    rows = []
    for name, project in PUBLISHED.items():
        curve = published_curve(name)
        drop = [_percent(curve, project.drop), _percent(curve, project.drop + 1)] if project.drop else ["-", "-"]
        best = f"{100 * project.best:.2f} (epoch {project.best_epoch} of {project.epochs})"
        rows.append((f"{project.project} {RED}", *(_percent(curve, r["epochs"]) for r in ours), *drop, best))
    rows.append(("our own, test read once", *(f"{100 * r['test_acc']['mean']:.2f}" for r in ours), "", "", ""))
    after = (f"after {r['epochs']} epochs" for r in ours)
    return table(("test accuracy, %", *after, "before the rate's first drop", "one epoch later", "best"), rows)


def own_records() -> list[dict[str, Any]]:
    """The records of our own recipes."""
    records = (r for r in accuracy_records() if "experiment=epochs" in r["command"])
    return [r for r in records if not r["protocol"].get("test_selected")]


def _percent(curve: Mapping[int, Mapping[str, float]], epoch: int) -> str:
    return f"{100 * curve[epoch]['test']:.2f}" if epoch in curve else "-"


def picture(record: Mapping[str, Any]) -> Figure:
    """Published curves and ours over the epochs, from 60 % on, one panel per project."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    panels = figure.subplots(1, len(PUBLISHED), sharey=True)
    points = [(r["epochs"], 100 * r["test_acc"]["mean"]) for r in own_records()]
    for ax, (name, project) in zip(panels, PUBLISHED.items(), strict=True):
        theirs = published_curve(name)
        if theirs:
            ax.plot(list(theirs), [100 * v["test"] for v in theirs.values()], color="0.45", label="published, test")
        ax.plot([project.best_epoch], [100 * project.best], "x", color="0.25", label="its best")
        for protocol, color, label in (
            ("published", VAL, f"ours, {TEST_SELECTED}"),
            ("honest", TRAIN, "ours, honest: on images held out"),
        ):
            ours = curves_by_protocol(record, name, protocol)
            if ours:
                means = [100 * statistics.fmean(values) for values in ours.values()]
                ax.plot(list(ours), means, color=color, lw=1.2, label=label)
        ax.plot(*zip(*points, strict=True), "*", color=MARK, markersize=8, label="our own recipes, test once")
        ax.set(title=name, xlim=(0, 51), ylim=(60, 96), xlabel="epoch")
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %")
    legend = {label: h for ax in panels for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=5)
    return figure


def tables() -> str:
    """All tables, as docs/references.md shows them."""
    record = read_json(RECORD)
    return "\n\n".join(
        (
            curves(record),
            "Ours: the mean over the seeds that reached this epoch. "
            f"Bold: more than {100 * ALIKE:.0f} points below the published figure. At our last epoch:",
            protocols(record),
            "Where the published rate fell in the course of the run (± is the standard deviation over these epochs; "
            f"where the curve rises, it is mostly the rise); both {RED}:",
            drops(record),
            "The learning-rate range test with each project's own settings:",
            rates(record),
            "The published runs after as many epochs as this project's own recipes take:",
            own(),
            f"Our runs of the five: {record['data']}. "
            f"Our own recipes: {', '.join(sorted({r['data'] for r in own_records()}))}.",
        )
    )


def main() -> None:
    """Make the record, or show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers()
    adding = commands.add_parser("add", help="add runs to the record")
    adding.add_argument("--data", required=True, help="what the images were, in a few words")
    adding.add_argument("runs", nargs="+", type=Path, help="run directories")
    args = parser.parse_args()
    if "runs" in args:
        add(RECORD, args.runs, args.data, "benchmarks.references")
    print(tables())
    PICTURE.write_bytes(png(picture(read_json(RECORD))))
    print(f"\n{PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
