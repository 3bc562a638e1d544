"""What training runs reached: a record of several seeds, and its rows in the tables."""

import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import RED, accuracy_records, machine, table
from cifar_pl.runs.files import read_json


def record(runs: list[Path], data: str) -> dict[str, Any]:
    """One record of several runs; exits if they differ in more than their seeds."""
    summaries = [read_json(run / "summary.json") for run in runs]
    first = summaries[0]
    commands = {" ".join(o for o in s["overrides"] if not o.startswith("seed=")) for s in summaries}
    commits = {(s["git"] or {}).get("commit") for s in summaries}
    if len(commands) > 1 or len(commits) > 1 or any((s["git"] or {}).get("dirty", True) for s in summaries):
        sys.exit(f"These runs are not one experiment at one clean commit: {sorted(commands)}, {commits}")
    record = {
        "benchmark": "accuracy",
        "command": f"python train.py {commands.pop()}".rstrip(),
        "commit": commits.pop(),
        "hardware": first["hardware"],
        "versions": first["versions"],
        "data": data,
        "protocol": first["protocol"],
        "epochs": first["epochs"],
        "seeds": [s["seed"] for s in summaries],
        "n": len(summaries),
        "test_acc": spread([s["test"]["acc"] for s in summaries]),
        "seconds": spread([s["seconds"] for s in summaries]),
        "images_per_second": spread([s["images_per_second"] for s in summaries]),
    }
    if "acc_tta" in first["test"]:
        record["test_acc_tta"] = spread([s["test"]["acc_tta"] for s in summaries])
    if first["val"]:
        record["val_acc"] = spread([s["val"]["best_acc"] for s in summaries])
    return record


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation (None for one value) and the values."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def percent(value: dict[str, Any] | None) -> str:
    """A mean accuracy in percent, with its standard deviation if there is one."""
    if value is None:
        return ""
    return f"{100 * value['mean']:.2f}" + deviation(value)


def deviation(value: dict[str, Any]) -> str:
    """The standard deviation in points, if there is one."""
    return "" if value["std"] is None else f" ± {100 * value['std']:.2f}"


def tables() -> str:
    """One row per record of training runs."""
    rows = [
        (
            f"`{r['command']}`",
            r["data"],
            "/".join(f"{count:,}" for count in r["protocol"]["images"].values()),
            r["epochs"],
            *(
                f"{percent(value)} {RED}" if value and r["protocol"].get("test_selected") else percent(value)
                for value in (r["test_acc"], r.get("test_acc_tta"))
            ),
            r["n"],
            f"{r['seconds']['mean'] / 60:.0f}",
            machine(r),
            r["commit"][:7],
        )
        for r in accuracy_records()
    ]
    test = ("test, %", "with flip TTA, %")
    return table(("command", "data", "train/val/test", "epochs", *test, "n", "minutes", "on", "commit"), rows)


def tried(r: dict[str, Any]) -> str:
    """What single changes do to a recipe, on held-out training images; the first record is that of the recipe."""
    name, base = next(iter(r["changes"].items()))
    theirs = dict(zip(base["seeds"], base["val_acc"]["values"], strict=True))
    rows = []
    for change in r["changes"].values():
        options = change["command"].removeprefix(base["command"]).strip()
        ours = dict(zip(change["seeds"], change["val_acc"]["values"], strict=True))
        gain = spread([ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()])
        shown = "" if change is base else f"{100 * gain['mean']:+.2f}" + deviation(gain)
        rows.append((f"`{options}`" if options else name, percent(change["val_acc"]), shown, change["n"]))
    return (
        table(("single change", "held-out training images right, %", "points more, seed by seed", "n"), rows)
        + f"\n\nThe recipe: `{base['command']}`, {r['data']}. The test images have no part in this table."
    )
