"""`pair.html`: two networks on the same images."""

import itertools
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_pl.errors import UserError
from cifar_pl.evaluation.gradcam import heat_maps
from cifar_pl.evaluation.metrics import difference, mcnemar
from cifar_pl.evaluation.predictions import SPLITS, Predictions
from cifar_pl.inference.pair import Pair, Side
from cifar_pl.reporting import figures, page, sprites, wall
from cifar_pl.runs import files

log = logging.getLogger(__name__)

PAGE = "pair.html"
WALL = 100  # images of a wall
EXPLAINED = 12


class Counts(NamedTuple):
    """How many images both networks, one of them alone, or neither gets right."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def p(self) -> float:
        """See `metrics.mcnemar`."""
        return mcnemar(self.only_a, self.only_b)

    @property
    def chance(self) -> str:
        """The p-value of McNemar's test, in words."""
        return f"p = {self.p:.2g}" if self.p >= 1e-4 else "p < 0.0001"

    @property
    def difference(self) -> tuple[float, float, float]:
        """Accuracy of B less that of A, with its interval; see `metrics.difference`."""
        return difference(self.both, self.only_b, self.only_a, self.neither)

    @property
    def verdict(self) -> str:
        """What the images say about the two networks, in a sentence."""
        if self.p >= 0.05:
            return "These images do not tell the two networks apart."
        return f"{'A' if self.only_a > self.only_b else 'B'} is the better network on images like these."


class Compared:
    """Two networks' predictions for the same N images."""

    def __init__(self, a: Predictions, b: Predictions) -> None:
        """Compare them."""
        self.index, self.label = a.index.numpy(), a.label.numpy()
        self.predicted = np.stack([p.predicted.numpy() for p in (a, b)])  # int64 (2, N)
        self.p = np.stack([p.logits.double().softmax(1).numpy() for p in (a, b)])  # (2, N, classes)
        self.apart = np.abs(self.p[0] - self.p[1]).sum(1) / 2  # total variation, in [0, 1]
        right_a, right_b = self.predicted == self.label
        self.group = 2 * ~right_a + ~right_b  # int64 (N,), the place in Counts

    def counts(self, label: int | None = None) -> Counts:
        """Of all images, or of one class."""
        which = slice(None) if label is None else self.label == label
        return Counts(*np.bincount(self.group[which], minlength=4).tolist())

    def walls(self) -> list[NDArray[np.int64]]:
        """The rows of each group: the most different first; where both are right or wrong, the least likely labels."""
        p = self.p[:, np.arange(len(self.label)), self.label].min(0)
        keys = (p, -self.apart, -self.apart, p)
        rows = [np.flatnonzero(self.group == n) for n in range(4)]
        return [r[np.argsort(key[r], kind="stable")] for r, key in zip(rows, keys, strict=True)]

    def explained(self) -> NDArray[np.int64]:
        """The rows of the images for which the two predict different classes, the most different first."""
        rows = np.flatnonzero(self.predicted[0] != self.predicted[1])
        return rows[np.argsort(-self.apart[rows], kind="stable")][:EXPLAINED]

    def verdicts(self, row: int, classes: Sequence[str]) -> list[str]:
        """Each network's prediction for an image, with its probability."""
        return [f"{classes[c]} {p[row, c]:.0%}" for c, p in zip(self.predicted[:, row].tolist(), self.p, strict=True)]

    def text(self, row: int, classes: Sequence[str]) -> str:
        """The class of an image and what they predict."""
        a, b = self.verdicts(row, classes)
        return f"{classes[self.label[row]]}: A says {a}, B {b}"


def write(out: Path, pair: Pair, typed: Sequence[str]) -> str:
    """Write the page of a pair into `out`; `typed` is what made it. Returns what it says, in short."""
    classes, runs = pair.sides[0].classes, [side.run for side in pair.sides]
    compared = {split: Compared(*(side.predictions[split] for side in pair.sides)) for split in pair.splits}
    split, shown = next(iter(compared.items()))
    by_class = [(name, shown.counts(n)) for n, name in enumerate(classes) if (shown.label == n).any()]
    text = page.render(
        "pair.html",
        name=" and ".join(run.directory.resolve().name for run in runs),
        sides=pair.sides,
        own=[[o for o in run.overrides if o not in other.overrides] for run, other in (runs, runs[::-1])],
        splits=SPLITS,
        split=split,
        counts={split: one.counts() for split, one in compared.items()},
        accuracy={split: [side.predictions[split].accuracy() for side in pair.sides] for split in compared},
        by_class=by_class,
        explained=_explained(pair, split, shown),
        shown=shown,
        classes=classes,
        overlay=figures.overlay,
        command=shlex.join(typed),
        out=out,
        **_walls(pair, split, shown),
    )
    files.write(out / PAGE, text)
    counts = shown.counts()
    return (
        f"{SPLITS[split]} images: {counts.both} both right, {counts.only_a} A alone, {counts.only_b} B alone, "
        f"{counts.neither} both wrong; {counts.chance}. {counts.verdict}"
    )


def _walls(pair: Pair, split: str, compared: Compared) -> dict[str, Any]:
    """A sheet with up to `WALL` images of each group, and the tiles of each; without images the numbers alone."""
    rows, classes = compared.walls(), pair.sides[0].classes
    if pair.data is None:
        return {"sheet": None, "walls": [[]] * len(rows)}
    cut = [of[:WALL] for of in rows]
    taken = np.concatenate(cut).tolist()
    sheet = sprites.sheet(pair.data.pixels(split, compared.index[taken]))
    called = [wall.name(pair.data, split, index) for index in compared.index[taken].tolist()]
    tiles = enumerate(f"{name}, {compared.text(row, classes)}" for name, row in zip(called, taken, strict=True))
    return {"sheet": sheet, "walls": [list(itertools.islice(tiles, len(of))) for of in cut]}


def _explained(pair: Pair, split: str, compared: Compared) -> dict[str, Any]:
    """The images on which they differ most, and the heat maps of each network, as far as there are any."""
    rows, sizes = compared.explained(), {side.run.config.get("data.image_size") for side in pair.sides}
    if pair.data is None or not len(rows) or len(sizes) > 1:
        return {}
    images = pair.data.pixels(split, compared.index[rows])
    maps = [_maps(side, images, of) for side, of in zip(pair.sides, compared.predicted[:, rows], strict=True)]
    called = [wall.name(pair.data, split, index) for index in compared.index[rows].tolist()]
    found = {"rows": rows.tolist(), "called": called, "images": images, "maps": maps}
    return found if any(of is not None for of in maps) else {}


def _maps(side: Side, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Where a network looked for its own prediction: float32 (N, H, W); None without network or layer."""
    if side.opened is None:
        return None
    network, layers, device = side.opened.network, side.opened.layers[:1], side.opened.device
    try:
        maps = heat_maps(network, layers, torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(classes), device)
        return np.asarray(maps[0])
    except UserError as error:
        log.warning("%s: no heat maps (%s)", side.run.directory, error)
        return None
