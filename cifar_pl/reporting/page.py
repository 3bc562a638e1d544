"""`report.html`: a run on one page that needs no network and no other file."""

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_pl.data.datamodule import DataModule
from cifar_pl.evaluation import calibration, cases, slices
from cifar_pl.evaluation.advice import advise
from cifar_pl.evaluation.features import Explored
from cifar_pl.evaluation.gallery import Gallery
from cifar_pl.evaluation.gradcam import METHODS
from cifar_pl.evaluation.metrics import confused, interval, scores
from cifar_pl.evaluation.predictions import SPLITS, Predictions
from cifar_pl.evaluation.slices import Slice
from cifar_pl.reporting import figures, wall
from cifar_pl.runs import files, rundir, summary
from cifar_pl.runs.monitors import TEST_SELECTED
from cifar_pl.runs.overrides import TRAIN, merged

PAIRS = 5  # most confused
SUSPECTS = 12  # shown per split; the table beside the page has all
PARTS = {"test": "test", "val": "training"}  # part of the source to which an index belongs
MAX_SIDE = 96  # pixels of a picture
MAX_PNG = 400_000  # bytes of the augmentations


def write(
    run_dir: Path,
    page: Path,
    facts: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
    data: DataModule,
    gallery: Gallery | None = None,
    explored: Explored | None = None,
    robustness: Sequence[Slice] = (),
) -> None:
    """Write the page of a run, and next to it `suspect_labels_<split>.csv`.

    Config, metrics, range test and augmentations come from `run_dir`; `facts` are the summary of a finished run, the
    status of another. Of predictions that were test-selected there is only `test`. What was `explored` must be of the
    weights that made them.
    """
    rows = summary.read_metrics(run_dir / rundir.METRICS)
    training = summary.training(rows)  # an unfinished run has no summary
    run = {**{key: training.get(key) for key in ("epochs", "seconds", "images_per_second")}, **facts}
    classes = data.load().classes
    calibrated = calibration.summary(predictions) if "test" in predictions else {}
    suspects = {split: cases.suspects(p) for split, p in predictions.items()}
    finder = files.read_json(run_dir / rundir.FINDER) if (run_dir / rundir.RANGE_TEST).exists() else None
    typed = run.get("planned", run.get("overrides", []))

    def again(*changes: str) -> str:
        return shlex.join([*TRAIN.split(), *merged(typed, list(changes))])

    augmentations = None
    if (path := run_dir / "figures/augmentations.png").exists():  # a PNG of photographs would be megabytes
        picture = Image.open(path).convert("RGB")
        augmentations = _url(picture, "PNG" if path.stat().st_size < MAX_PNG else "JPEG")
    text = render(
        "page.html",
        name=run_dir.resolve().name,
        run=run,
        selected=data.test_selected,
        splits=SPLITS,
        parts=PARTS,
        called=partial(wall.name, data),
        classes=classes,
        command=again(),
        advice=advise(str(run_dir), facts, rundir.read_config(run_dir), rows, finder, predictions, classes, again),
        config=(run_dir / rundir.CONFIG).read_text(encoding="utf-8"),
        results={split: _results(p, classes) for split, p in predictions.items()},
        calibration=calibrated,
        finder=finder,
        charts=_charts(run_dir, rows, finder, predictions.get("test"), calibrated.get("temperature")),
        augmentations=augmentations,
        wall=wall.collect(predictions, data, explored),
        bins=calibration.BINS,
        gallery=gallery,
        near=_near(explored, gallery.split) if explored and gallery else {},
        compared=explored.compared if explored else 0,
        labels=data.images("train").labels,
        methods=METHODS,
        overlay=figures.overlay,
        suspects={split: found for split, found in suspects.items() if found},
        doubted={split: {case.index: n for n, case in enumerate(found, 1)} for split, found in suspects.items()},
        shown=SUSPECTS,
        pixels=data.pixels,
        sliced=_slices(predictions, data, explored),
        chance=slices.chance,
        robustness=robustness,
    )
    files.write(page, text)
    for split, found in suspects.items():
        files.write_csv(page.with_name(f"suspect_labels_{split}.csv"), cases.COLUMNS, cases.rows(found, classes))


def render(template: str, **values: Any) -> str:
    """Fill one of this package's templates; in HTML all `values` are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_pl.reporting"),
        autoescape=jinja2.select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "tile": tile}
    return environment.get_template(template).render(values, TEST_SELECTED=TEST_SELECTED)


def tile(image: NDArray[np.uint8]) -> str:
    """An image, uint8 (H, W, 3), as a data URL: a small one as it is, another shrunk and as JPEG."""
    picture = Image.fromarray(image)
    small = max(picture.size) <= MAX_SIDE
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return _url(picture, "PNG" if small else "JPEG")


def _results(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    counts, n = predictions.confusion(len(classes)), len(predictions.label)
    return {
        "accuracy": predictions.accuracy(),
        "interval": interval(int(counts.trace()), n),
        "n": n,
        "scores": scores(counts, classes),
        "counts": counts.tolist(),
        # the root of the share of each true class, so that rare ones are seen too
        "shades": np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist(),
        "confused": confused(counts, PAIRS),
    }


def _near(explored: Explored, split: str) -> dict[int, list[tuple[int, float]]]:
    """By the index of each image of a split: its nearest training images and their cosine."""
    if (of := explored.neighbours.get(split)) is None:
        return {}
    columns = (array.tolist() for array in (of.index, of.near, of.similarity))
    return {index: list(zip(*found, strict=True)) for index, *found in zip(*columns, strict=True)}


def _slices(
    predictions: Mapping[str, Predictions], data: DataModule, explored: Explored | None
) -> tuple[str, list[list[Slice]], list[Slice]]:
    """A split, the test if it is there, and its images in fifths by each look, and by near-duplicates or not."""
    split = next((split for split in ("test", "val") if split in predictions), "")
    if not split:
        return split, [], []
    index, right = predictions[split].index.numpy(), (predictions[split].predicted == predictions[split].label).numpy()
    looks = (slices.fifths(name, values, right) for name, values in slices.looks(data.parts(split, index)).items())
    of = explored.neighbours.get(split) if explored else None
    twice = slices.duplicates(np.isin(index, of.index[of.duplicate]), right) if of else []
    return split, list(filter(None, looks)), twice


def _charts(
    run_dir: Path,
    rows: Sequence[Mapping[str, float]],
    finder: Mapping[str, Any] | None,
    test: Predictions | None,
    temperature: float | None,
) -> dict[str, str]:
    """Curves, range test and reliability as SVG, as far as the run has them."""
    charts = {}
    if rows:
        charts["curves"] = figures.curves(rows)
    if finder:
        curve = np.loadtxt(run_dir / rundir.RANGE_TEST, delimiter=",", skiprows=1, ndmin=2).T
        charts["finder"] = figures.lr_curve(list(curve), finder)
    if test is not None:
        bins = {"as trained": calibration.reliability(test)}
        if temperature is not None:
            bins[f"at temperature {temperature:.2f}"] = calibration.reliability(test, temperature)
        charts["reliability"] = figures.reliability(bins, "test images")
    return {name: figures.svg(figure, name) for name, figure in charts.items()}


def _url(picture: Image.Image, format_: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format_, optimize=True, quality=85)
    return f"data:image/{format_.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def _percent(share: float | None, digits: int = 1) -> str:
    return "n/a" if share is None or share != share else f"{share:.{digits}%}"


def _number(value: float | None, format_: str = ".3g") -> str:
    return "n/a" if value is None or value != value else f"{value:{format_}}"
