"""What runs predicted for the same images, from the files that they kept."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import UserError, reason, require
from cifar_pl.evaluation.features import Explored
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import saved
from cifar_pl.runs import rundir
from cifar_pl.runs.record import Record

log = logging.getLogger(__name__)


class Votes(NamedTuple):
    """How several networks classified the images of a split."""

    split: str
    runs: list[Record]
    index: NDArray[np.int64]  # type: ignore[assignment]  # (N,), as in Predictions; hides tuple.index
    label: NDArray[np.int64]  # (N,)
    counts: NDArray[np.int64]  # (N, classes): how many of the runs predicted each class
    ensembles: list[float | None]  # of each group: the accuracy of the mean probabilities, if it has several runs
    left_out: list[str]  # runs whose predictions cannot be used, and why

    def all_wrong(self) -> NDArray[np.int64]:
        """The rows of the images that no run gets right; those on which most runs agree come first."""
        rows = np.flatnonzero(self.counts[np.arange(len(self.label)), self.label] == 0)
        return rows[np.argsort(-self.counts[rows].max(axis=1), kind="stable")]


def predictions(run: Record, split: str) -> Predictions | None:
    """What a finished run kept for the weights that it tested; None if it kept nothing of this split.

    A test-selected run has no validation images of its own.
    """
    file = run.directory / rundir.PREDICTIONS[split]
    usable = run.status == "finished" and not (split == "val" and run.test_selected) and file.exists()
    return Predictions.load(file) if usable else None


def same(one: Predictions, other: Predictions) -> bool:
    """Whether both are of the same images, by index, label and number of classes."""
    return (
        torch.equal(one.index, other.index)
        and torch.equal(one.label, other.label)
        and one.logits.shape == other.logits.shape
    )


def images(
    run: Record, split: str, index: NDArray[np.int64], label: NDArray[np.int64], classes: int | None = None
) -> DataModule | None:
    """The images of a run, loaded, if those at `index` have these labels, both (N,), and they are of so many classes.

    Else, or if they are not on this machine, a line in the log and None.
    """
    try:
        data = saved.images(rundir.read_config(run.directory))
        fit = classes in (None, len(data.load().classes)) and saved.fits(data, split, index, label)
        require(fit, f"the {split} images are not those that the run saw")
    except Exception as error:  # noqa: BLE001 - a damaged config, of which anything may be raised
        log.warning("%s: its images are not shown (%s)", run.directory, reason(error))
        return None
    return data


def explored(directory: Path, data: DataModule) -> Explored | None:
    """What a run kept of its images' features, if it is of these images, which are loaded; else a line in the log."""
    path = directory / rundir.EXPLORED
    if not path.exists():
        return None
    try:
        found = Explored.load(path)
        fit = found.train == len(data.images("train").labels) and np.isin(found.mapped, data.rows("test")).all()
        require(fit, f"{path} is of other images than there are now.")
    except UserError as error:
        log.warning("!! The nearest training images and the map are not shown: %s", error)
        return None
    return found


def votes(groups: Sequence[Sequence[Record]]) -> Votes | None:
    """Those of the runs in all groups: for their validation if it has the same images, else for their test images.

    None if no run kept predictions.
    """
    return _votes(groups, "val") or _votes(groups, "test")


def _votes(groups: Sequence[Sequence[Record]], split: str) -> Votes | None:
    """The first run that can be read says which images are meant. None if one has no or another validation."""
    first: Predictions | None = None
    counts, ensembles, left_out, runs = np.zeros((0, 0), np.int64), list[float | None](), list[str](), list[Record]()
    for group in groups:
        p, used = torch.zeros(()), 0
        for run in group:
            try:
                found = predictions(run, split)
                require(found is None or found.logits.isfinite().all(), f"{run.directory}: it predicted NaN.")
            except UserError as error:
                left_out.append(str(error))
                continue
            if found is None or not same(first := first or found, found):
                if split == "val":
                    return None
                left_out.append(f"{run.directory}: {'it is of other images' if found else 'it kept no predictions'}.")
                continue
            counts = counts if runs else np.zeros(found.logits.shape, np.int64)
            counts[np.arange(len(counts)), found.predicted.numpy()] += 1
            p, used = p + found.logits.double().softmax(1), used + 1
            runs.append(run)
        ensembles.append(float((p.argmax(1) == first.label).double().mean()) if first and used > 1 else None)
    return first and Votes(split, runs, first.index.numpy(), first.label.numpy(), counts, ensembles, left_out)
