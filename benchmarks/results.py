"""Records of finished runs, and the tables of all documents out of all records.

`python -m benchmarks.results add NAME --data TEXT RUN...`  one record of runs that differ in their seeds only
`python -m benchmarks.results`                              write the tables into README.md and docs/
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    faults,
    gradcam,
    overhead,
    pipeline,
    predict,
    rates,
    references,
    slurm,
    suspects,
    sweeps,
    throughput,
)
from benchmarks.common import RED, RESULTS, ROOT, accuracy_records, foot, machine, save, table
from cifar_pl.runs.files import read_json

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


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
    return f"{100 * value['mean']:.2f}" + (f" ± {100 * value['std']:.2f}" if value["std"] is not None else "")


def accuracy() -> str:
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


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "throughput": throughput.tables,
    "overhead": overhead.tables,
    "pipeline": pipeline.tables,
    "gradcam": gradcam.tables,
    "predict": predict.tables,
    "suspects": suspects.tables,
    "sweeps": sweeps.tables,
    "faults": faults.tables,
    "rates": rates.tables,
    "slurm": slurm.tables,
}
# Of several records, or with figures from elsewhere.
OTHERS: dict[str, Callable[[], str]] = {"accuracy": accuracy, "references": references.tables}


def block(name: str) -> str:
    """The tables of one benchmark, and where their figures come from."""
    if name in OTHERS:
        return OTHERS[name]()
    r = read_json(RESULTS / f"{name}.json")
    return f"{TABLES[name](r)} {foot(r)}"


def filled(text: str) -> str:
    """A document with every block between `<!-- results: NAME -->` and `<!-- end -->` written anew."""
    pattern = r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{block(match[2])}\n{match[3]}", text, flags=re.DOTALL)


def main() -> None:
    """Add a record, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers()
    add = commands.add_parser("add", help="make a record of finished runs")
    add.add_argument("name", help="name of the record")
    add.add_argument("--data", required=True, help="what the images were, in a few words")
    add.add_argument("runs", nargs="+", type=Path, help="run directories")
    args = parser.parse_args()
    if "runs" in args:
        save(RESULTS / f"{args.name}.json", record(args.runs, args.data))
    else:
        for path in DOCUMENTS:
            path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
