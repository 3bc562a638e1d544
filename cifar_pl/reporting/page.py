"""`report.html`: a run on one page that needs nothing else, neither network nor other files."""

import base64
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_pl.evaluation import calibration
from cifar_pl.evaluation.gallery import COLUMNS, Gallery, as_rows
from cifar_pl.evaluation.predictions import SPLITS, Case, Predictions, confused, interval, scores, suspects
from cifar_pl.reporting import figures
from cifar_pl.runs import files, rundir, summary

PAIRS = 5  # most confused
DOUBTS = 12  # suspect labels shown per split; the whole list is in a table beside the page
LARGEST = 96  # pixels of a picture's side; smaller ones stay as they are
GRID = 400_000  # bytes
PARTS = {"test": "test", "val": "training"}  # of the source, whose rows the indices are
METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM"}

Pixels = Callable[[str, Sequence[int]], NDArray[np.uint8]]


def write(
    run_dir: Path,
    page: Path,
    facts: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
    classes: Sequence[str],
    pixels: Pixels,
    gallery: Gallery | None = None,
    test_selected: bool = False,
) -> None:
    """Write the page of a run, finished or not, and beside it `suspect_labels_<split>.csv`.

    Args:
        run_dir: What is in it is shown: config, metrics, range test, augmentations.
        page: Where the page goes.
        facts: The run's summary, or its status where it is not finished.
        predictions: Of the validation, the test, or both; where the test images were the validation, `test` alone.
        classes: Names.
        pixels: From a split and indices to uint8 (N, H, W, 3), as `DataModule.pixels`.
        gallery: What to show of it.
        test_selected: The test images were the validation, and the page says so.
    """
    rows = summary.read_metrics(run_dir / rundir.METRICS)
    known = ("epochs", "seconds", "images_per_second")  # of an unfinished run, too
    run = {**{key: value for key, value in summary.training(rows).items() if key in known}, **facts}
    finder = files.read_json(run_dir / rundir.FINDER) if (run_dir / rundir.RANGE_TEST).exists() else None
    calibrated = calibration.summary(predictions) if "test" in predictions else {}
    doubted = {split: suspects(p) for split, p in predictions.items()}
    text = render(
        "page.html",
        name=run_dir.resolve().name,
        run=run,
        selected=test_selected,
        splits=SPLITS,
        parts=PARTS,
        classes=classes,
        command=shlex.join(["python", "train.py", *run.get("overrides", [])]),
        config=(run_dir / rundir.CONFIG).read_text(encoding="utf-8"),
        accuracy={split: _accuracy(p) for split, p in predictions.items()},
        per_class={s: _per_class(p, classes) for s, p in predictions.items()},
        calibration=calibrated,
        finder=finder,
        charts=_charts(run_dir, rows, finder, predictions.get("test"), calibrated.get("temperature")),
        augmentations=_grid(run_dir / "figures/augmentations.png"),
        gallery=gallery,
        methods=METHODS,
        overlay=figures.overlay,
        doubted={s: (len(found), _doubts(s, found[:DOUBTS], pixels)) for s, found in doubted.items()},
    )
    files.write(page, text)
    for split, found in doubted.items():
        files.write_csv(page.with_name(f"suspect_labels_{split}.csv"), COLUMNS, as_rows(found, classes))


def render(template: str, **values: Any) -> str:
    """A page by one of this package's templates; whatever stands in `values` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_pl.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "number": _number, "tile": tile}
    return environment.get_template(template).render(values)


def tile(image: NDArray[np.uint8]) -> str:
    """An image, uint8 (H, W, 3), as a data URL: as it is where it is small, else shrunk and as JPEG."""
    picture = Image.fromarray(image)
    small = max(picture.size) <= LARGEST
    picture.thumbnail((LARGEST, LARGEST))
    return _url(picture, "PNG" if small else "JPEG")


def _charts(
    run_dir: Path,
    rows: Sequence[Mapping[str, float]],
    finder: Mapping[str, Any] | None,
    test: Predictions | None,
    temperature: float | None,
) -> dict[str, str]:
    """Curves, range test and reliability, as far as the run has them, as SVG."""
    charts = {}
    if rows:
        charts["curves"] = figures.curves(rows)
    if finder:
        lr, loss, smooth = np.loadtxt(run_dir / rundir.RANGE_TEST, delimiter=",", skiprows=1, ndmin=2).T
        shown = (finder["suggestions"], finder["lr"], finder.get("guessing"), finder.get("band"))
        charts["finder"] = figures.lr_curve(lr, loss, smooth, *shown)
    if test is not None:
        bins = {"as trained": calibration.reliability(test)}
        if temperature is not None:
            bins[f"at temperature {temperature:.2f}"] = calibration.reliability(test, temperature)
        charts["reliability"] = figures.reliability(bins, "test images")
    return {name: figures.svg(figure, name) for name, figure in charts.items()}


def _accuracy(predictions: Predictions) -> tuple[float, tuple[float, float], int]:
    share, n = predictions.accuracy(), len(predictions.label)
    return share, interval(share, n), n


def _per_class(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    counts = predictions.confusion(len(classes))
    return {
        "scores": scores(counts, classes),
        "counts": counts.tolist(),
        # the root of each true class's share, so that what is rare is seen as well
        "shades": np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist(),
        "confused": confused(counts, PAIRS),
    }


def _doubts(split: str, found: Sequence[Case], pixels: Pixels) -> list[tuple[Case, NDArray[np.uint8]]]:
    return list(zip(found, pixels(split, [case.index for case in found]), strict=True)) if found else []


def _grid(path: Path) -> str | None:
    """The picture of the augmentations; as JPEG where the images are photographs, whose PNG would be megabytes."""
    if not path.exists():
        return None
    picture = Image.open(path).convert("RGB")
    return _url(picture, "PNG" if path.stat().st_size < GRID else "JPEG")


def _url(picture: Image.Image, format_: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format_, optimize=True, quality=85)
    return f"data:image/{format_.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def _percent(share: float | None, digits: int = 1) -> str:
    return "n/a" if share is None or share != share else f"{share:.{digits}%}"


def _number(value: float | None, format_: str = ".3g") -> str:
    return "n/a" if value is None or value != value else f"{value:{format_}}"
