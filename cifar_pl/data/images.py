"""Data sets as uint8 arrays in memory, their split and statistics. A source is a function that returns a `Source`."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from cifar_pl.errors import require
from cifar_pl.machine import hardware

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Labelled images."""

    pixels: NDArray[np.uint8]  # (N, H, W, 3), RGB, 0 to 255
    labels: NDArray[np.int64]  # (N,), from 0
    files: tuple[Path, ...] = ()  # (N,), where each image is a file of its own

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        require(
            dtype == np.uint8 and len(shape) == 4 and shape[3] == 3,
            f"Images must be uint8 (N, H, W, 3), got {dtype} {shape}.",
        )
        require(
            self.labels.dtype == np.int64 and self.labels.shape == shape[:1],
            f"Labels must be int64 ({shape[0]},), got {self.labels.dtype} {self.labels.shape}.",
        )
        require(len(self.files) in (0, shape[0]), f"There are {len(self.files)} files of {shape[0]} images.")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set."""

    train: Images  # the validation images are split from it
    test: Images
    classes: tuple[str, ...]
    val: int = 0  # of the training images, how many, the last ones, are there to validate on

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("test", self.test)):
            require(len(part), f"The {name} part holds no images.")
            require(
                part.labels.min() >= 0 and part.labels.max() < len(self.classes),
                f"The {name} labels run from {part.labels.min()} to {part.labels.max()}, "
                f"but there are {len(self.classes)} classes.",
            )


def check_memory(number: int, size: int) -> None:
    """Say how much memory so many images of `size` pixels take; refuse what will not fit."""
    need, free = number * size * size * 3 / 1e6, hardware.free_memory() / 1e6
    log.info("%d images of %d pixels take %.0f MB of memory", number, size, need)
    require(
        need < free,
        f"data.image_size={size}: {number} images take {need:.0f} MB of memory, of which {free:.0f} are free. Make it "
        "smaller.",
    )


def number_held_out(val_size: float, n: int) -> int:
    """How many of `n` images are held out: `val_size`, or, below 1, that share of them, rounded, one at least."""
    return max(round(val_size * n), 1) if 0 < val_size < 1 else int(val_size)


def stratified_split(labels: NDArray[np.int64], val_size: float, seed: int) -> tuple[Rows, Rows]:
    """Split rows into (train, val), both ascending; val has `number_held_out` rows, from each class its share.

    Shares are rounded down, and the largest remainders get one more.
    """
    n = len(labels)
    val_size = number_held_out(val_size, n)
    require(val_size < n, f"data.val_size={val_size}: the training part has only {n} images. Make it smaller.")
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * val_size / n
    take = np.floor(shares).astype(int)
    take[np.argsort(take - shares, kind="stable")[: val_size - take.sum()]] += 1
    held_out = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, take, strict=True)]
    val = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(n), val), val


def fold_split(labels: NDArray[np.int64], fold: int, folds: int, seed: int) -> tuple[Rows, Rows]:
    """Split rows into (train, val), both ascending; val is one of `folds` stratified parts, counted from 0."""
    smallest = int(np.bincount(labels).min())
    require(smallest >= folds, f"data.folds={folds}: the smallest class has {smallest} images. Make it smaller.")
    train, val = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))[fold]
    return train, val


def channel_statistics(pixels: NDArray[np.uint8], rows: Rows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over these rows of (N, H, W, 3), in [0, 1].

    Exact: integer sums, over a thousand images at a time.
    """
    total, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for start in range(0, len(rows), 1000):
        flat = pixels[rows[start : start + 1000]].reshape(-1, 3).astype(np.int64)
        total += flat.sum(axis=0)
        squares += (flat * flat).sum(axis=0)
    n = len(rows) * pixels[0].size / 3
    mean = total / n
    std = np.sqrt(squares / n - mean**2)
    return tuple((mean / 255).tolist()), tuple((np.maximum(std, 1) / 255).tolist())  # 1: images of one colour
