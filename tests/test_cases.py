import numpy as np
import pytest
import torch

from cifar_pl.errors import UserError
from cifar_pl.evaluation.cases import select, suspects
from cifar_pl.evaluation.predictions import Predictions


def predictions(p: list[list[float]], label: list[int]) -> Predictions:
    """Predictions with these probabilities; image n has index 10 n."""
    return Predictions(torch.tensor(p).log(), torch.tensor(label), 10 * torch.arange(len(label)))


SIX = predictions(
    [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.05, 0.9, 0.05], [0.2, 0.7, 0.1], [0.7, 0.2, 0.1], [0.1, 0.3, 0.6]],
    [0, 0, 0, 1, 1, 2],
)


def test_mistakes_by_confidence_and_by_loss_and_of_one_pair() -> None:
    assert [case.index for case in select(SIX, 9)] == [20, 40, 10]
    assert [case.index for case in select(SIX, 9, by="loss")] == [20, 40, 10]
    assert [case.index for case in select(SIX, 1, pair=(1, 0))] == [40]
    first = select(SIX, 1)[0]
    assert (first.true, first.predicted, first.other) == (0, 1, 0)
    assert (first.p_true, first.p_predicted, first.p_other) == pytest.approx((0.05, 0.9, 0.05))
    assert first.loss == pytest.approx(-np.log(0.05))
    assert first.captions(["cat", "dog", "ox"]) == ("image 20", "said dog 90%", "is cat 5%")


def test_what_is_right_is_compared_with_the_next_likely_class() -> None:
    right = select(SIX, 9, wrong=False)
    assert [case.index for case in right] == [0, 30, 50]
    assert [case.other for case in right] == [1, 0, 1]
    assert right[2].captions(["cat", "dog", "ox"]) == ("image 50", "said ox 60%", "next dog 30%")
    assert [case.index for case in select(SIX, 9, wrong=False, by="loss")] == [50, 30, 0]


def test_a_random_choice_depends_on_its_seed_alone() -> None:
    many = predictions(torch.full((100, 3), 1 / 3).tolist(), [1] * 100)
    draws = [[case.index for case in select(many, 10, by="random", seed=seed)] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 10
    with pytest.raises(UserError, match=r"by=size: one of confidence, loss, random"):
        select(many, 1, by="size")


def test_a_label_is_suspect_where_another_class_is_likelier_than_it_usually_is() -> None:
    # The mean probability of class 0 over its own images is 0.3833, of class 1 0.45, of class 2 0.6.
    assert [case.index for case in suspects(SIX)] == [20, 40, 10]
    # 0.44 for class 1 is more than for any other, but less than 0.45.
    doubtful = SIX._replace(logits=torch.cat([SIX.logits[:1], torch.tensor([[0.3, 0.44, 0.26]]).log(), SIX.logits[2:]]))
    assert [case.index for case in suspects(doubtful)] == [20, 40]
    assert suspects(SIX._replace(logits=SIX.logits * torch.nan)) == []


def test_a_label_is_not_suspect_where_it_is_the_likelier_class() -> None:
    three = predictions([[0.55, 0.40, 0.05], [0.99, 0.005, 0.005], [0.1, 0.35, 0.55]], [0, 0, 1])
    assert [
        case.index for case in suspects(three)
    ] == []  # class 1 is likelier than usual, in the first; class 0 more so


def test_no_class_without_images_is_believed() -> None:
    assert suspects(predictions([[0.2, 0.1, 0.7], [0.1, 0.8, 0.1]], [0, 1])) == []
