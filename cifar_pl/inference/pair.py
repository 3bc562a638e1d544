"""Two runs, opened side by side: their networks and what both predicted for the same images."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import UserError, require
from cifar_pl.evaluation.predictions import SPLITS, Predictions
from cifar_pl.inference import kept, saved
from cifar_pl.inference.saved import Saved
from cifar_pl.runs import record
from cifar_pl.runs.record import Record

log = logging.getLogger(__name__)

NOTHING = (
    "it kept no predictions, so there is nothing to compare. A finished run has those that callbacks.dashboard keeps, "
    "an interrupted one those of its last validation."
)


class Side(NamedTuple):
    """One of the two runs."""

    run: Record
    opened: Saved | None  # None without a checkpoint that this version can open
    classes: list[str]
    predictions: dict[str, Predictions]  # by split
    test_selected: bool


class Pair(NamedTuple):
    """Two runs, and the splits of which both have predictions for the same images, validation first."""

    sides: tuple[Side, Side]
    splits: list[str]
    data: DataModule | None  # None if the images are not on this machine


def find(directories: Sequence[Path]) -> Pair:
    """Open two run directories; a `UserError` that names them says why they cannot be compared image by image."""
    a, b = sides = (_side(directories[0]), _side(directories[1]))
    names = f"{directories[0]} and {directories[1]}"
    require(directories[0].resolve() != directories[1].resolve(), f"{names} are the same run.")
    sources = [str(side.run.config.get("data.source._target_")).rpartition(".")[2] for side in sides]
    require(sources[0] == sources[1], f"{names}: they are of other data, {sources[0]} and {sources[1]}.")
    require(a.classes == b.classes, f"{names}: they have other classes, {a.classes} and {b.classes}.")
    others = "images are not the same."
    shared = [split for split in SPLITS if split in a.predictions and split in b.predictions]
    splits = [split for split in shared if kept.same(a.predictions[split], b.predictions[split])]
    parts = [" and ".join(SPLITS[split] for split in side.predictions) for side in sides]
    require(shared, f"{names}: the first has predictions for {parts[0]}, the second for {parts[1]}; none to compare.")
    require(splits, f"{names}: their {' and '.join(SPLITS[split] for split in shared)} {others}")
    split = splits[0]
    index, label = a.predictions[split].index.numpy(), a.predictions[split].label.numpy()
    data = kept.images(a.run, split, index, label)
    roots = {side.run.config.get("data.source.root") for side in sides}
    if data and sources[0] == "image_folder" and len(roots) > 1 and (other := kept.images(b.run, split, index, label)):
        one, two = (d.pixels(split, index) for d in (data, other))
        require(one.shape != two.shape or (one == two).all(), f"{names}: their {SPLITS[split]} {others}")
    return Pair(sides, splits, data)


def _side(directory: Path) -> Side:
    run, opened = record.read(directory), None
    require(run.status != "unreadable", f"{directory}: {run.error}")
    try:
        opened = saved.find(str(directory))
    except (UserError, OSError) as error:
        log.warning("No heat maps: %s", error)
    found = {split: p for split in SPLITS if (p := kept.predictions(run, split)) is not None}
    published = run.config.get("protocol") == "published"
    if opened and opened.validation is not None:  # all that an unfinished run has
        found.setdefault("test" if published else "val", opened.validation)
    require(found, f"{directory}: {NOTHING}")
    classes = opened.classes if opened else list(run.summary["test"].get("acc_per_class", ()))
    fit = all(p.logits.shape[1] == len(classes) for p in found.values())
    require(fit, f"{directory}: its predictions are not for its {len(classes)} classes. It is damaged.")
    return Side(run, opened, classes, found, published)
