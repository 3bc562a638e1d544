"""`python -m cifar_pl.predict RUN IMAGE|FOLDER...`: what a trained network says of your own files."""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cifar_pl.cli import command
from cifar_pl.data.pictures import File, collect, fit_square, load
from cifar_pl.errors import require
from cifar_pl.evaluation.gradcam import heat_maps
from cifar_pl.evaluation.metrics import interval
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import saved
from cifar_pl.inference.saved import Saved
from cifar_pl.machine import hardware
from cifar_pl.reporting import figures
from cifar_pl.runs import rundir
from cifar_pl.runs.files import csv_text

log = logging.getLogger(__name__)

SHOWN = 256  # pixels of an overlay's side


def main() -> None:
    """Print what the network says, as text, CSV or JSON.

    Raises:
        UserError: there is nothing to look at, or files were skipped (each is named when it is met).
    """
    ask = _arguments()
    hardware.keep_memory()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice that size is refused
    run = saved.find(ask.run)
    top = min(3, len(run.classes)) if ask.top is None else ask.top
    require(1 <= top <= len(run.classes), f"--top {top}: from 1 to {len(run.classes)}, the number of classes.")
    if ask.cam is not None:
        rundir.require_empty(ask.cam)
    files = [file for name in ask.images for file in collect(Path(name), run.classes)]
    read: list[File] = []
    said: list[torch.Tensor] = []
    batch, size = run.config["data"]["batch_size"], run.config["data"]["image_size"]
    with (
        ThreadPoolExecutor(hardware.cores()) as pool,
        logging_redirect_tqdm(),
        tqdm(total=len(files), disable=None) as bar,
    ):
        for start in range(0, len(files), batch):
            some = files[start : start + batch]
            loaded = list(pool.map(lambda file: load(file.path, size), some))
            pixels = [p for p in loaded if p is not None]
            if pixels:
                images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
                now = [file for file, p in zip(some, loaded, strict=True) if p is not None]
                logits = run.logits(images, ask.tta)
                if ask.cam is not None:
                    _overlays(ask.cam, len(read), now, images, logits, run, ask.layer)
                read += now
                said.append(logits)
            bar.update(len(some))
    require(read, "None of these files is a readable image.")
    logits = torch.cat(said)
    sys.stdout.write(_table(ask.format, read, _top(logits, top, run.classes)))
    _score(read, logits, run.classes)
    skipped = len(files) - len(read)
    require(not skipped, f"{skipped} of {len(files)} files were skipped; each is named above.")


def _table(format_: str, files: Sequence[File], said: Sequence[Sequence[tuple[str, float]]]) -> str:
    """What was said of the files, as text, CSV or JSON."""
    if format_ == "json":
        entries = [
            {"path": str(path), "label": label, "top": [{"class": name, "probability": p} for name, p in top]}
            for (path, label), top in zip(files, said, strict=True)
        ]
        return json.dumps(entries, indent=1) + "\n"
    if format_ == "csv":
        columns = [
            "path",
            "label",
            *(f"{what}_{n + 1}" for n in range(len(said[0])) for what in ("class", "probability")),
        ]
        rows = [
            dict(zip(columns, [path, label, *(value for pair in pairs for value in pair)], strict=True))
            for (path, label), pairs in zip(files, said, strict=True)
        ]
        return csv_text(columns, rows)
    return "".join(
        f"{file.path}  {'  '.join(f'{name} {p:.1%}' for name, p in top)}\n"
        for file, top in zip(files, said, strict=True)
    )


def _top(logits: torch.Tensor, top: int, classes: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Of each row the most likely classes with their probabilities."""
    p, which = logits.softmax(1).topk(top, dim=1)
    return [
        [(classes[n], value) for n, value in zip(*row, strict=True)]
        for row in zip(which.tolist(), p.tolist(), strict=True)
    ]


def _overlays(
    folder: Path, before: int, files: Sequence[File], images: torch.Tensor, logits: torch.Tensor, run: Saved, layer: str
) -> None:
    """Each image, cropped as the network saw it, beside itself with the heat map of the predicted class."""
    maps = heat_maps(run.network, [layer], images, logits.argmax(1), run.device)[0]
    for n, (file, heat) in enumerate(zip(files, maps, strict=True), start=before):
        with Image.open(file.path) as image:
            pixels = fit_square(image, SHOWN)
        fine = np.asarray(Image.fromarray(heat).resize((SHOWN, SHOWN), Image.Resampling.BILINEAR))
        both = Image.fromarray(np.hstack([pixels, figures.overlay(pixels, fine)]))
        folder.mkdir(parents=True, exist_ok=True)
        both.save(folder / f"{n:05d}-{file.path.stem}.png")


def _score(files: Sequence[File], logits: torch.Tensor, classes: Sequence[str]) -> None:
    """Log accuracy and confusion of the files whose folder names their class."""
    rows = [n for n, file in enumerate(files) if file.label is not None]
    if not rows:
        return
    label = torch.tensor([classes.index(str(files[n].label)) for n in rows])
    known = Predictions(logits[rows], label, torch.tensor(rows))
    counts = known.confusion(len(classes))
    low, high = interval(int(counts.trace()), len(rows))
    log.info("%d of %d images right: %.2f %%", np.trace(counts), len(rows), 100 * known.accuracy())
    log.info("95 %% interval: %.2f to %.2f %%. True class down, predicted class across:", 100 * low, 100 * high)
    width = max(5, *(len(name) + 1 for name in classes))
    log.info("%s", " " * width + "".join(f"{name:>{width}}" for name in classes))
    for name, row in zip(classes, counts, strict=True):
        log.info("%s", f"{name:<{width}}" + "".join(f"{count:>{width}}" for count in row))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cifar_pl.predict", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="run directory, a checkpoint in it, or latest")
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="files, and folders with all that is below")
    parser.add_argument("--top", type=int, help="classes per image (default 3)")
    parser.add_argument("--tta", action="store_true", help="mean of each image and its mirror image")
    parser.add_argument("--cam", type=Path, metavar="FOLDER", help="write heat maps of the predicted class there")
    parser.add_argument("--layer", default="layer3", help="of the heat maps (default layer3)")
    parser.add_argument("--csv", dest="format", action="store_const", const="csv", help="instead of text")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="instead of text")
    parser.set_defaults(format="text")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(command.script(main))
