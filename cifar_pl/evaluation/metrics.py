"""Scores of each class, the most confused pairs, how exact an accuracy is, and whether two differ."""

import math
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


def interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The 95 % interval (Wilson 1927) of the share that is correct, if `right` of `n` images are; in [0, 1]."""
    bounds = binomtest(right, n).proportion_ci(level, method="wilson")
    return float(bounds.low), float(bounds.high)


def mcnemar(only_a: int, only_b: int) -> float:
    """The p-value of McNemar's exact test, in (0, 1], for the images that one of two networks alone gets right.

    It is how often they would be divided at least as unevenly if neither network were better.
    """
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def difference(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float, float]:
    """Accuracy of A less that of B on the same images, and its 95 % interval (Newcombe 1998, method 10); in [-1, 1].

    The arguments are how many images both, one alone, or neither gets right; there must be one.
    """
    n, right_a, right_b = both + only_a + only_b + neither, both + only_a, both + only_b
    (low_a, high_a), (low_b, high_b) = interval(right_a, n), interval(right_b, n)
    a, b, together = right_a / n, right_b / n, both * neither - only_a * only_b
    spread = math.sqrt(right_a * (n - right_a) * right_b * (n - right_b))
    phi = (max(together - n / 2, 0) if together > 0 else together) / spread if spread else 0.0

    def half(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0))

    return a - b, a - b - half(a - low_a, high_b - b), a - b + half(b - low_b, high_a - a)
