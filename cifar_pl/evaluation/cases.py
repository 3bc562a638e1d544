"""Single images and their predictions: the mistakes to look at, and labels that may be wrong."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from cifar_pl.errors import require
from cifar_pl.evaluation.predictions import Predictions

ORDERS = ("confidence", "loss", "random")
COLUMNS = ("index", "true", "predicted", "p_true", "p_predicted", "loss")


class Case(NamedTuple):
    """One image: its index in the source's part, classes, probabilities in [0, 1], cross-entropy.

    `other` is the class to compare the predicted one with: the true class of a mistake, the second most likely class
    of a correct prediction.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index
    true: int
    predicted: int
    other: int
    p_true: float
    p_predicted: float
    p_other: float
    loss: float

    def captions(self, classes: Sequence[str]) -> tuple[str, str, str]:
        """Captions of the image, and of the maps for the predicted and the other class."""
        relation = "is" if self.other == self.true else "next"
        return (
            f"image {self.index}",
            f"said {classes[self.predicted]} {self.p_predicted:.0%}",
            f"{relation} {classes[self.other]} {self.p_other:.0%}",
        )


def rows(cases: Sequence[Case], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a table with `COLUMNS`, with the names of the classes."""
    return [{**case._asdict(), "true": classes[case.true], "predicted": classes[case.predicted]} for case in cases]


def at(values: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """The value of each row of (N, classes) in its `column`, (N,)."""
    return values.gather(1, column[:, None]).flatten()


def select(
    predictions: Predictions,
    number: int,
    wrong: bool = True,
    by: str = "confidence",
    seed: int = 0,
    pair: tuple[int | None, int | None] | None = None,
) -> list[Case]:
    """Up to `number` images that were predicted wrongly, or correctly; `pair`: only of this true or predicted class.

    By `confidence` the highest probability of the predicted class comes first, by `loss` the highest cross-entropy;
    `random` images are drawn with `seed`.
    """
    require(by in ORDERS, f"by={by}: one of {', '.join(ORDERS)}.")
    log_p = predictions.logits.double().log_softmax(1)
    confidence, predicted = log_p.max(1)
    wanted = (predicted != predictions.label) == wrong
    for classes, only in zip((predictions.label, predicted), pair or (None, None), strict=True):
        if only is not None:
            wanted &= classes == only
    chosen = wanted.nonzero().flatten()
    if by == "random":
        chosen = chosen[torch.from_numpy(np.random.default_rng(seed).permutation(len(chosen)))]
    else:
        score = confidence if by == "confidence" else -at(log_p, predictions.label)
        chosen = chosen[score[chosen].argsort(descending=True, stable=True)]
    return _cases(predictions, chosen[:number])


def of(predictions: Predictions, index: Sequence[int]) -> list[Case]:
    """The images with these indices, in the order of the predictions."""
    chosen = torch.isin(predictions.index, torch.tensor(index, dtype=torch.int64))
    return _cases(predictions, chosen.nonzero().flatten())


def suspects(predictions: Predictions) -> list[Case]:
    """Images whose given label is probably wrong, the least likely label first.

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068): another class is more likely than the given one, and
    at least as likely as that class is, on average, for its own images. Sound only for images that the network was not
    trained on.
    """
    p = predictions.logits.double().softmax(1)
    given = at(p, predictions.label)
    sums = torch.zeros(p.shape[1], dtype=torch.double).index_add_(0, predictions.label, given)
    counts = torch.bincount(predictions.label, minlength=p.shape[1])
    usual = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    believed = torch.where(p >= usual, p, 0).argmax(1)
    other = at(p, believed)
    doubted = ((other > given) & (other >= usual[believed])).nonzero().flatten()
    return _cases(predictions, doubted[given[doubted].argsort(stable=True)])


def _cases(predictions: Predictions, chosen: torch.Tensor) -> list[Case]:
    """The images in these rows, int64 (n,), of the predictions."""
    log_p, label = predictions.logits[chosen].double().log_softmax(1), predictions.label[chosen]
    first, second = log_p.topk(2, dim=1).indices.T
    other = torch.where(first == label, second, label)
    p_true, p_first, p_other = (at(log_p, classes) for classes in (label, first, other))
    columns = (predictions.index[chosen], label, first, other, p_true.exp(), p_first.exp(), p_other.exp(), -p_true)
    return [Case(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
