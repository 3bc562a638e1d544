"""Accuracy by what images are like: fifths by brightness, contrast, sharpness, saturation; near-duplicates or not."""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from cifar_pl.evaluation.metrics import interval

FIFTHS = 5
LOOKS = ("brightness", "contrast", "sharpness", "saturation")
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601


class Slice(NamedTuple):
    """`right` of `n` > 0 images, a `part` by `what` they are like."""

    what: str
    part: str
    n: int
    right: int

    @property
    def accuracy(self) -> float:
        """The share that is right, in [0, 1]."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval, in [0, 1]."""
        return interval(self.right, self.n)


def looks(batches: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
    """What N images are like: for each of `LOOKS` float32 (N,), of values scaled to [0, 1].

    Mean and standard deviation of the grey values, variance of their Laplacian (a usual measure of focus: Pech-Pacheco
    et al. 2000), mean saturation of HSV. `batches` are uint8 (n, H, W, 3), N images in all, of at least 3x3 pixels.
    """
    found = []
    for pixels in batches:
        scaled = pixels.astype(np.float32) / 255
        grey, high = scaled @ GREY, scaled.max(3)
        inner = grey[:, 1:-1, 1:-1]
        laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
        saturation = (high - scaled.min(3)) / np.maximum(high, 1 / 255)
        of = grey.mean((1, 2)), grey.std((1, 2)), laplacian.var((1, 2)), saturation.mean((1, 2))
        found.append(np.stack(of, axis=1))
    return dict(zip(LOOKS, np.concatenate(found).T, strict=True))


def fifths(what: str, values: NDArray[np.floating], right: NDArray[np.bool_]) -> list[Slice]:
    """N images in fifths by their `values`, the lowest first; none if equal values would be split.

    `values` and `right` are (N,). A part is named by its lowest and highest.
    """
    parts = np.array_split(np.argsort(values, kind="stable"), FIFTHS)
    # Equal values would be split by the order of the data, which may be by class.
    if len(values) < FIFTHS or any(values[a[-1]] == values[b[0]] for a, b in pairwise(parts)):
        return []
    spans = (f"{values[rows[0]]:.2g} to {values[rows[-1]]:.2g}" for rows in parts)
    return [Slice(what, span, len(rows), int(right[rows].sum())) for span, rows in zip(spans, parts, strict=True)]


def duplicates(duplicate: NDArray[np.bool_], right: NDArray[np.bool_]) -> list[Slice]:
    """The images that are near-duplicates of training images, and the others; none unless there are both."""
    if duplicate.all() or not duplicate.any():
        return []
    parts = {"near-duplicates": duplicate, "others": ~duplicate}
    return [Slice("duplicates", part, int(of.sum()), int(right[of].sum())) for part, of in parts.items()]


def chance(parts: list[Slice]) -> float:
    """The p-value of Pearson's chi-square test that all parts have one accuracy."""
    counts = np.array([[one.right, one.n - one.right] for one in parts])
    return float(chi2_contingency(counts).pvalue) if counts.sum(axis=0).all() else 1.0
