"""Where a run's rate comes from: its config, a range test, or, if it is resumed, its checkpoint."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cifar_pl.errors import complete
from cifar_pl.reporting import figures
from cifar_pl.runs import checkpoints, files, rundir
from cifar_pl.training import lr_finder, range_test, schedulers
from cifar_pl.training.classifier import Classifier, Schedule
from cifar_pl.training.lr_finder import Choice
from cifar_pl.training.range_test import RangeTest

log = logging.getLogger(__name__)

CONFIGURED = "from the config"
COLUMNS = ("lr", "loss", "smoothed")  # of lr_finder.csv


def of_run(run_dir: Path, network: nn.Module) -> tuple[float, str]:
    """The rate of a run that is resumed, and its source; a damaged checkpoint, or another network's, is refused."""
    checkpoint = checkpoints.load(run_dir / rundir.LAST)
    checkpoints.load_network(run_dir / rundir.LAST, checkpoint, network)
    file = run_dir / rundir.FINDER
    return checkpoint["hyper_parameters"]["lr"], files.read_json(file)["source"] if file.is_file() else CONFIGURED


def find(
    asked: RangeTest,
    spare: Classifier,
    loader: Any,
    trainer: dict[str, Any],
    schedule: Schedule,
    epochs: int,
    configured: float,
    run_dir: Path,
) -> tuple[float, str]:
    """Run the range test with a classifier and a trainer to throw away, and write its files into `run_dir`.

    Returns:
        The run's rate, `configured` if the result is not applied, and in words where it comes from.
    """
    total = epochs * len(loader)
    stays = complete(schedulers.stays, "scheduler", schedule=schedule, epochs=epochs, total_steps=total)
    number = range_test.steps(total) if asked.num_training == "auto" else asked.num_training
    log.info("Learning-rate range test: %d steps from %g to %g", number, asked.min_lr, asked.max_lr)
    curve = range_test.measure(spare, loader, trainer, number, asked.min_lr, asked.max_lr)
    choice = lr_finder.choose(curve, len(spare.hparams["classes"]), stays)
    lr, source = _decide(asked, choice, configured)
    points = zip(curve.lr, curve.loss, curve.smooth, strict=True)
    rows = [{name: f"{value:.8g}" for name, value in zip(COLUMNS, point, strict=True)} for point in points]
    files.write_csv(run_dir / rundir.RANGE_TEST, COLUMNS, rows)
    finder = {"lr": lr, "source": source, **asdict(choice)}
    files.write_json(run_dir / rundir.FINDER, finder)
    figure = figures.lr_curve((curve.lr, curve.loss, curve.smooth), finder)
    files.write(run_dir / rundir.LR_FIGURE, figures.png(figure))
    return lr, source


def _decide(asked: RangeTest, choice: Choice, configured: float) -> tuple[float, str]:
    lr, source = configured, CONFIGURED
    if choice.suggestions:
        found = choice.suggestions[asked.method]
        if asked.apply:
            lr, source = found, f"range test, {asked.method}"
        else:
            source += f"; range test, {asked.method}: {found:.3g}"
        suggested = ", ".join(f"{name} {value:.3g}" for name, value in choice.suggestions.items())
        used = asked.method if asked.apply else f"optimizer.lr={lr:g}"
        log.info("Range test: %s; used: %s; %s", suggested, used, choice.told)
    else:
        if asked.apply:
            lr = min(configured, choice.safe)
            source = f"the lower of optimizer.lr={configured:g} and {choice.safe:.3g}, safe in the range test"
        log.warning("!! The range test found no rate: %s. Training uses %.3g (%s).", choice.told, lr, source)
        source += f"; the range test found none: {choice.told}"
    return lr, source
