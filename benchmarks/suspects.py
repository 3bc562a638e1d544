"""How many of the known wrong labels of CIFAR-10's test set a finished run finds suspect.

`python -m benchmarks.suspects RUN [--data TEXT] [--out FILE]`

`label_errors.csv` lists the 54 test images whose given label fewer than three of five people confirmed, of the
275 that were shown to people (Northcutt, Athalye and Mueller 2021, arXiv 2103.14749; the answers are those of
github.com/cleanlab/label-errors, mturk/cifar10_mturk.json). An image is found by its label and its place among
the images of that label, which the official archive and a folder made from it share.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import head, save, table
from cifar_pl.evaluation.cases import suspects
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.runs import files, rundir

KNOWN = Path(__file__).parent / "label_errors.csv"
FIRST = (10, 25, 50, 100, 200)


def main() -> None:
    """Count."""
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="", help="what the images were, in a few words")
    args = parser.parse_args()
    predictions = Predictions.load(args.run / rundir.PREDICTIONS["test"])
    summary = files.read_json(args.run / rundir.SUMMARY)
    classes = list(summary["test"]["acc_per_class"])
    with KNOWN.open() as file:
        known = {(row["label"], int(row["nth_of_label"])) for row in csv.DictReader(file)}
    label, index = predictions.label.numpy(), predictions.index.numpy()
    nth = {int(i): (classes[c], int(np.sum((label == c) & (index < i)))) for i, c in zip(index, label, strict=True)}
    hits = [nth[case.index] in known for case in suspects(predictions)]
    record = {
        "benchmark": "suspects",
        **head("benchmarks.suspects"),
        "run": {"overrides": summary["overrides"], "git": summary["git"], "test_acc": summary["test"]["acc"]},
        "data": args.data,
        "images": len(label),
        "known": len(known),
        "suspects": len(hits),
        "found": sum(hits),
        "found_among_first": {n: sum(hits[:n]) for n in FIRST},
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """How many known wrong labels are among the first suspects, and what chance would give."""
    rows = [
        *((f"the first {n}", found) for n, found in r["found_among_first"].items()),
        (f"all {r['suspects']}", r["found"]),
    ]
    run = r["run"]
    return (
        table(("suspects, least likely label first", "known wrong labels among them"), rows)
        + f"\n\n{r['known']} wrong labels are known among the {r['images']:,} images ({r['data']}); by chance, as many "
        f"images would contain {r['known'] * r['suspects'] / r['images']:.1f} of them. The network: "
        f"`python train.py {' '.join(run['overrides'])}`, test accuracy {run['test_acc']:.2%}, commit "
        f"{run['git']['commit'][:7]}, one run."
    )


if __name__ == "__main__":
    main()
