"""The five published runs: what each project reports, and its own way of reading a rate off a range test."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_pl.training import lr_finder

CURVES = Path(__file__).parent / "reference_curves.csv"

RULES = {
    "below": "half a decade below the smallest loss (by eye)",
    "minimum": "smallest loss",
    "steepest": "steepest fall",
    "": "none; the rate was set by eye",
}


class Published(NamedTuple):
    """What a project reports of its run; accuracies in [0, 1].

    Attributes:
        project: Where it is.
        curve: Its name in `reference_curves.csv`.
        best: Highest test accuracy.
        best_epoch: The epoch of the best, counted from 1.
        epochs: Length of the run.
        rule: How its rate was read off its range test, see `RULES`.
        lr: That rate.
        shifted: The rate that its loss belonged to, if the finder was one step off.
        drop: The epoch after which its rate dropped for the first time; 0 if it never did, or nobody knows.
    """

    project: str
    curve: str
    best: float
    best_epoch: int
    epochs: int
    rule: str = ""
    lr: float | None = None
    shifted: float | None = None
    drop: int = 0


PUBLISHED = {
    "genigarus": Published("genigarus/EVA4 S10", "genigarus", 0.9367, 50, 50, "below", 1.58e-2, 1.26e-2, drop=46),
    "sumankanukollu": Published(
        "sumankanukollu/EVA_4_Assignments S10", "sumankanukollu", 0.9105, 47, 50, "minimum", 5.75e-2, 5.01e-2
    ),
    "rishabh_bhardwaj": Published("rishabh-bhardwaj-64rr/EVA5 S10", "", 0.9165, 33, 50, "steepest", 1.23e-2),
    "deepakgowtham": Published("deepakgowtham/EVA4 Week10", "deepakgowtham", 0.9026, 50, 50, drop=41),
    "sid_surange": Published("SID-SURANGE/EVA-4.0 Session 8", "SID-SURANGE", 0.8676, 21, 22, drop=14),
}


def published_curve(name: str) -> dict[int, dict[str, float]]:
    """Published accuracies by epoch, in [0, 1]; empty if there is only a plot."""
    lines = [line for line in CURVES.read_text().splitlines() if not line.startswith("#")]
    return {
        int(row["epoch"]): {split: float(row[f"{split}_acc_pct"]) / 100 for split in ("train", "test")}
        for row in csv.DictReader(lines)
        if row["project"] == PUBLISHED[name].curve
    }


def lagging(curve: lr_finder.Curve, rule: str) -> float:
    """What torch-lr-finder would suggest, with its smoothing: a moving average of weight 0.05, which lags.

    Args:
        curve: Finite losses.
        rule: `minimum`; `below`, half a decade below it; `steepest`, without the first ten and last five points.
    """
    smooth = [curve.loss[0]]
    for loss in curve.loss[1:]:
        smooth.append(0.05 * loss + 0.95 * smooth[-1])
    if rule == "steepest":
        return float(curve.lr[10 + int(np.argmin(np.gradient(smooth[10:-5])))])
    return float(curve.lr[int(np.argmin(smooth))]) / (10**0.5 if rule == "below" else 1)
