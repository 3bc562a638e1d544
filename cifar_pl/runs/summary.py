"""A run in numbers: summary.json, and the short table at the end."""

import csv
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cifar_pl.errors import UserError
from cifar_pl.runs import rundir
from cifar_pl.runs.monitors import MONITORS

PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "albumentations",
    "hydra-core",
    "grad-cam",
    "numpy",
)


def training(rows: Sequence[Mapping[str, float]], monitor: str = "val/acc", target_acc: float = 1.0) -> dict[str, Any]:
    """The part of the summary that the rows of metrics.csv hold; empty where none were kept."""
    if not rows:
        return {"val": None}
    scored = [row for row in rows if monitor in row]
    best = (max if MONITORS[monitor] == "max" else min)(scored, key=lambda row: row[monitor]) if scored else None
    reached = [row["epoch"] for row in rows if row.get("val/acc", 0.0) >= target_acc]
    return {
        "val": {"best_acc": best["val/acc"], "best_loss": best["val/loss"], "best_epoch": best["epoch"]}
        if best
        else None,
        "train": {"acc": rows[-1]["train/acc"], "loss": rows[-1]["train/loss"]},
        "target_acc": target_acc,
        "first_epoch_at_target": reached[0] if reached else None,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": float(np.median([row["images_per_second"] for row in rows])),
    }


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, without what is empty; none where there is no file.

    Raises:
        UserError: something in it is no number.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:  # TypeError: a row is longer than the first
        raise UserError(f"{path} cannot be read: {error}. It is damaged.") from error


def provenance() -> dict[str, Any]:
    """Versions of what computed, and the commit of this code where it is in a git checkout."""
    return {"git": _git(), "versions": {name: version(name) for name in PACKAGES}}


def table(summary: Mapping[str, Any], run_dir: Path) -> str:
    """What a person wants to know first, and where the rest is."""
    val, lr = summary["val"], summary["lr"]
    selected = summary["protocol"]["test_selected"]
    mark = " test-selected" if selected else ""
    lines = {"test accuracy": f"{summary['test']['acc']:.2%}{mark}"}
    if "acc_tta" in summary["test"]:
        lines["with mirror images"] = f"{summary['test']['acc_tta']:.2%} (tta=flip){mark}"
    if val:
        epoch = f"epoch {val['best_epoch']} of {summary['epochs']}"
        held_out = f"{val['best_acc']:.2%} ({epoch})"
        lines["validation accuracy"] = f"none: the test set chose {epoch}" if selected else held_out
    lines["learning rate"] = f"{lr['value']:.3g} ({lr['source']})"
    if "seconds" in summary:
        lines["seconds"] = f"{summary['seconds']:.0f} of training and validation"
        lines["images/s"] = f"{summary['images_per_second']:.0f} in training"
    lines["look at"] = str(run_dir / rundir.PAGE)
    lines["or start"] = f"tensorboard --logdir {run_dir}"
    width = max(map(len, lines))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in lines.items())


def _git() -> dict[str, Any] | None:
    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or no checkout
