"""Statistics over seeds, against tables, closed forms and what must hold."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cifar_pl.runs.seeds import MOST, POWER, Spread, chances, front, pairs_needed, spread


def test_spread_is_students() -> None:
    found = spread([0.90, 0.92, 0.94])
    assert (found.mean, found.std, found.n) == pytest.approx((0.92, 0.02, 3))
    half = 4.302653 * 0.02 / math.sqrt(3)  # the table's t for two degrees of freedom
    assert (found.low, found.high) == pytest.approx((0.92 - half, 0.92 + half), abs=1e-7)
    alone = spread([0.5])
    assert alone[::2] == (0.5, 1, alone.high)
    assert math.isnan(alone.std)
    assert math.isnan(alone.low)


@pytest.mark.parametrize(
    ("effect", "pairs"), [(0.29, 96), (0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10)]
)  # as G*Power and the tables after Cohen give them for the paired t test
def test_the_pairs_needed_are_those_of_the_tables(effect: float, pairs: int) -> None:
    for sign in (-0.002, 0.002):
        assert pairs_needed(Spread(sign * effect, 0.002, 3, 0, 0)) == pairs


def test_that_many_pairs_are_enough_and_one_less_is_not() -> None:
    rng = np.random.default_rng(0)
    needed = pairs_needed(Spread(1.2, 1.0, 3, 0, 0))
    assert needed is not None
    told = [
        (ttest_1samp(rng.normal(1.2, 1, (20_000, n)), 0, axis=1).pvalue < 0.05).mean() for n in (needed - 1, needed)
    ]
    assert told[0] < POWER <= told[1]


def test_too_many_pairs_are_none_and_no_spread_needs_two() -> None:
    assert pairs_needed(Spread(0.28, 1.0, 3, 0, 0)) == MOST or pairs_needed(Spread(0.28, 1.0, 3, 0, 0)) is None
    assert pairs_needed(Spread(0.2, 1.0, 3, 0, 0)) is None
    assert pairs_needed(Spread(0.0, 0.0, 3, 0, 0)) is None
    assert pairs_needed(Spread(0.1, 0.0, 3, 0, 0)) == 2
    assert pairs_needed(Spread(1e4, 1e-9, 3, 0, 0)) == 2


def test_the_chance_of_two_seeds_has_a_closed_form() -> None:
    # The first is better where w 3 - (1 - w) 1 > 0, for a weight w that is uniform in [0, 1]: above 1/4.
    found = chances([{0: 0.93, 1: 0.90}, {0: 0.90, 1: 0.91}])
    assert found == pytest.approx([0.75, 0.25], abs=0.02)  # 4.6 deviations of 10,000 draws
    assert found.tolist() == chances([{0: 0.93, 1: 0.90}, {0: 0.90, 1: 0.91}]).tolist()


def test_chances_sum_to_one_and_what_is_always_better_is_best() -> None:
    values = [dict(enumerate(row)) for row in np.random.default_rng(0).normal(0.9, 0.01, (6, 4)).tolist()]
    assert chances(values).sum() == pytest.approx(1)
    best = {seed: max(one[seed] for one in values) + 1e-6 for seed in range(4)}
    assert chances([*values, best]).tolist() == [*[0] * 6, 1]
    assert chances([values[0]] * 4).tolist() == [0.25] * 4


def test_a_seed_that_is_easy_for_all_decides_nothing() -> None:
    # Seed by seed the first is better by a little, though seeds differ far more; the second lacks one.
    easy = [0.5, 0.7, 0.9, 0.95]
    assert chances([{n: v + 0.001 for n, v in enumerate(easy)}, dict(enumerate(easy))]).tolist() == [1, 0]
    assert chances([dict(enumerate(easy)), {0: 0.4, 1: 0.6, 7: 0.3}]).tolist() == [1, 0]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.8), (2.0, 0.7), (4.0, 0.9), (5.0, 0.85), (1.0, 0.5)]
    found = front(points)
    assert found == [1, 2, 0]
    for n, (cost, value) in enumerate(points):
        beaten = any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
        assert (n in found) == (not beaten and points.index((cost, value)) == n)
    assert front([]) == []
