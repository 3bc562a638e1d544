"""The images of a run's page, which `templates/page.js` shows: every mistake, and the map of the test set."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.colors import to_hex

from cifar_pl.data.datamodule import DataModule
from cifar_pl.evaluation import cases
from cifar_pl.evaluation.calibration import binned
from cifar_pl.evaluation.cases import Case
from cifar_pl.evaluation.features import Explored
from cifar_pl.evaluation.predictions import SPLITS, Predictions
from cifar_pl.reporting import sprites
from cifar_pl.reporting.figures import COLORS

MOST = 4000  # mistakes on a page, which then stays below 4 MB


class Wall(NamedTuple):
    """The images that are on the page, each with a tile: first the mistakes, then what else is on the map."""

    sheet: sprites.Sheet | None  # without images None
    data: dict[str, Any]  # for page.js
    total: int  # of mistakes, of which `MOST` are shown


def collect(predictions: Mapping[str, Predictions], data: DataModule, explored: Explored | None = None) -> Wall:
    """The mistakes of all splits, the surest first, up to `MOST`, and the images that are on the map."""
    wrong = [(split, case) for split, p in predictions.items() for case in cases.select(p, len(p.label))]
    images = sorted(wrong, key=lambda found: -found[1].p_predicted)[:MOST]
    bins = {s: dict(zip(p.index.tolist(), binned(p)[1].tolist(), strict=True)) for s, p in predictions.items()}
    mistakes = len(images)
    spots: list[tuple[int, float, float]] = []
    if explored is not None and "test" in predictions:
        there = {case.index for split, case in images if split == "test"}
        others = [index for index in explored.mapped.tolist() if index not in there]
        images += [("test", case) for case in cases.of(predictions["test"], others)]
        tiles = {case.index: n for n, (split, case) in enumerate(images) if split == "test"}
        for index, place in zip(explored.mapped.tolist(), explored.place.tolist(), strict=True):
            spots.append((tiles[index], *(round(x, 4) for x in place)))
    classes = data.load().classes
    k = len(classes)
    pixels = (data.pixels(split, [case.index])[0] for split, case in images)
    sheet = sprites.sheet(pixels) if images else None
    values = {
        "classes": classes,
        # the figures' colours; if there are more classes than those, hues
        "colors": [to_hex(f"C{n}") if k <= COLORS else f"hsl({360 * n // k} 65% 55%)" for n in range(k)],
        "splits": [split for split in reversed(SPLITS) if split in predictions],  # the first unless one is asked for
        "columns": sheet.columns if sheet else 0,
        "mistakes": mistakes,
        "total": len(wrong),
        "images": [_row(split, case, name(data, split, case.index), bins[split][case.index]) for split, case in images],
        "map": spots,
    }
    return Wall(sheet, values, len(wrong))


def name(data: DataModule, split: str, index: int) -> str:
    """What an image is called: by its file if it has one, else by its index."""
    files = data.images(split).files
    text = "/".join(files[index].parts[-2:]) if files else f"image {index}"
    return text.encode(errors="backslashreplace").decode()  # a file's name may be any bytes


def _row(split: str, case: Case, called: str, bin_: int) -> list[Any]:
    """An image as page.js reads it; JSON has no NaN."""
    figures = (round(x, 4) if math.isfinite(x) else None for x in (case.p_predicted, case.loss))
    return [split, called, case.true, case.predicted, *figures, bin_]
