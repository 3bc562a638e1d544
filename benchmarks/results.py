"""Records of finished runs, and the tables of all documents out of all records.

`python -m benchmarks.results add NAME --data TEXT RUN...`  one record of runs that differ in their seeds only
`python -m benchmarks.results`                              write the tables into README.md and docs/
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    accuracy,
    faults,
    gradcam,
    heat_maps,
    human_labels,
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
from benchmarks.common import RESULTS, ROOT, foot, save
from cifar_pl.runs.files import read_json

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "throughput": throughput.tables,
    "overhead": overhead.tables,
    "pipeline": pipeline.tables,
    "gradcam": gradcam.tables,
    "heat_maps": heat_maps.tables,
    "predict": predict.tables,
    "suspects": suspects.tables,
    "human_labels": human_labels.tables,
    "sweeps": sweeps.tables,
    "faults": faults.tables,
    "rates": rates.tables,
    "slurm": slurm.tables,
    "tried": accuracy.tried,
}
# Of several records, or with figures from elsewhere.
OTHERS: dict[str, Callable[[], str]] = {"accuracy": accuracy.tables, "references": references.tables}


def block(name: str) -> str:
    """The tables of one benchmark, and where their figures come from."""
    if name in OTHERS:
        return OTHERS[name]()
    if not (RESULTS / f"{name}.json").exists():
        return "Not measured yet."
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
        save(RESULTS / f"{args.name}.json", accuracy.record(args.runs, args.data))
    else:
        for path in DOCUMENTS:
            path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
