"""What a network predicted for a split of the data."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_pl.errors import UserError, require

SPLITS = {"val": "validation", "test": "test"}


class Predictions(NamedTuple):
    """Predictions for all images of a split, on the CPU; `index` is that of `batches.Batch`."""

    logits: torch.Tensor  # float32 (N, classes)
    label: torch.Tensor  # int64 (N,)
    index: torch.Tensor  # type: ignore[assignment]  # int64 (N,); hides tuple.index

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read a `predictions.npz`, which has one array per field."""
        try:
            with np.load(path) as file:
                return cls(*(torch.from_numpy(file[name]) for name in cls._fields)).validated()
        except Exception as error:  # numpy raises many kinds for damaged files
            raise UserError(f"{path} cannot be used: {error} It is damaged.") from error

    def validated(self) -> "Predictions":
        """Return self after checking dtypes, shapes and the range of labels and indices."""
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

    @property
    def predicted(self) -> torch.Tensor:
        """The most likely classes, int64 (N,)."""
        return self.logits.argmax(1)

    def accuracy(self) -> float:
        """The share of correct predictions, in [0, 1]."""
        return float((self.predicted == self.label).float().mean())

    def confusion(self, classes: int) -> NDArray[np.int64]:
        """How often each true class (row) was predicted as each class (column): int64 (classes, classes)."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.label.numpy(), self.predicted.numpy()), 1)
        return counts


def with_mirror_images(
    network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """The mean of `logits`, which are those of `images` (N, 3, H, W), and the logits of the mirror images."""
    return (logits + network(images.flip(-1)).float()) / 2
