"""Split once, hand out batches of uint8 images."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from sklearn.model_selection import StratifiedKFold
from torch.utils.data import DataLoader

from cifar_pl.data.augment import Augment, Transform
from cifar_pl.data.batches import Batch, EpochSampler, ImageDataset
from cifar_pl.data.images import Source
from cifar_pl.errors import complete, require
from cifar_pl.machine import hardware

PROTOCOLS = ("honest", "published")
MOST_WORKERS = 128  # each is a process
LARGER = 4  # times as large are the batches that a GPU evaluates: without gradients they need no more memory
LAST_SEED = 2**32 - 1  # of numpy and Lightning


class DataModule(LightningDataModule):
    """Training, validation and test batches of one source.

    Attributes:
        accelerator: What the batches go to (`cpu`, `cuda`, `mps`), where there is no trainer to say so.
    """

    accelerator = "cpu"

    def __init__(
        self,
        source: Callable[[], Source],
        augment: Mapping[str, Transform | None],
        val_size: int,
        batch_size: int,
        num_workers: int | str = "auto",
        split_seed: int = 0,
        seed: int = 0,
        start_scale: float = 1.0,
        start_epochs: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        protocol: str = "honest",
        fold: int | None = None,
        folds: int = 5,
    ) -> None:
        """Remember what to do; `load` does it.

        Args:
            source: Returns the images.
            augment: Named random transforms of training images.
            val_size: How many training images to hold out, stratified; 0 for none.
            batch_size: Images per step, shared by the processes where there are several. A training epoch drops
                its incomplete last batch.
            num_workers: Loader processes of the training. `auto`: on a CPU none, because augmentation takes
                2 % of the time and training has the cores anyway; with a GPU one per core, up to 8.
            split_seed: Chooses the held-out images; not the run's seed, for seeds must not change the exam.
            seed: Of the run: order and augmentation.
            start_scale: What training images are shrunk by in the first epochs, in (0, 1].
            start_epochs: How many epochs those are.
            mean: Of each channel, in [0, 1], for the network's normalisation and the augmentation's holes;
                with `std` in place of what the training images have.
            std: The same, standard deviation.
            protocol: `honest`, or `published`: all training images train, and the test images stand in for
                the validation, so that what is selected is selected on them.
            fold: Hold out this one of `folds` stratified parts, counted from 0, in place of `val_size` images.
            folds: How many parts.

        Raises:
            UserError: a number is out of range.
        """
        super().__init__()
        _whole("data.val_size", val_size, 0)
        _whole("data.batch_size", batch_size, 1)
        if num_workers != "auto":
            _whole("data.num_workers", num_workers, 0, MOST_WORKERS)
        _whole("split_seed", split_seed, 0, LAST_SEED)
        _whole("seed", seed, 0, LAST_SEED)
        require(0 < start_scale <= 1, f"data.start_scale={start_scale}: it must be above 0 and at most 1.")
        require(protocol in PROTOCOLS, f"protocol={protocol}: one of {', '.join(PROTOCOLS)}.")
        require(
            (mean is None and std is None) or (_colour(mean) and _colour(std) and min(std or [0]) > 0),
            f"data.mean={mean}, data.std={std}: three numbers from 0 to 1 each, those of std above 0, or null both.",
        )
        _whole("data.folds", folds, 2)
        if fold is not None:
            _whole("data.fold", fold, 0)
            require(fold < folds, f"data.fold={fold}: of {folds} folds (data.folds) the last is {folds - 1}.")
            require(
                protocol == "honest", "data.fold holds images out, protocol=published does not: leave one of them out."
            )
        self._fold, self._folds = fold, folds
        self._make_source, self._transforms = source, augment
        self.test_selected = protocol == "published"
        self._val_size = 0 if self.test_selected else val_size
        self._statistics = (tuple(mean), tuple(std)) if mean and std else None
        self.batch_size = batch_size
        self._num_workers, self._split_seed, self._seed = num_workers, split_seed, seed
        self._start_scale, self._start_epochs = start_scale, start_epochs
        self._source: Source | None = None
        self._first_epoch = 0

    def state_dict(self) -> dict[str, int]:
        """The epoch after this checkpoint's."""
        return {"epoch": self.trainer.current_epoch + 1 if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin there. Lightning tells the sampler only after loader workers have fetched the first batches."""
        self._first_epoch = state_dict["epoch"]

    def load(self) -> Source:
        """Read the images, split them, and measure their colours; the second call does nothing.

        Raises:
            UserError: the source cannot be read, or holds too few images for this split.
        """
        if self._source is not None:
            return self._source
        source: Source = complete(self._make_source, "data.source")
        train, val = self._split(source.train.labels)
        require(
            len(train) >= self.batch_size,
            f"data.batch_size={self.batch_size}: there are only {len(train)} training images "
            f"({len(val)} more are held out for validation). Make it smaller.",
        )
        self.mean, self.std = self._statistics or channel_statistics(source.train.pixels, train)
        image = source.train.pixels[train[0]]
        unfit = f"aug does not fit images of {len(image)} pixels"
        augment = complete(
            Augment,
            "aug",
            transforms=self._transforms,
            mean=self.mean,
            seed=self._seed,
            start_scale=self._start_scale,
            start_epochs=self._start_epochs,
        )
        made = complete(augment, unfit, image=image, epoch=self._start_epochs, index=0)  # here, not in a worker
        require(
            made.dtype == np.uint8 and made.ndim == 3 and made.shape[2] == 3,
            f"{unfit}: it makes {made.dtype} {made.shape} of them, which must be uint8 (H, W, 3).",
        )
        self._rows = {"train": train, "val": val, "test": np.arange(len(source.test))}
        self._sets = {
            "train": ImageDataset(source.train, augment),
            "val": ImageDataset(source.train),
            "test": ImageDataset(source.test),
        }
        if self.test_selected:
            self._rows["val"], self._sets["val"] = self._rows["test"], self._sets["test"]
        self._source = source
        return source

    def _split(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._fold is None:
            return stratified_split(labels, self._val_size, self._split_seed)
        least = int(np.bincount(labels).min())
        require(
            least >= self._folds, f"data.folds={self._folds}: the smallest class has {least} images. Make it smaller."
        )
        folds = StratifiedKFold(self._folds, shuffle=True, random_state=self._split_seed)
        train, val = list(folds.split(labels, labels))[self._fold]
        return train, val

    def setup(self, stage: str) -> None:
        """Lightning's name for `load`."""
        self.load()

    def pixels(self, split: str, index: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The original images that a batch's `index` names: uint8 (N, H, W, 3)."""
        return self._sets[split].images.pixels[index]

    def labels(self, split: str) -> NDArray[np.int64]:
        """The labels that a batch's `index` names: int64 (N,)."""
        return self._sets[split].images.labels

    def batch(self, split: str, epoch: int, number: int) -> Batch:
        """`number` images, spread evenly over a split, as the given epoch would show them."""
        rows = self._rows[split]
        spread = rows[np.linspace(0, len(rows) - 1, number).astype(int)]
        return self._sets[split].__getitems__([(epoch, row) for row in spread.tolist()])

    def size(self, split: str) -> int:
        """How many images a split has."""
        return len(self._rows[split])

    def each(self, processes: int) -> int:
        """The images of a step that each of several processes gets.

        Raises:
            UserError: the parts are not equal, or a process would get no image of a split.
        """
        part, rest = divmod(self.batch_size, processes)
        require(
            not rest,
            f"data.batch_size={self.batch_size}: {processes} processes share the images of a step evenly. Take "
            f"{(part + 1) * processes}.",
        )
        few = [split for split, rows in self._rows.items() if 0 < len(rows) < processes]
        require(not few, f"{processes} processes are more than there are images of {' and '.join(few)}. Start fewer.")
        return part

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled and augmented; full batches only. Of several processes each gets its share."""
        return self._loader("train", self._seed)

    def val_dataloader(self) -> DataLoader[Batch] | list[None]:
        """In order; of several processes each gets its share, and every image is in one. Empty without validation."""
        return self._loader("val", None) if self.size("val") else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """In order; of several processes each gets its share, and every image is in one."""
        return self._loader("test", None)

    def _loader(self, split: str, seed: int | None) -> DataLoader[Batch]:
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        gpu = (self.trainer.strategy.root_device.type if self.trainer else self.accelerator) == "cuda"
        workers = (min(hardware.cores(), 8) if gpu else 0) if self._num_workers == "auto" else int(self._num_workers)
        workers = workers if split == "train" else 0  # the others only copy: to ask another process takes longer
        sampler = EpochSampler(self._rows[split], seed, rank, processes)
        sampler.set_epoch(self._first_epoch)
        return DataLoader(
            self._sets[split],
            # A share of val or test may need a batch more than another: without gradients, torch's DDP waits for the
            # other processes at the first batch only, and everybody has that one.
            batch_size=self.each(processes) * (LARGER if gpu and split != "train" else 1),
            sampler=sampler,
            drop_last=split == "train",
            num_workers=workers,
            # Python 3.14 would pickle the images into each of them, as Windows and macOS have to.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            collate_fn=_whole_batch,
            pin_memory=gpu,
            persistent_workers=workers > 0,
        )


def stratified_split(
    labels: NDArray[np.int64], val_size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows into (train, val), both ascending; val has `val_size` rows, each class its share.

    Shares that are no whole numbers are rounded down, and the largest remainders get one more.

    Raises:
        UserError: nothing would be left to train on.
    """
    n = len(labels)
    require(val_size < n, f"data.val_size={val_size}: the training part has only {n} images. Make it smaller.")
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * val_size / n
    take = np.floor(shares).astype(int)
    take[np.argsort(take - shares, kind="stable")[: val_size - take.sum()]] += 1
    held_out = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, take, strict=True)]
    val = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(n), val), val


def channel_statistics(
    pixels: NDArray[np.uint8], rows: NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over these rows of (N, H, W, 3), in [0, 1].

    Exact: sums of whole numbers, a thousand images at a time.
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


def _whole_batch(batch: Any) -> Any:
    """Nothing to collate: the dataset gives whole batches."""
    return batch


def _colour(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in value)
    )


def _whole(name: str, value: object, least: int, most: float = math.inf) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    limits = f"{least} or more" if most == math.inf else f"from {least} to {most}"
    require(ok, f"{name}={value}: it must be a whole number, {limits}.")
