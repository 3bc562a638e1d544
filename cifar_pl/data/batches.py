"""What a batch is, which images an epoch hands out in which order, and how they are put together."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from cifar_pl.data.augment import Augment
from cifar_pl.data.images import Images

Key = tuple[int, int]  # (epoch, row of the image in its part of the source)


class Batch(NamedTuple):
    """Images, their labels, and their rows in the source's training part (train, val) or test part (test)."""

    image: torch.Tensor  # uint8 (B, 3, H, W), RGB, in channels-last memory
    label: torch.Tensor  # int64 (B,)
    index: torch.Tensor  # type: ignore[assignment]  # int64 (B,); hides tuple.index

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the image alone as a tensor: the main process opens shared memory for each tensor of a worker."""
        return _received, (self.image, self.label.numpy(), self.index.numpy())


def _received(image: torch.Tensor, label: NDArray[np.int64], index: NDArray[np.int64]) -> Batch:
    return Batch(image, torch.from_numpy(label), torch.from_numpy(index))


class EpochSampler(Sampler[Key]):
    """Rows of one split as (epoch, row), so that workers need not be told the epoch.

    The order depends on `(seed, epoch)` alone; without a seed, it is that of `rows`. Each process gets every
    `world_size`-th row, so that a step of all processes has the images that one process would have given it.
    Shuffled shares have the same length; otherwise every row is in one, and one may be a row longer than another.
    """

    def __init__(self, rows: NDArray[np.int64], seed: int | None, rank: int = 0, world_size: int = 1) -> None:
        self._rows, self._seed, self._rank, self._world_size = rows, seed, rank, world_size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration. Lightning calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        n = len(self._rows)
        return n // self._world_size if self._seed is not None else len(range(self._rank, n, self._world_size))

    def __iter__(self) -> Iterator[Key]:
        rows = self._rows
        if self._seed is not None:
            rows = np.random.default_rng((self._seed, self._epoch)).permutation(rows)
        for row in rows[self._rank :: self._world_size][: len(self)].tolist():
            yield self._epoch, row


class ImageDataset(Dataset[Batch]):
    """Batches of images by their keys, augmented if there is an `augment`."""

    def __init__(self, images: Images, augment: Augment | None = None) -> None:
        self.images, self.augment = images, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """One batch; torch's loader calls it instead of `__getitem__`."""
        rows = np.array([row for _, row in keys])
        pixels = self.images.pixels[rows]
        if self.augment is not None:
            pixels = np.stack([self.augment(p, epoch, row) for p, (epoch, row) in zip(pixels, keys, strict=True)])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return Batch(image, torch.from_numpy(self.images.labels[rows]), torch.from_numpy(rows))
