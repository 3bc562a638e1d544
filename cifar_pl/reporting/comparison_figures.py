"""Figures of many runs, see `figures`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cifar_pl.reporting.figures import COLORS, TRAIN

GREY = "0.75"


def comparison(lines: Mapping[str, NDArray[np.float64]], xlabel: str, ylabel: str, log: bool = False) -> Figure:
    """One line per name, best first: float64 (points, 2 or 3), that is x, y and perhaps its standard deviation.

    The first ten lines have a colour, a place in the legend and their deviation, as bars at rates (`log`) and as a band
    over epochs; the others are grey.
    """
    figure = Figure(figsize=(6.5, 4.2 + 0.22 * min(len(lines), COLORS + 1)), layout="constrained")
    axes = figure.subplots()
    for n, (name, points) in enumerate(lines.items()):
        x, y, *std = points.T
        color, order = (f"C{n}", 2) if n < COLORS else (GREY, 1)
        label = name if n < COLORS else f"{len(lines) - COLORS} others" if n == COLORS else None
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 3} if std and log else {}
        axes.errorbar(x, y, *(std if log else ()), color=color, zorder=order, label=label, linewidth=1.2, **style)
        if std and not log and n < COLORS:
            axes.fill_between(x, y - std[0], y + std[0], color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    if not log:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    for text in figure.legend(loc="outside lower center", fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)  # the user's words
    return figure


def costs(points: Sequence[tuple[float, float]], front: Sequence[int], ylabel: str) -> Figure:
    """Accuracy over minutes: best first, those of the `front` with their place, from 1, and joined."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o", color=GREY, markersize=5)
    axes.step(*zip(*(points[n] for n in front), strict=True), "o-", where="post", color=TRAIN, markersize=6)
    for n in front:
        axes.annotate(str(n + 1), points[n], (-4, 6), textcoords="offset points", ha="right", fontsize=9)
    minutes = [x for x, _ in points]
    axes.set(xlabel="minutes of a run", ylabel=ylabel, xscale="log" if max(minutes) > 10 * min(minutes) else "linear")
    axes.margins(0.08, 0.12)
    axes.grid(alpha=0.3)
    return figure


def parallel(rows: Sequence[Mapping[str, Any]], log: Iterable[str], better: str) -> Figure:
    """One line per row from axis to axis, which are its keys; numbers have a scale, other values places.

    The last key is what the rows reached, which colours them; `better` is max or min of it.
    """
    keys = list(rows[0])
    figure = Figure(figsize=(max(6.5, 1.5 * len(keys)), 4.2), layout="constrained")
    axes = figure.subplots()
    heights = np.empty((len(rows), len(keys)))
    for x, key in enumerate(keys):
        values = [row[key] for row in rows]
        if all(isinstance(value, int | float) for value in values):
            scale = np.log10 if key in log else np.asarray
            low, high = scale(min(values)), scale(max(values))
            heights[:, x] = (scale(values) - low) / ((high - low) or 1)
            ticks = {0.0: f"{min(values):.3g}", 1.0: f"{max(values):.3g}"} if high > low else {0.0: f"{values[0]:.3g}"}
        else:
            names = sorted(set(map(str, values)))
            places = dict(zip(names, np.linspace(0, 1, len(names)).tolist(), strict=True))
            heights[:, x] = [places[str(value)] for value in values]
            ticks = {place: name for name, place in places.items()}
        axes.axvline(x, color="0.5", linewidth=0.8)
        for y, text in ticks.items():
            where: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
            axes.annotate(text, (x, y), (4, 0), fontsize=8, parse_math=False, **where)
    reached = heights[:, -1] if better == "max" else 1 - heights[:, -1]
    for n in np.argsort(reached):  # the best on top
        axes.plot(heights[n], color=colormaps["viridis"](0.95 * reached[n]), linewidth=1.4, alpha=0.8)
    axes.set_xticks(range(len(keys)), keys, fontsize=9, parse_math=False)
    axes.set(yticks=[], xlim=(-0.1, len(keys) - 0.6), ylim=(-0.05, 1.05))
    axes.spines[:].set_visible(False)
    return figure
