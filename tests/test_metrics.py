import numpy as np
import pytest

from cifar_pl.evaluation.metrics import confused, interval, scores
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
