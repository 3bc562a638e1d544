"""`minutes=`: the recipe and the number of epochs that fit into a budget of time."""

import logging
import math
import re
import shlex
import time
from bisect import bisect_right
from typing import Any, Literal, NamedTuple

import torch
from hydra import compose
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer

from cifar_pl.config import checks, parts, schema
from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import require
from cifar_pl.machine import processes
from cifar_pl.runs.overrides import key_of
from cifar_pl.training import range_test

log = logging.getLogger(__name__)

RECIPE = re.compile(r"epochs\d+")  # in conf/experiment
WARM_UP, STEPS = 5, 20  # steps that are left out, and steps that are timed
EVALUATION = 1 / 3  # of an image's time in training: the forward pass alone
ONCE = 15.0  # seconds of the start, before the plan, and of gallery, figures and page at the end
MAX_EPOCHS = 1_000_000
FACTS = ("planned", "planned_minutes")  # of the summary: overrides that repeat the run, and its expected length


class Costs(NamedTuple):
    """What a run takes: steps of an epoch, and seconds."""

    steps: int
    small: float  # of a step with small images
    full: float  # of a step at full size
    epoch: float  # of an epoch besides its steps: validation
    once: float  # of everything else
    start_share: float  # of the epochs, rounded down, has small images
    finder: int | Literal["auto"] = 0  # steps of the range test

    def total(self, epochs: int) -> float:
        """Seconds of a run of so many epochs."""
        return self.until(epochs, epochs) + self.once

    def until(self, epoch: int, epochs: int) -> float:
        """Seconds of a run of `epochs` until the end of this epoch, counted from 1, without `once`."""
        start = math.floor(self.start_share * epochs + 1e-9)
        small = min(epoch, start)
        tested = range_test.steps(epochs * self.steps) if self.finder == "auto" else self.finder
        training = self.steps * (small * self.small + (epoch - small) * self.full)
        return training + tested * (self.small if start else self.full) + epoch * self.epoch

    def epochs(self, seconds: float) -> int:
        """The largest number of epochs whose `total` is within `seconds`; 0 if there is none."""
        return bisect_right(range(1, MAX_EPOCHS), seconds, key=self.total)


class Plan(NamedTuple):
    """What was chosen."""

    cfg: DictConfig
    overrides: list[str]  # compose `cfg`, and so repeat the run bit by bit
    costs: Costs
    made: float  # when, on the monotonic clock

    def facts(self) -> dict[str, Any]:
        """The values of `FACTS`."""
        minutes = self.costs.total(self.cfg.trainer.max_epochs) / 60
        return dict(zip(FACTS, (self.overrides, minutes), strict=True))

    def lateness(self, epoch: int) -> float:
        """How much later the run ends, as a share of its training, if all epochs are as slow as those until now."""
        return (time.monotonic() - self.made) / self.costs.until(epoch, self.cfg.trainer.max_epochs) - 1


def plan(cfg: DictConfig, typed: list[str], sweep: bool) -> Plan:
    """Time some steps at each size of images, and choose the recipe whose own length is nearest to what fits.

    `typed` are the other overrides; an experiment among them is kept.
    """
    start, minutes = time.monotonic(), cfg.minutes
    _check(cfg, typed, sweep)
    data, small, full = _time_steps(cfg, typed)
    recipes = [[]] if "experiment" in map(key_of, typed) else _recipes()
    options = []
    for overrides in ([*recipe, *typed] for recipe in recipes):
        option = compose("config", overrides)
        costs = _costs(option, data, small, full, time.monotonic() - start)
        epochs = costs.epochs(60 * minutes)
        distance = abs(math.log(max(epochs, 1) / option.trainer.max_epochs))
        options.append((epochs == 0, distance, overrides, costs, epochs))
    none, _, overrides, costs, epochs = min(options, key=lambda option: option[:2])
    least = min(option[3].total(1) for option in options) / 60
    require(not none, f"minutes={minutes}: a run of one epoch takes {least:.1f} on this machine. Give that or more.")
    overrides = [*overrides, f"trainer.max_epochs={epochs}"]
    log.info(
        "minutes=%g: %.3g s per step, %.3g s with small images. Expected to take %.1f minutes: python train.py %s",
        *(minutes, full, small, costs.total(epochs) / 60, shlex.join(overrides)),
    )
    return Plan(compose("config", overrides), overrides, costs, time.monotonic())


def _check(cfg: DictConfig, typed: list[str], sweep: bool) -> None:
    minutes = cfg.minutes
    number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    require(number and 0 < minutes < math.inf, f"minutes={minutes}: it must be a number above 0.")
    length = [o for o in typed if key_of(o) == "trainer.max_epochs"]
    require(not length, f"minutes={minutes} chooses the number of epochs: leave out {' '.join(length)}, or minutes.")
    require(
        processes.started() == 1 and cfg.trainer.devices in (1, "1"),
        f"minutes={minutes} plans runs of one process only: give trainer.max_epochs instead.",
    )
    checks.check(cfg, sweep)


def _recipes() -> list[list[str]]:
    names = [path.stem for path in (schema.CONF / "experiment").glob("*.yaml")]
    return [[f"experiment={name}"] for name in names if RECIPE.fullmatch(name)]


def _time_steps(cfg: DictConfig, typed: list[str]) -> tuple[DataModule, float, float]:
    """The images, and the seconds of a training step with small ones and at full size."""
    machine, seconds = parts.machine(cfg), []
    for share in (0.9, 0.0):
        timed = compose("config", [*typed, f"data.start_share={share}", f"trainer.max_epochs={MAX_EPOCHS}"])
        data = parts.data(timed, machine.accelerator)
        classifier = parts.spare(timed, parts.network(timed, data, machine.accelerator), data)
        timer = _Timer()
        trainer = Trainer(
            **machine.one_device(),
            max_steps=WARM_UP + STEPS,
            max_epochs=-1,
            callbacks=[timer],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(classifier, data.train_dataloader())
        seconds.append((timer.at[1] - timer.at[0]) / STEPS)
    return data, seconds[0], seconds[1]


class _Timer(Callback):
    """When the warm-up was done, and when all steps were."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step in (WARM_UP, WARM_UP + STEPS):
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self.at.append(time.monotonic())


def _costs(cfg: DictConfig, data: DataModule, small: float, full: float, planning: float) -> Costs:
    """The costs of a run with this config; `data` may be split in another way."""
    published = cfg.protocol == "published"
    images = data.size("train") + (0 if published else data.size("val"))
    held_out = 0 if published else cfg.data.val_size if cfg.data.fold is None else images // cfg.data.folds
    image = EVALUATION * full / cfg.data.batch_size
    validated = data.size("test") if published else held_out
    return Costs(
        steps=(images - held_out) // cfg.data.batch_size,
        small=small,
        full=full,
        epoch=validated * image / cfg.trainer.check_val_every_n_epoch,
        once=planning + ONCE + data.size("test") * image * (2 if cfg.tta == "flip" else 1),
        start_share=cfg.data.start_share if cfg.data.start_scale < 1 else 0.0,
        finder=cfg.lr_finder.num_training if cfg.lr_finder.enabled else 0,
    )
