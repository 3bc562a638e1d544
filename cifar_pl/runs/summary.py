"""A run in numbers: summary.json, and the short table at the end."""

import csv
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cifar_pl.runs import files, rundir
from cifar_pl.runs.monitors import MONITORS, TEST_SELECTED

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "albumentations", "hydra-core", "grad-cam",
            "numpy")  # fmt: skip


def training(rows: Sequence[Mapping[str, float]], monitor: str = "val/acc", target_acc: float = 1.0) -> dict[str, Any]:
    """What the rows of metrics.csv add to the summary."""
    if not rows:
        return {"val": None}
    pick = max if MONITORS[monitor] == "max" else min
    best = pick((row for row in rows if monitor in row), key=lambda row: row[monitor], default=None)
    reached = (row["epoch"] for row in rows if row.get("val/acc", 0.0) >= target_acc)
    return {
        "val": best and {"best_acc": best["val/acc"], "best_loss": best["val/loss"], "best_epoch": best["epoch"]},
        "train": {"acc": rows[-1]["train/acc"], "loss": rows[-1]["train/loss"]},
        "target_acc": target_acc,
        "first_epoch_at_target": next(reached, None),
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": statistics.median(row["images_per_second"] for row in rows),
    }


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, without empty values; none if there is no file."""
    if not path.exists():
        return []
    with files.reading(path) as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def table(summary: Mapping[str, Any], run_dir: Path) -> str:
    """The results, and where the rest is, as text."""
    val, lr, test = summary["val"], summary["lr"], summary["test"]
    selected = summary["protocol"]["test_selected"]
    mark = f" {TEST_SELECTED}" if selected else ""
    lines = {"test accuracy": f"{test['acc']:.2%}{mark}"}
    if "acc_tta" in test:
        lines["with mirror images"] = f"{test['acc_tta']:.2%} (tta=flip){mark}"
    if val:
        epoch = f"epoch {val['best_epoch']} of {summary['epochs']}"
        chosen = f"none: the test set chose {epoch}" if selected else f"{val['best_acc']:.2%} ({epoch})"
        lines["validation accuracy"] = chosen
    lines["learning rate"] = f"{lr['value']:.3g} ({lr['source']})"
    if "seconds" in summary:
        lines["seconds"] = f"{summary['seconds']:.0f} of training and validation"
        lines["images/s"] = f"{summary['images_per_second']:.0f} in training"
    lines |= {"look at": str(run_dir / rundir.PAGE), "or start": f"tensorboard --logdir {run_dir}"}
    width = max(map(len, lines))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in lines.items())


def provenance() -> dict[str, Any]:
    """Versions of what computes, and the commit of this code, if it is in a git checkout."""
    return {"git": _git(), "versions": {name: version(name) for name in PACKAGES}}


def _git() -> dict[str, Any] | None:
    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", __file__)  # an environment may lie in the checkout of something else
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or no checkout
