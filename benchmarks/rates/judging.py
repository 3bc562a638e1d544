"""How far each suggestion lies from the best rate of the grid, and what it would lose."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import config
from benchmarks.rates.measuring import SMALL, SWEEPS
from cifar_pl.config.build import build
from cifar_pl.training import lr_finder, schedulers

# What is judged, and by which grid its batches of 512 are; those of 64 have a grid by schedule.
JUDGED = {
    "plateau": "plateau, batches of 512",
    "multistep": "multistep, batches of 512",
    "onecycle": "onecycle, batches of 512",
    "onecycle, 512 by 42 steps": "onecycle, 42 steps of 512",
    "plateau, no warm-up": "plateau, batches of 512",
}


def truth(accuracies: Mapping[str, Mapping[float, Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """For each schedule the grid's curve (rates, points), its highest point, and the band within one point of that."""
    facts: dict[str, dict[str, Any]] = {}
    for name, by_rate in accuracies.items():
        lr = sorted(by_rate)
        points = [100 * float(np.mean(by_rate[rate])) for rate in lr]
        curve = {"lr": lr, "points": points}
        fine = np.geomspace(lr[0], lr[-1], 1001)
        good = fine[at(fine, curve) >= max(points) - 1]
        seeds = [[100 * value for value in by_rate[rate]] for rate in lr]
        facts[name] = {**curve, "seeds": seeds, "best": lr[int(np.argmax(points))], "band": [good[0], good[-1]]}
    return facts


def at(rate: Any, facts: Mapping[str, Any]) -> Any:
    """The grid's curve at a rate: straight between the grid's rates on the log scale, flat beyond them."""
    return np.interp(np.log(rate), np.log(facts["lr"]), facts["points"])


def judged(grid: Mapping[str, Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates, their factors from the best, and their regrets in points, for each method under each schedule.

    A range test is judged by the grid of its batch size.
    """
    result: dict[str, Any] = {}
    curves = [lr_finder.Curve(np.array(t["lr"]), np.array(t["loss"])) for t in tests]
    for name, large in JUDGED.items():
        schedule = name.partition(",")[0]
        grids = {64: f"{schedule}, batches of 64", 128: name if name in grid else schedule, 512: large}
        stays = schedulers.stays(build(config([*SWEEPS[schedule][1], *SMALL]).scheduler), 16, 16 * 351)
        choices = [lr_finder.choose(curve, 10, stays) for curve in curves]
        facts = [grid[grids[t["batch"]]] for t in tests]
        for method in lr_finder.METHODS:
            rates = [c.suggestions.get(method, c.safe) for c in choices]
            factors = [max(rate / f["best"], f["best"] / rate) for rate, f in zip(rates, facts, strict=True)]
            regrets = [max(f["points"]) - at(rate, f) for rate, f in zip(rates, facts, strict=True)]
            result.setdefault(name, {})[method] = {
                "found": sum(bool(c.suggestions) for c in choices),
                "beyond_3": sum(factor > 3 for factor in factors),
                "largest_factor": max(factors),
                "mean_regret": float(np.mean(regrets)),
                "largest_regret": max(regrets),
                "rates": " ".join(f"{rate:.4g}" for rate in rates),
            }
    return result


def compact(test: Mapping[str, Any]) -> dict[str, Any]:
    """A range test in few lines: the first and the last of its rates, its losses as text."""
    losses = " ".join(f"{loss:.3f}" for loss in test["loss"])
    return {**test, "lr": [test["lr"][0], test["lr"][-1]], "loss": losses}


def curve(compacted: Mapping[str, Any]) -> lr_finder.Curve:
    """The curve of a record's range test."""
    loss = np.array(compacted["loss"].split(), float)
    first, last = compacted["lr"]
    return lr_finder.Curve(np.geomspace(first, last, len(loss)), loss)
