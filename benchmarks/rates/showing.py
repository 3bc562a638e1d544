"""The study as tables and as a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import table
from benchmarks.rates.judging import JUDGED
from cifar_pl.training import lr_finder


def picture(record: Mapping[str, Any]) -> Figure:
    """The grid's curves, below them the suggestions of all range tests as ticks."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2.4))
    rows: list[str] = []

    def ticks(label: str, rates: Sequence[float], colour: str) -> None:
        rows.append(label)
        below.plot(rates, [-len(rows)] * len(rates), "|", color=colour, markersize=13, alpha=0.6)

    for n, name in enumerate(name for name in JUDGED if name in record["grid"]):
        facts = record["grid"][name]
        above.plot(facts["lr"], facts["points"], color=f"C{n}", label=name)
        for lr, values in zip(facts["lr"], facts["seeds"], strict=True):
            above.plot([lr] * len(values), values, "o", color=f"C{n}", markersize=3)
        below.plot(facts["band"], [-n - 1] * 2, color=f"C{n}", linewidth=14, alpha=0.2, solid_capstyle="butt")
        ticks(f"auto, {name}", rates_of(record, name, "auto"), f"C{n}")
    for method in lr_finder.METHODS[1:]:
        ticks(method, rates_of(record, "plateau", method), "0.4")
    above.set(
        xscale="log", ylabel="held-out images right, %", title="Rates: the best of a grid, and what the range test says"
    )
    above.legend()
    above.grid(alpha=0.3)
    below.set(
        xlabel="learning rate", yticks=range(-1, -len(rows) - 1, -1), yticklabels=rows, ylim=(-len(rows) - 0.6, -0.4)
    )
    below.grid(alpha=0.3, axis="x")
    figure.supxlabel("shaded: within one point of the best", fontsize=9)
    return figure


def rates_of(record: Mapping[str, Any], name: str, method: str) -> list[float]:
    """The suggestions of a method, one for each range test."""
    return [float(rate) for rate in record["judged"][name][method]["rates"].split()]


def tables(record: Mapping[str, Any]) -> str:
    """The grid, and how each method did."""
    best = [
        (name, f"{f['best']:.3g}", f"{max(f['points']):.1f}", f"{f['band'][0]:.2g} to {f['band'][1]:.2g}")
        for name, f in record["grid"].items()
    ]
    methods = [
        (
            name,
            f"`{method}`",
            "{:.2g} to {:.2g}".format(*np.quantile(rates_of(record, name, method), (0, 1))),
            f"{j['found']}",
            f"{j['largest_factor']:.1f}",
            f"{j['mean_regret']:.2f}",
            f"{j['largest_regret']:.2f}",
        )
        for name, by_method in record["judged"].items()
        for method, j in by_method.items()
    ]
    header = ("schedule", "method", "its rates", "found", "largest factor", "mean regret, points", "largest regret")
    return (
        f"{table(('schedule', 'best rate', 'right, %', 'within one point'), best)}\n\n{table(header, methods)}\n\n"
        f"On {record['data']}."
    )
