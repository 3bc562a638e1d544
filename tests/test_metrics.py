from math import comb

import numpy as np
import pytest

from cifar_pl.evaluation.metrics import confused, difference, interval, mcnemar, scores
from tests.test_cases import SIX


def test_confusion_has_true_classes_in_rows_and_scores_follow() -> None:
    counts = SIX.confusion(3)
    assert counts.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert SIX.accuracy() == pytest.approx(3 / 6)
    assert scores(np.pad(counts, (0, 1)), "abcd") == [
        ("a", pytest.approx(1 / 3), 1 / 2, 3),
        ("b", 1 / 2, pytest.approx(1 / 3), 2),
        ("c", 1.0, 1.0, 1),
        ("d", None, None, 0),
    ]
    assert confused(counts, 5) == [(0, 1, 2), (1, 0, 1)]


def test_the_interval_is_wilsons() -> None:
    z = 1.959964
    assert interval(0, 10) == pytest.approx((0.0, z**2 / (10 + z**2)))
    for bound in interval(9_000, 10_000):  # where the normal approximation to the test of this share is at z
        assert abs(0.9 - bound) == pytest.approx(z * (bound * (1 - bound) / 10_000) ** 0.5)
    assert interval(5, 5)[1] == 1.0


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (3, 9), (9, 3), (10, 10), (0, 12)])
def test_mcnemar_counts_the_tails_of_a_fair_coin(a: int, b: int) -> None:
    n, few = a + b, min(a, b)
    tail = sum(comb(n, k) for k in range(few + 1)) / 2**n
    assert mcnemar(a, b) == pytest.approx(min(1, 2 * tail))


def test_a_difference_is_the_others_negative_and_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    for both, a, b, neither in [(0, 0, 0, 1), (5, 0, 0, 0), (0, 4, 0, 0), *rng.integers(0, 30, (50, 4)).tolist()]:
        gap, low, high = difference(both, a, b, neither)
        assert gap == pytest.approx((a - b) / (both + a + b + neither))
        assert -1 <= low <= gap <= high <= 1
        assert low < high  # few images never say exactly how large it is
        assert difference(both, b, a, neither) == pytest.approx((-gap, -high, -low))


def test_the_interval_of_a_difference_holds_it_nineteen_times_of_twenty() -> None:
    p = np.array([0.80, 0.08, 0.05, 0.07])
    draws = np.random.default_rng(0).multinomial(400, p, 2000)
    held = [low <= 0.03 <= high for _, low, high in (difference(*draw) for draw in draws.tolist())]
    assert 0.935 <= np.mean(held) <= 0.975


def test_unrelated_networks_have_newcombes_interval_of_two_proportions() -> None:
    # Of 100 images 60 and 50 are right, as independent as can be: phi is 0, and the halves add up in squares.
    (low_a, high_a), (low_b, high_b) = interval(60, 100), interval(50, 100)
    _, low, high = difference(30, 30, 20, 20)
    assert 0.1 - low == pytest.approx(np.hypot(0.6 - low_a, high_b - 0.5))
    assert high - 0.1 == pytest.approx(np.hypot(0.5 - low_b, high_a - 0.6))
