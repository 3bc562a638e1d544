"""What a network said of a whole split, and what follows: scores per class, cases to look at, suspect labels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_pl.errors import UserError, require

SPLITS = {"val": "validation", "test": "test"}  # as people call them
ORDERS = ("confidence", "loss", "random")


class Predictions(NamedTuple):
    """What the network said of a whole split, on the CPU.

    Attributes:
        logits: float32 (N, classes).
        label: int64 (N,), the given classes.
        index: int64 (N,), as in `batches.Batch`.
    """

    logits: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Those of a `predictions.npz`.

        Raises:
            UserError: the file is damaged, or holds something else.
        """
        try:
            with np.load(path) as file:
                return cls(*(torch.from_numpy(file[name]) for name in cls._fields)).checked()
        except Exception as error:  # whatever a damaged file makes of its readers
            raise UserError(f"{path} cannot be used: {error} It is damaged.") from error

    def checked(self) -> "Predictions":
        """Itself.

        Raises:
            UserError: shapes or types break the contract, or a label is no class.
        """
        logits, label, index = self
        require(
            (logits.dtype, label.dtype, index.dtype) == (torch.float32, torch.int64, torch.int64)
            and logits.ndim == 2
            and label.shape == index.shape == (len(logits),) != (0,)
            and 0 <= int(label.min()) <= int(label.max()) < logits.shape[1]
            and int(index.min()) >= 0,
            "Its logits, labels and indices do not belong together.",
        )
        return self

    def accuracy(self) -> float:
        """The share of right predictions, in [0, 1]."""
        return float((self.logits.argmax(1) == self.label).float().mean())

    def confusion(self, classes: int) -> NDArray[np.int64]:
        """How often each true class (row) was predicted as each class (column): int64 (classes, classes)."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.label.numpy(), self.logits.argmax(1).numpy()), 1)
        return counts


def with_mirror_images(
    network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """The mean of `logits`, which are those of `images` (N, 3, H, W), and the logits of the mirror images."""
    return (logits + network(images.flip(-1)).float()) / 2


class Case(NamedTuple):
    """One image: its index in the source's part, classes, probabilities in [0, 1], cross-entropy.

    `other` is the class to compare with the predicted one: the true class of a mistake, the second most
    likely class where the prediction is right.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    true: int
    predicted: int
    other: int
    p_true: float
    p_predicted: float
    p_other: float
    loss: float

    def captions(self, classes: Sequence[str]) -> tuple[str, str, str]:
        """What stands over the image, and over the maps for the predicted and the other class."""
        relation = "is" if self.other == self.true else "next"
        return (
            f"image {self.index}",
            f"said {classes[self.predicted]} {self.p_predicted:.0%}",
            f"{relation} {classes[self.other]} {self.p_other:.0%}",
        )


def at(values: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Of each row of (N, classes) the value in its column, (N,)."""
    return values.gather(1, column[:, None]).flatten()


def cases(predictions: Predictions, rows: Sequence[int]) -> list[Case]:
    """The images in these rows of the predictions."""
    some = torch.as_tensor(list(rows), dtype=torch.long)
    log_p = predictions.logits[some].double().log_softmax(1)
    (first, second), label = log_p.topk(2, dim=1).indices.T, predictions.label[some]
    other = torch.where(first == label, second, label)
    p = [at(log_p, of) for of in (label, first, other)]
    columns = (predictions.index[some], label, first, other, *(x.exp() for x in p), -p[0])
    return [Case(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]


def select(
    predictions: Predictions,
    number: int,
    wrong: bool = True,
    by: str = "confidence",
    seed: int = 0,
    pair: tuple[int, int] | None = None,
) -> list[Case]:
    """Up to `number` images, wrongly or rightly predicted.

    Args:
        predictions: Of a split.
        number: How many, at most.
        wrong: Mistakes; otherwise what is right.
        by: `confidence`, the highest probability of the predicted class first; `loss`, the highest
            cross-entropy first; `random`, drawn by `seed`.
        seed: Of the draw.
        pair: Only images of this true class that were predicted as this class.

    Raises:
        UserError: there is no such order.
    """
    require(by in ORDERS, f"by={by}: one of {', '.join(ORDERS)}.")
    log_p = predictions.logits.double().log_softmax(1)
    highest, said = log_p.max(1)
    wanted = (said != predictions.label) == wrong
    if pair is not None:
        wanted &= (predictions.label == pair[0]) & (said == pair[1])
    rows = wanted.nonzero().flatten()
    if by == "random":
        rows = rows[torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))]
    else:
        score = highest if by == "confidence" else -at(log_p, predictions.label)
        rows = rows[score[rows].argsort(descending=True, stable=True)]
    return cases(predictions, rows[:number].tolist())


def suspects(predictions: Predictions) -> list[Case]:
    """Images whose given label is probably wrong, the least likely label first.

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068): the network finds another class at least as
    likely as it finds that class, on average, for the images that carry it, and more likely than the given
    label. Sound only for images that the network did not train on.
    """
    p = predictions.logits.double().softmax(1)
    sums = torch.zeros(p.shape[1], dtype=torch.double).index_add_(0, predictions.label, at(p, predictions.label))
    counts = torch.bincount(predictions.label, minlength=p.shape[1])
    usual = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    believed = torch.where(p >= usual, p, 0).argmax(1)
    given, other = at(p, predictions.label), at(p, believed)
    doubted = (other > given) & (other >= usual[believed])
    rows = doubted.nonzero().flatten()
    return cases(predictions, rows[given[rows].argsort(stable=True)].tolist())


class Score(NamedTuple):
    """How one class fares; a share is None where there is nothing to divide by.

    Attributes:
        name: Of the class.
        recall: Of its images the share that is predicted as it: what people call its accuracy.
        precision: Of the images predicted as it the share that is of it.
        support: Its images.
    """

    name: str
    recall: float | None
    precision: float | None
    support: int


def scores(counts: NDArray[np.int64], classes: Sequence[str]) -> list[Score]:
    """Each class's scores out of a confusion matrix (true, predicted)."""
    right, of_class, said = counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist()
    return [
        Score(name, r / n if n else None, r / s if s else None, n)
        for name, r, n, s in zip(classes, right, of_class, said, strict=True)
    ]


def confused(counts: NDArray[np.int64], number: int) -> list[tuple[int, int, int]]:
    """Up to `number` pairs (true, predicted, how often), the most frequent first."""
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:number]
    pairs = [(int(t), int(p), int(wrong[t, p])) for t, p in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return [pair for pair in pairs if pair[2]]


def interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` images (Wilson 1927), in [0, 1]."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
