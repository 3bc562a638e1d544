"""Arrays to matplotlib figures, nothing else: the caller saves and forgets them.

Figures are made without pyplot, so none of them stays alive in a global list.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cifar_pl.evaluation.gallery import Gallery

TEST_SELECTED = "protocol=published: validation is the test set, and the result is test-selected"
COLORS = 10  # matplotlib's cycle
TRAIN, VAL, MARK = "#1f77b4", "#d95f02", "#c02020"


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element for a page, in the page's colours; `name` keeps its ids apart from others'."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return text.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")


def warn(figure: Figure, text: str = TEST_SELECTED) -> None:
    """A line in red at the foot of a figure."""
    figure.supxlabel(text, color=MARK, fontsize=9)


def lr_curve(
    lr: NDArray[np.float64],
    loss: NDArray[np.float64],
    smooth: NDArray[np.float64],
    suggestions: Mapping[str, float],
    chosen: float,
    guessing: float | None = None,
    band: tuple[float, float] | None = None,
) -> Figure:
    """A range test: loss of each batch and smoothed, over the rate; suggestions as ticks on top, the choice solid.

    `guessing` is the loss of guessing; `band` holds the rates of the fall, and is shaded.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    if band:
        axes.axvspan(*band, color=TRAIN, alpha=0.12, linewidth=0, label="the fall")
    axes.plot(lr, loss, ".", color="0.75", markersize=4, label="one batch")
    axes.plot(lr, smooth, color=TRAIN, label="smoothed")
    if guessing:
        axes.axhline(guessing, color="0.5", linewidth=1, linestyle="--", label=f"guessing, {guessing:.3f}")
    axes.axvline(chosen, color=MARK, label=f"used {chosen:.3g}")
    finite = loss[np.isfinite(loss)]  # a divergence may leave the picture, the best batches may not
    lowest, highest = float(finite.min()), float(np.nanmax(smooth))
    top = highest + 0.25 * (highest - lowest + 0.1)
    axes.set_ylim(lowest - 0.05, top)
    for n, (name, value) in enumerate(sorted(suggestions.items(), key=lambda item: item[1])):
        axes.plot([value], [top], "v", color=f"C{n + 1}", clip_on=False, markersize=8, label=f"{name} {value:.3g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="learning-rate range test")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy over epochs, the rate beneath, out of rows as in metrics.csv; missing values leave a gap."""
    figure = Figure(figsize=(6.5, 7), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
    for ax, name, unit in ((axes[0], "loss", 1), (axes[1], "acc", 100)):
        for split, color in (("train", TRAIN), ("val", VAL)):
            points = [(row["epoch"], unit * row[f"{split}/{name}"]) for row in rows if f"{split}/{name}" in row]
            if points:
                ax.plot(*zip(*points, strict=True), "o-", color=color, markersize=3, label=split)
        ax.legend()
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="loss")
    axes[1].set(ylabel="accuracy, %")
    rates = [row["lr"] for row in rows]
    drops = min(rates) > max(rates) / 3e3  # by factors; a rate that ends at zero has no place on a log scale
    axes[2].set(yscale="log" if drops else "linear", ylabel="learning rate", xlabel="epoch")
    axes[2].plot(epochs, rates, "o-", color="black", markersize=3)
    if drops:
        axes[2].set_ylim(min(rates) / 2, 2 * max(rates))
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    return figure


def rates(families: Mapping[str, Sequence[tuple[float, float, float]]], ylabel: str) -> Figure:
    """An accuracy over the learning rate, one line per family of (rate, mean, standard deviation), best first."""
    figure, axes = _with_room(len(families))
    for n, (name, points) in enumerate(families.items()):
        lr, mean, std = zip(*points, strict=True)
        axes.errorbar(lr, mean, std, marker="o", markersize=4, capsize=3, **_line(n, name, len(families)))
    axes.set(xscale="log", xlabel="learning rate", ylabel=ylabel)
    axes.grid(alpha=0.3)
    _legend_below(figure)
    return figure


def overlaid(lines: Mapping[str, NDArray[np.float64]], ylabel: str) -> Figure:
    """A value after each epoch, one line per name, best first: ten in colour, the others grey. Without NaN."""
    figure, axes = _with_room(len(lines))
    for n, (name, values) in enumerate(lines.items()):
        known = np.flatnonzero(np.isfinite(values))
        axes.plot(known + 1, values[known], linewidth=1.2, **_line(n, name, len(lines)))
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    _legend_below(figure)
    return figure


def reliability(bins: Mapping[str, NDArray[np.float64]], title: str) -> Figure:
    """Accuracy over confidence, and how many images have it; for each name bins as `calibration.reliability` gives."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], ":", color="0.5", label="as it should be")
    for (name, values), color in zip(bins.items(), (TRAIN, VAL), strict=False):
        some = values[values[:, 0] > 0]
        upper.plot(some[:, 1], some[:, 2], "o-", color=color, markersize=4, label=name)
        edges = np.linspace(0, 1, len(values) + 1)
        lower.stairs(values[:, 0] / values[:, 0].sum(), edges, color=color)
    upper.set(ylabel="share that is right", title=title)
    upper.legend()
    upper.grid(alpha=0.3)
    lower.set(xlabel="confidence: the probability of the predicted class", ylabel="share of images", xlim=(0, 1))
    return figure


def augmentations(original: NDArray[np.uint8], draws: Sequence[NDArray[np.uint8]]) -> Figure:
    """One grid: images down, the original and then the epochs' draws across; each uint8 (N, H, W, 3)."""
    columns = [original, *draws]
    rows = len(original)
    figure = Figure(figsize=(1.1 * len(columns), 1.1 * rows + 0.4), layout="constrained")
    for column, (images, ax_column) in enumerate(zip(columns, figure.subplots(rows, len(columns)).T, strict=True)):
        for image, ax in zip(images, ax_column, strict=True):
            _show(ax, image)
        ax_column[0].set_title("image" if column == 0 else f"epoch {column}", fontsize=9)
    return figure


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Counts (true, predicted) as numbers on a heat map of each true class's share."""
    n = len(classes)
    side = min(max(5.0, 0.62 * n + 2), 20.0)
    figure = Figure(figsize=(side + 0.5, side), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if n <= 30:
        for (true, predicted), count in np.ndenumerate(counts):
            color = "white" if share[true, predicted] > 0.5 else "black" if count else "0.7"
            axes.text(predicted, true, str(count), ha="center", va="center", fontsize=9, color=color)
    step = -(-n // 60)  # where there are too many names, some of them
    axes.set_xticks(range(0, n, step), classes[::step], rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(0, n, step), classes[::step], parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


def gallery(
    images: NDArray[np.uint8],
    maps: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    captions: Sequence[tuple[str, str, str]],
    title: str,
) -> Figure:
    """Images, each with the heat maps for the predicted and for another class.

    Args:
        images: uint8 (N, H, W, 3).
        maps: For each layer the maps for the predicted and the other class, float32 (N, H, W) in [0, 1].
        captions: For each image the texts over the image, the predicted and the other class's map.
        title: Over it all.
    """
    width = 1 + 2 * len(maps)
    across = max(1, 9 // width)  # entries side by side
    down = -(-len(images) // across)
    figure = Figure(figsize=(1.45 * width * across + 0.2, 1.75 * down + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(down, across * width, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for n, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, first = n // across, n % across * width
        _show(axes[row, first], image, caption[0])
        for k, (layer, (predicted, other)) in enumerate(maps.items()):
            where = f"\n{layer}" if len(maps) > 1 else ""
            _show(axes[row, first + 1 + 2 * k], overlay(image, predicted[n]), caption[1] + where, MARK)
            _show(axes[row, first + 2 + 2 * k], overlay(image, other[n]), caption[2] + where, "#207030")
    return figure


def explained(shown: Gallery) -> Figure:
    """A gallery as one picture."""
    maps = {layer: (shown.predicted[row], shown.other[row]) for row, layer in enumerate(shown.layers)}
    return gallery(shown.images, maps, [case.captions(shown.classes) for case in shown.cases], shown.title)


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A heat map (H, W) in [0, 1] over an image in grey: uint8 (H, W, 3)."""
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2) / 255
    color = colormaps["inferno"](heat)[..., :3]
    mixed = grey * (1 - 0.6 * heat[..., None]) + 0.6 * heat[..., None] * color
    shown: NDArray[np.uint8] = np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8)
    return shown


def _with_room(lines: int) -> tuple[Figure, Axes]:
    """A figure with room for the names of so many lines, or of as many as have a colour, below it."""
    figure = Figure(figsize=(6.5, 4.2 + 0.22 * min(lines, COLORS + 1)), layout="constrained")
    return figure, figure.subplots()


def _line(n: int, name: str, of: int) -> dict[str, Any]:
    """Colour and name of the nth line: the first ten have their own, the others are grey and have one."""
    if n < COLORS:
        return {"color": f"C{n}", "label": name}
    return {"color": "0.75", "zorder": 1, "label": f"{of - COLORS} others" if n == COLORS else None}


def _legend_below(figure: Figure) -> None:
    legend = figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a user's words


def _show(ax: Axes, image: NDArray[np.uint8], title: str = "", color: str = "black") -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set_title(title, fontsize=8, color=color, parse_math=False)
    ax.axis("off")
