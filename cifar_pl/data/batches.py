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
    """Some images.

    Attributes:
        image: uint8 (B, 3, H, W), RGB, in channels-last memory.
        label: int64 (B,).
        index: int64 (B,), row in the source's training part (train, val) or test part (test).
    """

    image: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs

    def __reduce__(self) -> tuple[Any, ...]:
        """From a worker, the image alone as a tensor: for each one the main process has to open shared memory."""
        return _received, (self.image, self.label.numpy(), self.index.numpy())


def _received(image: torch.Tensor, label: NDArray[np.int64], index: NDArray[np.int64]) -> Batch:
    return Batch(image, torch.from_numpy(label), torch.from_numpy(index))


class EpochSampler(Sampler[Key]):
    """Rows of one split as (epoch, row), so that workers need no other word of the epoch.

    The order of an epoch depends on `(seed, epoch)` alone. Of several processes each gets every `world_size`-th row, so
    that a step of all of them together has the images that one process would have given it. Where the rows are
    shuffled, to train on, shares have the same length; otherwise every row is in one, and one may be a row
    longer than another. Lightning calls `set_epoch`.
    """

    def __init__(self, rows: NDArray[np.int64], seed: int | None, rank: int = 0, world_size: int = 1) -> None:
        """Sample `rows`, shuffled by `seed`, or as they are where it is None."""
        self._rows, self._seed, self._rank, self._world_size = rows, seed, rank, world_size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next iteration hands out."""
        self._epoch = epoch

    def __len__(self) -> int:
        """The number of images this process gets in an epoch."""
        n = len(self._rows)
        return n // self._world_size if self._seed is not None else len(range(self._rank, n, self._world_size))

    def __iter__(self) -> Iterator[Key]:
        """The epoch's (epoch, row) pairs."""
        rows = self._rows
        if self._seed is not None:
            rows = np.random.default_rng((self._seed, self._epoch)).permutation(rows)
        for row in rows[self._rank :: self._world_size][: len(self)].tolist():
            yield self._epoch, row


class ImageDataset(Dataset[Batch]):
    """Images by (epoch, row), a batch at a time; augmented where there is an `augment`."""

    def __init__(self, images: Images, augment: Augment | None = None) -> None:
        """Serve `images`."""
        self.images, self.augment = images, augment

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """The images with these keys as one batch; torch's loader asks for whole batches where it can."""
        rows = np.array([row for _, row in keys])
        pixels = self.images.pixels[rows]
        if self.augment is not None:
            pixels = np.stack([self.augment(p, epoch, row) for p, (epoch, row) in zip(pixels, keys, strict=True)])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return Batch(image, torch.from_numpy(self.images.labels[rows]), torch.from_numpy(rows))
