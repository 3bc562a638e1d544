"""Split once, hand out batches of uint8 images."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from cifar_pl.data.augment import Augment, Transform
from cifar_pl.data.batches import Batch, EpochSampler, ImageDataset
from cifar_pl.data.images import Images, Source, channel_statistics, fold_split, stratified_split
from cifar_pl.errors import checked, complete, require
from cifar_pl.machine import hardware

GPU_EVAL_FACTOR = 4  # how much larger the batches are that a GPU evaluates: without gradients they need no more memory

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy's and Lightning's limit
Workers = Annotated[int, Field(ge=0, le=128)]
Scale = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Mean = Annotated[Sequence[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
Std = Annotated[Sequence[Scale], Field(min_length=3, max_length=3)]


class DataModule(LightningDataModule):
    """Training, validation and test batches of one source."""

    accelerator = "cpu"  # of the batches while there is no trainer to ask: cpu, cuda, mps

    @checked
    def __init__(
        self,
        source: Callable[[], Source],
        augment: Mapping[str, Transform | None],
        val_size: NonNegativeInt | Share,
        batch_size: PositiveInt,
        num_workers: Workers | Literal["auto"] = "auto",
        split_seed: Seed = 0,
        seed: Seed = 0,
        start_scale: Scale = 1.0,
        start_epochs: NonNegativeInt = 0,
        mean: Mean | None = None,
        std: Std | None = None,
        protocol: Literal["honest", "published"] = "honest",
        fold: NonNegativeInt | None = None,
        folds: Annotated[int, Field(ge=2)] = 5,
    ) -> None:
        """Settings as in `conf/config.yaml`; `load` reads the images.

        `split_seed` chooses the images that are held out: `val_size` of them, a number or, below 1, a share, or one of
        `folds` stratified parts (`fold`, from 0). It is separate from `seed`, so that all seeds are evaluated on the
        same images. Those that the source has to validate on take the place of `val_size`, unless that is 0. With the
        protocol `published` all training images are trained on, and the test images stand in for the validation.

        `batch_size` images are shared by all processes; a training epoch drops its incomplete last batch. In the
        first `start_epochs` training images are shrunk by `start_scale`. `mean` and `std` of each channel, for the
        network's normalisation and the fill of cutout's holes, are those of the training images if None.

        `num_workers` load training images. `auto`: none on a CPU, because augmentation takes 2 % of the time and
        training has the cores anyway; with a GPU one per core, up to 8.
        """
        super().__init__()
        require((mean is None) == (std is None), f"data.mean={mean}, data.std={std}: give both, or null for both.")
        self.test_selected = protocol == "published"
        if fold is None:
            self._split = partial(stratified_split, val_size=0 if self.test_selected else val_size, seed=split_seed)
        else:
            require(fold < folds, f"data.fold={fold}: the last of {folds} folds (data.folds) is {folds - 1}.")
            require(not self.test_selected, f"data.fold={fold}: protocol=published holds no images out. Leave one out.")
            self._split = partial(fold_split, fold=fold, folds=folds, seed=split_seed)
        self._statistics = (tuple(mean), tuple(std)) if mean and std else None
        self._augment = partial(Augment, augment, seed=seed, start_scale=start_scale, start_epochs=start_epochs)
        self._own_val = fold is None and val_size > 0 and not self.test_selected
        self._make_source, self._num_workers, self._seed, self.batch_size = source, num_workers, seed, batch_size
        self._source: Source | None = None
        self._first_epoch = 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.trainer.current_epoch + 1 if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        # Lightning tells the sampler only after the loader's workers have fetched the first batches.
        self._first_epoch = state_dict["epoch"]

    def load(self) -> Source:
        """Read the images, split them, and measure their colours; the second call does nothing."""
        if self._source is not None:
            return self._source
        source: Source = complete(self._make_source, "data")
        if source.val and self._own_val:
            train, val = np.split(np.arange(len(source.train)), [-source.val])
        else:
            train, val = self._split(source.train.labels)
        require(
            len(train) >= self.batch_size,
            f"data.batch_size={self.batch_size}: there are only {len(train)} training images "
            f"({len(val)} more are held out for validation). Make it smaller.",
        )
        self.mean, self.std = self._statistics or channel_statistics(source.train.pixels, train)
        augment = complete(self._augment, "aug", mean=self.mean)
        image = source.train.pixels[train[0]]
        unfit = f"aug does not fit images of {len(image)} pixels"
        made = complete(augment, unfit, image=image, epoch=0, index=0)  # here, not in a worker
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

    def setup(self, stage: str) -> None:
        self.load()

    def pixels(self, split: str, index: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The original images of a batch's `index`: uint8 (N, H, W, 3)."""
        return self.images(split).pixels[index]

    def parts(self, split: str, index: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """The `pixels` of an `index`, (N,) or (N, k), a batch at a time: there is memory for that, however large."""
        size = self.batch_size
        return (self.pixels(split, index[start : start + size]) for start in range(0, len(index), size))

    def images(self, split: str) -> Images:
        """What a batch's `index` points into: the source's training part (train, val) or test part."""
        return self._sets[split].images

    def rows(self, split: str) -> NDArray[np.int64]:
        """The indices of a split's images, ascending: int64 (N,)."""
        return self._rows[split]

    def batch(self, split: str, epoch: int, number: int) -> Batch:
        """`number` images, spread evenly over a split, as the given epoch would show them."""
        rows = self._rows[split]
        spread = rows[np.linspace(0, len(rows) - 1, number).astype(int)]
        return self._sets[split].__getitems__([(epoch, row) for row in spread.tolist()])

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._rows[split])

    def each(self, processes: int) -> int:
        """Images per step and process; every process must get the same number of them, and one of each split."""
        share, rest = divmod(self.batch_size, processes)
        require(
            not rest,
            f"data.batch_size={self.batch_size}: {processes} processes share the images of a step evenly. Take "
            f"{(share + 1) * processes}.",
        )
        few = [split for split, rows in self._rows.items() if 0 < len(rows) < processes]
        require(not few, f"{processes} processes are more than there are images of {' and '.join(few)}. Start fewer.")
        return share

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train", self._seed)

    def val_dataloader(self) -> DataLoader[Batch] | list[None]:
        return self._loader("val", None) if self.size("val") else []

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test", None)

    def _loader(self, split: str, seed: int | None) -> DataLoader[Batch]:
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        kind = self.trainer.strategy.root_device.type if self.trainer else self.accelerator
        gpu, workers = kind == "cuda", hardware.loaders(kind) if self._num_workers == "auto" else self._num_workers
        workers = workers if split == "train" else 0  # the others only copy: asking another process takes longer
        sampler = EpochSampler(self._rows[split], seed, rank, processes)
        sampler.set_epoch(self._first_epoch)
        return DataLoader(
            self._sets[split],
            # A process may have one batch of val or test more than another: without gradients, torch's DDP waits for
            # the others at the first batch only, and each process has that one.
            batch_size=self.each(processes) * (GPU_EVAL_FACTOR if gpu and split != "train" else 1),
            sampler=sampler,
            drop_last=split == "train",
            num_workers=workers,
            # Python 3.14 would pickle the images into each worker, as Windows and macOS have to.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            collate_fn=Batch._make,  # what the dataset returns is a batch already
            pin_memory=gpu,
            persistent_workers=workers > 0,
        )
