"""What a few seeds tell: how exact a mean is, how many would tell two apart, which is likely best, and at what cost."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import nct
from scipy.stats import t as student

POWER, MOST = 0.8, 100  # the usual power (Cohen 1988, section 2.4); pairs beyond which nobody goes
DRAWS = 10_000


class Spread(NamedTuple):
    """Mean, standard deviation, number, and the 95 % interval of the mean (Student's t); NaN if there is one value."""

    mean: float
    std: float
    n: int
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of one value or more."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Spread(mean, math.nan, 1, math.nan, math.nan)
    std = statistics.stdev(values)
    half = float(student.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return Spread(mean, std, n, mean - half, mean + half)


def pairs_needed(gap: Spread) -> int | None:
    """How many pairs give a 95 % interval of their mean difference without 0 in `POWER` of all attempts.

    None if that takes more than `MOST`. This is the power of the paired t test by the noncentral t distribution
    (Cohen 1988, chapter 2), as if mean and deviation of `gap` were the true ones.
    """
    if gap.mean == 0:
        return None
    n = np.arange(2, MOST + 1)
    effect = abs(gap.mean) / gap.std if gap.std else math.inf
    # Further from 0 than 30 scipy may have no value; there, any power is above 98 %.
    power = nct.sf(student.ppf(0.975, n - 1), n - 1, np.minimum(effect * np.sqrt(n), 30))
    enough = n[power >= POWER]
    return int(enough[0]) if len(enough) else None


def chances(values: Sequence[Mapping[Any, float]]) -> NDArray[np.float64]:
    """How likely each of some configurations has the highest mean: float64 (configurations,) that sum to 1.

    By the Bayesian bootstrap (Rubin 1981) over replicates, which are the keys; a draw gives a replicate the same weight
    in every configuration, so that what it does to all of them does not count. Always the same draws.
    """
    replicates = list(dict.fromkeys(key for one in values for key in one))
    table = np.array([[one.get(key, np.nan) for key in replicates] for one in values])
    weights = np.random.default_rng(0).dirichlet(np.ones(len(replicates)), DRAWS)
    there = np.isfinite(table)
    means = weights @ np.where(there, table, 0).T / (weights @ there.T)
    best = means >= means.max(axis=1, keepdims=True) - 1e-12  # equal ones share
    return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0))


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the (cost, value) that no other beats in both, the cheapest first; of equal ones, the first."""
    found: list[int] = []
    for place in sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1])):
        if not found or points[place][1] > points[found[-1]][1]:
            found.append(place)
    return found
