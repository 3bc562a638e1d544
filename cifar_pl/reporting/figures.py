"""Arrays to matplotlib figures; the caller saves them. Without pyplot, which would keep each in a global list."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifar_pl.evaluation.gallery import Gallery
from cifar_pl.runs.monitors import TEST_SELECTED

FOOTNOTE = f"protocol=published: validation is the test set, and the result is {TEST_SELECTED}"
COLORS = 10  # in matplotlib's cycle
TRAIN, VAL, MARK, OTHER = "#1f77b4", "#d95f02", "#c02020", "#207030"


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element in the colours of the page; `name` makes its ids unique there."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return text.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")


def warn(figure: Figure) -> None:
    """Write in red at the foot of a figure that its data are test-selected."""
    figure.supxlabel(FOOTNOTE, color=MARK, fontsize=9)


def lr_curve(curve: Sequence[NDArray[np.float64]], finder: Mapping[str, Any]) -> Figure:
    """A range test: the columns of lr_finder.csv (rate, loss, smoothed loss), and what lr_finder.json has.

    Suggestions are marks on top, the used rate is a line, the rates at which the loss falls are a band.
    """
    lr, loss, smooth = curve
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    if band := finder.get("band"):
        axes.axvspan(*band, color=TRAIN, alpha=0.12, linewidth=0, label="the fall")
    axes.plot(lr, loss, ".", color="0.75", markersize=4, label="one batch")
    axes.plot(lr, smooth, color=TRAIN, label="smoothed")
    if guessing := finder.get("guessing"):
        axes.axhline(guessing, color="0.5", linewidth=1, linestyle="--", label=f"guessing, {guessing:.3f}")
    axes.axvline(finder["lr"], color=MARK, label=f"used {finder['lr']:.3g}")
    lowest, highest = float(loss[np.isfinite(loss)].min()), float(np.nanmax(smooth))
    top = highest + 0.25 * (highest - lowest + 0.1)  # a divergence may be cut off, the best batches may not
    axes.set_ylim(lowest - 0.05, top)
    for n, (name, value) in enumerate(sorted(finder["suggestions"].items(), key=lambda item: item[1])):
        axes.plot([value], [top], "v", color=f"C{n + 1}", clip_on=False, markersize=8, label=f"{name} {value:.3g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="learning-rate range test")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, accuracy and rate over epochs, from rows of metrics.csv; missing values leave a gap."""
    figure = Figure(figsize=(6.5, 7), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
    for axes, name, unit, label in ((loss, "loss", 1, "loss"), (accuracy, "acc", 100, "accuracy, %")):
        for split, color in (("train", TRAIN), ("val", VAL)):
            points = [(row["epoch"], unit * row[f"{split}/{name}"]) for row in rows if f"{split}/{name}" in row]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=color, markersize=3, label=split)
        axes.set(ylabel=label)
        axes.legend()
        axes.grid(alpha=0.3)
    rates = [row["lr"] for row in rows]
    rate.plot([row["epoch"] for row in rows], rates, "o-", color="black", markersize=3)
    rate.set(ylabel="learning rate", xlabel="epoch")
    if min(rates) > max(rates) / 3e3:  # it drops by factors; one that ends at zero cannot be on a log scale
        rate.set(yscale="log", ylim=(min(rates) / 2, 2 * max(rates)))
    rate.xaxis.get_major_locator().set_params(integer=True)
    return figure


def reliability(bins: Mapping[str, NDArray[np.float64]], title: str) -> Figure:
    """Accuracy over confidence and the share of images; for each name the bins of `calibration.reliability`."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], ":", color="0.5", label="as it should be")
    for (name, values), color in zip(bins.items(), (TRAIN, VAL), strict=False):
        filled = values[values[:, 0] > 0]
        upper.plot(filled[:, 1], filled[:, 2], "o-", color=color, markersize=4, label=name)
        lower.stairs(values[:, 0] / values[:, 0].sum(), np.linspace(0, 1, len(values) + 1), color=color)
    upper.set(ylabel="share that is right", title=title)
    upper.legend()
    upper.grid(alpha=0.3)
    lower.set(xlabel="confidence: the probability of the predicted class", ylabel="share of images", xlim=(0, 1))
    return figure


def augmentations(original: NDArray[np.uint8], draws: Sequence[NDArray[np.uint8]]) -> Figure:
    """A row per image: the original, then how each epoch shows it. All arrays are uint8 (N, H, W, 3)."""
    figure = Figure(figsize=(1.1 * (1 + len(draws)), 1.1 * len(original) + 0.4), layout="constrained")
    axes = figure.subplots(len(original), 1 + len(draws))
    for column, images in enumerate((original, *draws)):
        for ax, image in zip(axes[:, column], images, strict=True):
            _show(ax, image)
        axes[0, column].set_title(f"epoch {column}" if column else "image", fontsize=9)
    return figure


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> Figure:
    """Counts (true, predicted) as numbers, on colours for the shares of each true class."""
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
    step = -(-n // 60)  # at most 60 names fit
    axes.set_xticks(range(0, n, step), classes[::step], rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(0, n, step), classes[::step], parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


def gallery(shown: Gallery) -> Figure:
    """Each image of a gallery, with the heat maps of every layer for the predicted and the other class."""
    width = 1 + 2 * len(shown.layers)
    across = max(1, 9 // width)  # images in a row
    down = -(-len(shown.cases) // across)
    figure = Figure(figsize=(1.45 * width * across + 0.2, 1.75 * down + 0.6), layout="constrained")
    figure.suptitle(shown.title, fontsize=11)
    axes = figure.subplots(down, across * width, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for n, (case, image) in enumerate(zip(shown.cases, shown.images, strict=True)):
        caption, *captions = case.captions(shown.classes)
        tiles = iter(axes[n // across, n % across * width :])
        _show(next(tiles), image, caption)
        for layer, maps in zip(shown.layers, shown.maps[:, n], strict=True):
            name = f"\n{layer}" if len(shown.layers) > 1 else ""
            for heat, text, color in zip(maps, captions, (MARK, OTHER), strict=True):
                _show(next(tiles), overlay(image, heat), text + name, color)
    return figure


def overlay(image: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A heat map (H, W) in [0, 1] over an image in grey: uint8 (H, W, 3)."""
    grey = image.mean(axis=2, keepdims=True) / 255
    alpha = 0.6 * heat[..., None]
    mixed: NDArray[np.float64] = grey * (1 - alpha) + alpha * colormaps["inferno"](heat)[..., :3]
    return np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8)


def _show(ax: Axes, image: NDArray[np.uint8], title: str = "", color: str = "black") -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set_title(title, fontsize=8, color=color, parse_math=False)
    ax.axis("off")
