"""The rate of a run: of its checkpoint, of a range test, or of the config."""

import copy
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from cifar_pl.config.build import build
from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import complete, require
from cifar_pl.reporting import figures
from cifar_pl.runs import checkpoints, files, rundir
from cifar_pl.training import lr_finder, schedulers
from cifar_pl.training.classifier import Classifier

log = logging.getLogger(__name__)

COLUMNS = ("lr", "loss", "smoothed")  # of lr_finder.csv


def choose(
    cfg: DictConfig, network: nn.Module, data: DataModule, trainer: dict[str, Any], run_dir: Path, measure: bool
) -> tuple[float, str]:
    """The rate and where it comes from.

    Args:
        cfg: Of the run.
        network: As it is initialised; it stays so.
        data: Loaded.
        trainer: Arguments of the range test's throw-away `Trainer`.
        run_dir: Where the range test's files are, or go.
        measure: Run the range test, if the config asks for one. Further processes do not: the classifier takes the
            first one's rate.

    Raises:
        UserError: the run goes on, and its checkpoint is damaged.
    """
    lr, source = float(cfg.optimizer.lr), "from the config"
    file = run_dir / rundir.FINDER
    if cfg.lr_finder.enabled and measure:
        if not cfg.resume:
            find(cfg, network, data, trainer, run_dir)
        if file.is_file():
            found = files.read_json(file)
            lr, source = found["lr"], found["source"]
    if cfg.resume:
        checkpoint, _ = checkpoints.read(run_dir / rundir.LAST, network)
        lr = checkpoint["hyper_parameters"]["lr"]
    return lr, source


def spare(cfg: DictConfig, network: nn.Module, data: DataModule) -> Classifier:
    """A classifier to throw away, with the range test's optimizer, around a copy of the network.

    Without the L1 term, which would lift the curve above the loss of guessing.
    """
    throwaway: Classifier = complete(
        build(cfg.classifier),
        "classifier",
        network=copy.deepcopy(network),
        optimizer=build(OmegaConf.create({**cfg.optimizer, **cfg.lr_finder.optimizer}), "lr_finder.optimizer"),
        scheduler=schedulers.constant,
        classes=data.load().classes,
        lr=float(cfg.optimizer.lr),
        l1=0.0,
    )
    return throwaway


def find(cfg: DictConfig, network: nn.Module, data: DataModule, trainer: dict[str, Any], run_dir: Path) -> None:
    """Range test: curve, suggestions and choice as CSV, JSON and picture.

    Where the curve is hopeless, the choice is a rate that did no harm in it, at most the configured one, with a loud
    warning; where the config asks for the report only (`lr_finder.apply=false`), it is the configured one.
    """
    asked, configured, loader = cfg.lr_finder, float(cfg.optimizer.lr), data.train_dataloader()
    method, total = asked.method, cfg.trainer.max_epochs * len(loader)
    require(method in lr_finder.METHODS, f"lr_finder.method={method}: one of {', '.join(lr_finder.METHODS)}.")
    stays = complete(
        schedulers.stays,
        "scheduler",
        schedule=build(cfg.scheduler),
        epochs=cfg.trainer.max_epochs,
        total_steps=total,
    )
    number = lr_finder.steps(total) if asked.num_training == "auto" else asked.num_training
    log.info("Learning-rate range test: %s steps from %g to %g", number, asked.min_lr, asked.max_lr)
    curve = lr_finder.measure(spare(cfg, network, data), loader, trainer, number, asked.min_lr, asked.max_lr)
    choice = lr_finder.choose(curve, len(data.load().classes), stays)
    lr, origin = configured, "from the config"
    if choice.suggestions:
        if asked.apply:
            lr, origin = choice.suggestions[method], f"range test, {method}"
        else:
            origin += f"; range test, {method}: {choice.suggestions[method]:.3g}"
        suggested = ", ".join(f"{name} {value:.3g}" for name, value in choice.suggestions.items())
        used = method if asked.apply else f"optimizer.lr={lr:g}"
        log.info("Range test: %s; used: %s; %s", suggested, used, choice.told)
    else:
        if asked.apply:
            lr = min(configured, choice.safe)
            origin = f"the lower of optimizer.lr={configured:g} and {choice.safe:.3g}, safe in the range test"
        log.warning("!! The range test found no rate: %s. Training uses %.3g (%s).", choice.told, lr, origin)
        origin += f"; the range test found none: {choice.told}"
    points = zip(curve.lr, curve.loss, curve.smooth, strict=True)
    rows = [{name: f"{value:.8g}" for name, value in zip(COLUMNS, point, strict=True)} for point in points]
    files.write_csv(run_dir / rundir.RANGE_TEST, COLUMNS, rows)
    figure = figures.lr_curve(curve.lr, curve.loss, curve.smooth, choice.suggestions, lr, choice.guessing, choice.band)
    files.write(run_dir / rundir.LR_FIGURE, figures.png(figure))
    files.write_json(run_dir / rundir.FINDER, {"lr": lr, "source": origin, **asdict(choice)})
