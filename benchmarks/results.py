"""Records of finished runs, and the README's tables out of all records.

`python -m benchmarks.results add NAME --data TEXT RUN...`  one record of runs that differ in their seeds only
`python -m benchmarks.results`                              write the tables into README.md
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import faults as faults_benchmark
from benchmarks import overhead as overhead_benchmark
from benchmarks import predict as predict_benchmark
from benchmarks import rates as rates_benchmark
from benchmarks import references
from benchmarks import suspects as suspects_benchmark
from benchmarks import sweeps as sweeps_benchmark
from benchmarks.common import RED, RESULTS, ROOT, accuracy_records, foot, machine, save, table
from cifar_pl.runs.rundir import read_json

README = ROOT / "README.md"


def record(runs: list[Path], data: str) -> dict[str, Any]:
    """What the runs' summaries say together.

    Raises:
        SystemExit: they differ in more than their seeds.
    """
    summaries = [read_json(run / "summary.json") for run in runs]
    first = summaries[0]
    commands = {" ".join(o for o in s["overrides"] if not o.startswith("seed=")) for s in summaries}
    commits = {(s["git"] or {}).get("commit") for s in summaries}
    if len(commands) > 1 or len(commits) > 1 or any((s["git"] or {}).get("dirty", True) for s in summaries):
        sys.exit(f"These runs are not one experiment at one clean commit: {sorted(commands)}, {commits}")
    record = {
        "benchmark": "accuracy",
        "command": f"python train.py {commands.pop()}",
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
    """A mean accuracy with its standard deviation, where there is one."""
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
    header = (
        "command",
        "data",
        "train/val/test",
        "epochs",
        "test, %",
        "with flip TTA, %",
        "n",
        "minutes",
        "on",
        "commit",
    )
    return table(header, rows)


def throughput() -> str:
    """Speed of training."""
    r = read_json(RESULTS / "throughput.json")
    names = {
        "usual": "the usual loop: PIL, torchvision, float32",
        "bare": "a bare loop on ready batches, our precision",
        "train": "`python train.py`",
    }
    over = {"usual": f"{r['train_over_usual']:.2f}", "bare": f"{r['train_over_bare']:.3f}", "train": "1"}
    rows = [
        (text, f"{r['images_per_second'][name]:.0f}", over[name], f"{r['peak_memory_gib'][name]:.2f}")
        for name, text in names.items()
    ]
    return (
        table(("contestant", "images/s", "`train.py` over it", "peak memory, GiB"), rows)
        + f"\n\n`train.py` waits for data {r['data_wait_share']:.1%} of the time and runs at "
        f"{r['share_of_matrix_peak']:.0%} of what bf16 matrix products reach on this machine "
        f"({r['bf16_matrix_peak_tflops']:.2f} TFLOP/s). `--help` takes {r['help_seconds']:.1f} s; the first step "
        f"begins after {r['first_step_seconds']:.0f} s. Medians of {r['rounds']} turns. {foot(r)}"
    )


def overhead() -> str:
    """What our code adds."""
    r = read_json(RESULTS / "overhead.json")
    return f"{overhead_benchmark.tables(r)} {foot(r)}"


def pipeline() -> str:
    """Speed of the augmentation."""
    r = read_json(RESULTS / "pipeline.json")
    rows = [
        (name, f"{p['ours']:,.0f}", f"{p['torchvision']:,.0f}", f"{p['ratio']:.2f}")
        for name, p in r["images_per_second_per_core"].items()
    ]
    many = [f"{n}: {value:,.0f}" for n, value in r["images_per_second_by_workers"].items()]
    return (
        table(("`aug`", "images/s per core", "torchvision v2", "ratio"), rows)
        + f"\n\nThe default augmentation by number of loader workers, images/s: {', '.join(many)}. {foot(r)}"
    )


def gradcam() -> str:
    """Speed and memory of the heat maps."""
    r = read_json(RESULTS / "gradcam.json")
    both, memory = r["images_per_second"], r["peak_memory_gib_by_images"]
    rows = [(f"{both['ours']:.0f}", f"{both['readme_loop']:.0f}", f"{r['ratio']:.2f}")]
    return (
        table(("heat maps/s", "loop of pytorch-grad-cam's README", "ratio"), rows)
        + "\n\nPeak memory by number of images, GiB: "
        + ", ".join(f"{n}: {value:.2f}" for n, value in memory.items())
        + f". {foot(r)}"
    )


def predict() -> str:
    """Time and memory of predicting a folder."""
    r = read_json(RESULTS / "predict.json")
    return (
        table(predict_benchmark.HEADER, [predict_benchmark.row(r)]) + f"\n\nMedians of {r['rounds']} turns. {foot(r)}"
    )


def suspects() -> str:
    """Known wrong labels among the suspects."""
    r = read_json(RESULTS / "suspects.json")
    return (
        table(suspects_benchmark.HEADER, suspects_benchmark.rows(r))
        + f"\n\nOf {r['known']} known among {r['images']:,} images ({r['data']}); as many images by chance would hold "
        f"{r['known'] * r['suspects'] / r['images']:.1f}. The network: "
        f"`python train.py {' '.join(r['run']['overrides'])}`, test accuracy {r['run']['test_acc']:.2%}, commit "
        f"{r['run']['git']['commit'][:7]}, one run. {foot(r)}"
    )


def sweeps() -> str:
    """What many runs cost."""
    r = read_json(RESULTS / "sweeps.json")
    return f"{sweeps_benchmark.tables(r)} Sweeps once, training medians of {r['rounds']} turns. {foot(r)}"


def faults() -> str:
    """What a run survives."""
    r = read_json(RESULTS / "faults.json")
    return f"{faults_benchmark.rows(r)}\n\nIn {r['minutes']:.0f} minutes. {foot(r)}"


def rates() -> str:
    """The best rates, and those of the range test."""
    r = read_json(RESULTS / "rates.json")
    return f"{rates_benchmark.tables(r)}\n\nOn {r['data']}. {foot(r)}"


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": accuracy,
    "throughput": throughput,
    "overhead": overhead,
    "pipeline": pipeline,
    "gradcam": gradcam,
    "references": references.tables,
    "predict": predict,
    "suspects": suspects,
    "sweeps": sweeps,
    "faults": faults,
    "rates": rates,
}


def filled(text: str) -> str:
    """README.md with every block between `<!-- results: NAME -->` and `<!-- end -->` written anew."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- results: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- results: (\w+) -->.*?<!-- end -->", block, text, flags=re.DOTALL)


def main() -> None:
    """Add a record, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers()
    add = commands.add_parser("add", help="make a record of finished runs")
    add.add_argument("name", help="of the record")
    add.add_argument("--data", required=True, help="what the images were, in a few words")
    add.add_argument("runs", nargs="+", type=Path, help="run directories")
    args = parser.parse_args()
    if "runs" in args:
        save(RESULTS / f"{args.name}.json", record(args.runs, args.data))
    else:
        README.write_text(filled(README.read_text()))


if __name__ == "__main__":
    main()
