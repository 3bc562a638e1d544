"""Scores of each class, the most confused pairs, and how exact an accuracy is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest


class Score(NamedTuple):
    """Scores of one class and the number of its images; a share that would divide by zero is None."""

    name: str
    recall: float | None
    precision: float | None
    support: int


def scores(counts: NDArray[np.int64], classes: Sequence[str]) -> list[Score]:
    """The scores of every class, from a confusion matrix (true, predicted)."""
    right, support, predicted = counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist()
    return [
        Score(name, r / n if n else None, r / p if p else None, n)
        for name, r, n, p in zip(classes, right, support, predicted, strict=True)
    ]


def confused(counts: NDArray[np.int64], number: int) -> list[tuple[int, int, int]]:
    """Up to `number` pairs (true, predicted, how often), the most frequent first."""
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:number].tolist()
    return [(*divmod(place, len(wrong)), int(wrong.flat[place])) for place in order if wrong.flat[place]]


def interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson 1927) of the share that is correct, if `right` of `n` images are; in [0, 1]."""
    bounds = binomtest(right, n).proportion_ci(method="wilson")
    return float(bounds.low), float(bounds.high)
