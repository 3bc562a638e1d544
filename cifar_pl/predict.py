"""`cifar-pl predict RUN IMAGE|FOLDER...`: what a trained network predicts for your own files."""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cifar_pl.cli import command
from cifar_pl.data.pictures import File, collect, fit_square, load, readable
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

OVERLAY_SIDE = 256  # pixels


def main() -> None:
    """Print predictions as text, CSV or JSON; a UserError at the end counts the files that were skipped."""
    ask = _arguments()
    hardware.keep_memory()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice that size is refused
    run = saved.find(ask.run)
    top = min(3, len(run.classes)) if ask.top is None else ask.top
    require(1 <= top <= len(run.classes), f"--top {top}: from 1 to {len(run.classes)}, the number of classes.")
    if ask.cam is not None:
        rundir.require_empty(ask.cam)
    layer = ask.cam and (ask.layer or run.layers[0])  # else nothing is drawn
    files = [file for name in ask.images for file in collect(Path(name), run.classes)]
    read: list[File] = []
    logits: list[torch.Tensor] = []
    for batch, images in _batches(files, run):
        logits.append(run.logits(images, ask.tta))
        if ask.cam is not None:
            _write_overlays(ask.cam, len(read), batch, images, logits[-1], run, layer)
        read += batch
    require(read, "None of these files is a readable image.")
    p, likely = torch.cat(logits).softmax(1).topk(top, dim=1)
    rows = [
        {"path": str(path), "label": label, "top": [{"class": run.classes[n], "probability": q} for n, q in pairs]}
        for (path, label), pairs in zip(read, map(zip, likely.tolist(), p.tolist()), strict=True)
    ]
    sys.stdout.write(_table(ask.format, rows))
    _log_accuracy(read, torch.cat(logits), run.classes)
    skipped = len(files) - len(read)
    require(not skipped, f"{skipped} of {len(files)} files were skipped; each is named above.")


def _batches(files: Sequence[File], run: Saved) -> Iterator[tuple[list[File], torch.Tensor]]:
    """Readable files with their images, uint8 (N, 3, H, W); draws a progress bar on a terminal."""
    size, step = run.config["data"]["image_size"], run.config["data"]["batch_size"]
    bar = tqdm(total=len(files), disable=None)
    with ThreadPoolExecutor(hardware.cores()) as pool, logging_redirect_tqdm(), bar:
        for start in range(0, len(files), step):
            part = files[start : start + step]
            loaded = pool.map(lambda file: load(file.path, size), part)
            readable = [(file, image) for file, image in zip(part, loaded, strict=True) if image is not None]
            if readable:
                batch, pixels = zip(*readable, strict=True)
                yield list(batch), torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            bar.update(len(part))


def _table(format_: str, rows: Sequence[dict[str, Any]]) -> str:
    if format_ == "json":
        return json.dumps(rows, indent=1) + "\n"
    if format_ == "csv":
        tops = [{f"{k}_{n}": v for n, pair in enumerate(row["top"], 1) for k, v in pair.items()} for row in rows]
        return csv_text(["path", "label", *tops[0]], [{**row, **top} for row, top in zip(rows, tops, strict=True)])
    lines = ([row["path"], *map("{class} {probability:.1%}".format_map, row["top"])] for row in rows)
    return "".join("  ".join(line) + "\n" for line in lines)


def _write_overlays(
    folder: Path, before: int, files: Sequence[File], images: torch.Tensor, logits: torch.Tensor, run: Saved, layer: str
) -> None:
    """Write each image, cropped as for the network, next to the same with the heat map of the predicted class."""
    side = (OVERLAY_SIDE, OVERLAY_SIDE)
    maps = heat_maps(run.network, [layer], images, logits.argmax(1), run.device)[0]
    folder.mkdir(parents=True, exist_ok=True)
    for n, (file, heat) in enumerate(zip(files, maps, strict=True), start=before):
        with Image.open(file.path, formats=readable()) as image:
            pixels = fit_square(image, OVERLAY_SIDE)
        large = np.asarray(Image.fromarray(heat).resize(side, Image.Resampling.BILINEAR))
        pair = Image.fromarray(np.hstack([pixels, figures.overlay(pixels, large)]))
        pair.save(folder / f"{n:05d}-{file.path.stem}.png")


def _log_accuracy(files: Sequence[File], logits: torch.Tensor, classes: Sequence[str]) -> None:
    """Log accuracy and confusion of the files whose folder names their class."""
    rows = [n for n, file in enumerate(files) if file.label is not None]
    if not rows:
        return
    label = torch.tensor([classes.index(str(files[n].label)) for n in rows])
    counts = Predictions(logits[rows], label, torch.tensor(rows)).confusion(len(classes))
    right = int(counts.trace())
    low, high = interval(right, len(rows))
    log.info("%d of %d images right: %.2f %%", right, len(rows), 100 * right / len(rows))
    log.info("95 %% interval: %.2f to %.2f %%. True class down, predicted class across:", 100 * low, 100 * high)
    width = max(5, *(len(name) + 1 for name in classes))
    log.info("%s", " " * width + "".join(f"{name:>{width}}" for name in classes))
    for name, row in zip(classes, counts, strict=True):
        log.info("%s", f"{name:<{width}}" + "".join(f"{count:>{width}}" for count in row))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cifar-pl predict", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="run directory, a checkpoint in it, or latest")
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="files, and folders with all that is below")
    parser.add_argument("--top", type=int, help="classes per image (default 3)")
    parser.add_argument("--tta", action="store_true", help="mean of each image and its mirror image")
    parser.add_argument("--cam", type=Path, metavar="FOLDER", help="write heat maps of the predicted class there")
    parser.add_argument("--layer", help="layer of the heat maps; default: the run's own")
    parser.add_argument("--csv", dest="format", action="store_const", const="csv", help="instead of text")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="instead of text")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(command.script(main))
