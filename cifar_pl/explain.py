"""`cifar-pl explain RUN`: the gallery and the page again, of other images, layers and methods."""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_pl.cli import command
from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import require
from cifar_pl.evaluation import cases, corruptions, gallery
from cifar_pl.evaluation.gradcam import METHODS
from cifar_pl.evaluation.predictions import SPLITS, Predictions
from cifar_pl.evaluation.slices import Slice
from cifar_pl.inference import copies, saved
from cifar_pl.inference.kept import explored
from cifar_pl.reporting import figures, page
from cifar_pl.runs import files, rundir

log = logging.getLogger(__name__)


def main() -> None:
    """Write `gallery.png`, `gallery.csv` and `report.html`, and `robustness.csv` if it is asked for."""
    ask = _arguments()
    for directory in filter(None, (ask.out, ask.copy_to)):
        rundir.require_empty(directory)
    require(ask.number > 0, f"--number {ask.number}: it must be at least 1.")
    require(ask.robustness is None or ask.robustness > 0, f"--robustness {ask.robustness}: it must be at least 1.")
    run = saved.find(ask.run)
    require(rundir.is_run(run.directory), f"{ask.run}: explaining needs the run that the checkpoint is of.")
    data = run.data()
    split = run.split(ask.split, data)
    pair = (run.number(ask.pair[0], "--pair"), run.number(ask.pair[1], "--pair")) if ask.pair else None
    require(
        pair is None or (pair[0] == pair[1]) == ask.correct,
        "--pair: two different classes, or twice the same with --correct.",
    )

    kept = {"val": run.validation is not None and not data.test_selected, "test": run.keeps_test}
    predictions = {name: run.predictions(name, data) for name in SPLITS if name == split or kept[name]}
    found = cases.select(predictions[split], len(data.images(split).labels), not ask.correct, ask.by, ask.seed, pair)
    chosen = found[: ask.number]
    what = f"{'correctly classified' if ask.correct else 'misclassified'} {SPLITS[split]} images"
    require(chosen, f"There are no {what}{' of this pair' if pair else ''} in epoch {run.epoch} of {run.directory}.")
    layers = ask.layers or run.layers
    order = {"confidence": "most confident", "loss": "highest loss", "random": f"random, seed {ask.seed}"}[ask.by]
    title = f"{len(chosen)} {what}, {order}, epoch {run.epoch}"
    images = data.pixels(split, [case.index for case in chosen])
    shown = gallery.explain(
        run.network, split, chosen, images, run.classes, title, layers, ask.method, run.device, data.mean
    )

    by = f"random{ask.seed}" if ask.by == "random" else ask.by
    named = map(copies.folder, ask.pair or ())
    which = [f"epoch{run.epoch}", split, "correct" if ask.correct else "wrong", *named, by, str(ask.number)]
    out = ask.out or run.directory / "explained" / "-".join([*which, *layers, ask.method])
    robust = list(_robustness(run, data, split, predictions[split], ask.robustness)) if ask.robustness else []
    if robust:
        files.write_csv(out / "robustness.csv", corruptions.COLUMNS, map(corruptions.row, robust))
    figure = figures.gallery(shown)
    if data.test_selected:
        figures.warn(figure)
    files.write(out / "gallery.png", figures.png(figure))
    files.write_csv(out / "gallery.csv", cases.COLUMNS, cases.rows(chosen, run.classes))
    known = explored(run.directory, data) if run.tested else None  # it is by the weights that the run tested
    page.write(run.directory, out / rundir.PAGE, run.facts, predictions, data, shown, known, robust)
    log.info("%s: %s", out, title)
    if ask.copy_to:
        copies.write(ask.copy_to, split, found, data)
        log.info("%s: all %d %s", ask.copy_to, len(found), what)


def _robustness(
    run: saved.Saved, data: DataModule, split: str, predictions: Predictions, number: int
) -> Iterator[Slice]:
    """The accuracy of up to `number` images of a split under each corruption, told as it is found."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(predictions.label))[:number])
    images = data.pixels(split, predictions.index.numpy()[chosen])

    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        return run.logits(torch.from_numpy(pixels).permute(0, 3, 1, 2)).argmax(1).numpy()

    for one in corruptions.measure(predict, images, predictions.label.numpy()[chosen]):
        log.info("%s %s: %.2f %% of %d images right", one.what, one.part, 100 * one.accuracy, one.n)
        yield one


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cifar-pl explain", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="run directory, a checkpoint in it, or latest")
    parser.add_argument("--split", choices=list(SPLITS), help="default: val, or test if nothing was held out")
    parser.add_argument("--number", type=int, default=25, help="images, at most (default 25)")
    parser.add_argument("--layers", nargs="+", help="one column each, such as layer2 layer3; default: the run's own")
    parser.add_argument("--method", choices=list(METHODS), default="gradcam")
    parser.add_argument("--by", choices=cases.ORDERS, default="confidence", help="which first (default: confidence)")
    parser.add_argument("--seed", type=int, default=0, help="seed of --by random")
    parser.add_argument("--pair", nargs=2, metavar=("TRUE", "PREDICTED"), help="only images of this pair of classes")
    parser.add_argument("--correct", action="store_true", help="images that were classified correctly")
    parser.add_argument("--copy-to", type=Path, metavar="DIR", help="copy all these images to DIR/TRUE/PREDICTED/")
    parser.add_argument(
        "--robustness", nargs="?", type=int, const=2000, metavar="N", help="and N images (2000) under eight corruptions"
    )
    parser.add_argument("--out", type=Path, help="directory; default: RUN/explained/...")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(command.script(main))
