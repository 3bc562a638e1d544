"""Where a run's rate comes from: its config, a range test, or, if it is resumed, its checkpoint."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cifar_pl.errors import complete, require
from cifar_pl.reporting import figures
from cifar_pl.runs import checkpoints, files, rundir
from cifar_pl.training import lr_finder, schedulers
from cifar_pl.training.classifier import Classifier, Schedule

log = logging.getLogger(__name__)

CONFIGURED = "from the config"
COLUMNS = ("lr", "loss", "smoothed")  # of lr_finder.csv


def of_run(run_dir: Path, network: nn.Module) -> tuple[float, str]:
    """The rate of a run that is resumed, and its source; UserError if its checkpoint is damaged or not of `network`."""
    checkpoint = checkpoints.load(run_dir / rundir.LAST)
    checkpoints.load_network(run_dir / rundir.LAST, checkpoint, network)  # refuses another network's
    file = run_dir / rundir.FINDER
    return checkpoint["hyper_parameters"]["lr"], files.read_json(file)["source"] if file.is_file() else CONFIGURED


def find(
    spare: Classifier,
    loader: Any,
    trainer: dict[str, Any],
    schedule: Schedule,
    epochs: int,
    configured: float,
    run_dir: Path,
    *,
    method: str,
    apply: bool,
    num_training: int | str,
    min_lr: float,
    max_lr: float,
) -> tuple[float, str]:
    """Run the range test, and write its curve and its choice into `run_dir`, as CSV, JSON and picture.

    Args:
        spare: A classifier to throw away.
        loader: The training batches.
        trainer: Arguments of the trainer to throw away.
        schedule: Of the run, as are `epochs` and the `configured` rate.
        epochs: How many the run has.
        configured: The rate to train with if not `apply`; if the test finds none, the rate is not above it.
        run_dir: Where the files go.
        method: One of `lr_finder.METHODS`.
        apply: Train with the rate that is found, rather than only report it.
        num_training: Steps of the test, or `auto`.
        min_lr: First rate.
        max_lr: Last rate.

    Returns:
        The rate, and in words where it comes from.
    """
    require(method in lr_finder.METHODS, f"lr_finder.method={method}: one of {', '.join(lr_finder.METHODS)}.")
    total = epochs * len(loader)
    stays = complete(schedulers.stays, "scheduler", schedule=schedule, epochs=epochs, total_steps=total)
    number = lr_finder.steps(total) if num_training == "auto" else num_training
    log.info("Learning-rate range test: %s steps from %g to %g", number, min_lr, max_lr)
    curve = lr_finder.measure(spare, loader, trainer, number, min_lr, max_lr)  # type: ignore[arg-type]
    choice = lr_finder.choose(curve, len(spare.hparams["classes"]), stays)
    lr, source = configured, CONFIGURED
    if choice.suggestions:
        if apply:
            lr, source = choice.suggestions[method], f"range test, {method}"
        else:
            source += f"; range test, {method}: {choice.suggestions[method]:.3g}"
        suggested = ", ".join(f"{name} {value:.3g}" for name, value in choice.suggestions.items())
        used = method if apply else f"optimizer.lr={lr:g}"
        log.info("Range test: %s; used: %s; %s", suggested, used, choice.told)
    else:
        if apply:
            lr = min(configured, choice.safe)
            source = f"the lower of optimizer.lr={configured:g} and {choice.safe:.3g}, safe in the range test"
        log.warning("!! The range test found no rate: %s. Training uses %.3g (%s).", choice.told, lr, source)
        source += f"; the range test found none: {choice.told}"
    points = zip(curve.lr, curve.loss, curve.smooth, strict=True)
    rows = [{name: f"{value:.8g}" for name, value in zip(COLUMNS, point, strict=True)} for point in points]
    files.write_csv(run_dir / rundir.RANGE_TEST, COLUMNS, rows)
    figure = figures.lr_curve(curve.lr, curve.loss, curve.smooth, choice.suggestions, lr, choice.guessing, choice.band)
    files.write(run_dir / rundir.LR_FIGURE, figures.png(figure))
    files.write_json(run_dir / rundir.FINDER, {"lr": lr, "source": source, **asdict(choice)})
    return lr, source
