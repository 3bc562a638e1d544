"""`minutes=`: the recipe and the number of epochs that fit into a budget of time."""

import gc
import logging
import math
import re
import shlex
import time
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import Callback, Trainer

from cifar_pl.config import checks, parts, place
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.images import number_held_out
from cifar_pl.errors import UserError, require
from cifar_pl.machine import processes
from cifar_pl.runs.overrides import TRAIN, key_of
from cifar_pl.training.costs import MAX_EPOCHS, Costs
from cifar_pl.training.range_test import throwaway_trainer

log = logging.getLogger(__name__)

RECIPE = re.compile(r"epochs\d+")  # in conf/experiment
WARM_UP = 5  # steps that are left out
STEPS = {"cpu": 20, "cuda": 100, "mps": 100}  # timed; a GPU's loader has the first ready before they are asked for
EVALUATION = 1 / 3  # of an image's time in training: the forward pass alone
MAP = 10.0  # seconds to compare the features of CIFAR-10's images and to place 2,000 of them on a map
ONCE = 15.0  # seconds of the start, before the plan, and of gallery, figures and page at the end


class Plan(NamedTuple):
    """What was chosen."""

    cfg: DictConfig
    overrides: list[str]  # compose `cfg`, and so repeat the run bit by bit
    costs: Costs
    epochs: int

    @property
    def minutes(self) -> float:
        """The expected length of the run."""
        return self.costs.total(self.epochs) / 60


def plan(cfg: DictConfig, typed: list[str], sweep: bool) -> Plan:
    """Time some steps at each size of images, and choose the recipe whose own length is nearest to what fits.

    `typed` are the other overrides. There is no recipe if an experiment is among them, or if every recipe contradicts
    them.
    """
    start, minutes = time.monotonic(), cfg.minutes
    _check(cfg, typed)
    options = _options(typed, sweep)
    data, small, full = _time_steps(cfg, typed)
    plans, least = list[tuple[float, Plan]](), math.inf
    for overrides, option in options:
        costs = _costs(option, data, small, full, time.monotonic() - start)
        least = min(least, costs.total(1) / 60)
        if epochs := costs.epochs(60 * minutes):
            own = ["minutes=null"] if option.minutes is not None else []  # of an experiment
            overrides = [*overrides, f"trainer.max_epochs={epochs}", *own]
            plans.append((abs(math.log(epochs / option.trainer.max_epochs)), Plan(option, overrides, costs, epochs)))
    least = math.ceil(100 * least) / 100
    require(plans, f"minutes={minutes}: a run of one epoch takes {least} minutes on this machine. Give that or more.")
    _, chosen = min(plans, key=lambda item: item[0])
    log.info(
        "minutes=%g: %.3g s per step, %.3g s with small images. Expected to take %.1f minutes: %s %s",
        *(minutes, full, small, chosen.minutes, TRAIN, shlex.join(chosen.overrides)),
    )
    return chosen._replace(cfg=_composed(chosen.overrides))


def _check(cfg: DictConfig, typed: list[str]) -> None:
    minutes = cfg.minutes
    number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    require(number and 0 < minutes < math.inf, f"minutes={minutes}: it must be a number above 0.")
    length = [o for o in typed if key_of(o) == "trainer.max_epochs"]
    require(not length, f"minutes={minutes} chooses the number of epochs: leave out {' '.join(length)}, or minutes.")
    require(
        processes.started() == 1 and checks.one_device(cfg.trainer.devices),
        f"minutes={minutes} plans runs of one process only: give trainer.max_epochs instead.",
    )
    require(not cfg.compile, f"minutes={minutes}: the time that compile=true takes cannot be planned. Leave one out.")


def _options(typed: list[str], sweep: bool) -> list[tuple[list[str], DictConfig]]:
    """Overrides and configs to choose from: every recipe that `typed` does not contradict, else `typed` alone."""
    names = [path.stem for path in (place.CONF / "experiment").glob("*.yaml") if RECIPE.fullmatch(path.stem)]
    found = []
    for name in [] if "experiment" in map(key_of, typed) else sorted(names):
        overrides = [f"experiment={name}", *typed]
        # Such as scheduler=plateau, which needs images that no recipe holds out.
        with suppress(UserError, HydraException, OmegaConfBaseException):
            option = compose(_config_name(), overrides)
            checks.check(option, sweep)
            found.append((overrides, option))
    if not found:
        option = compose(_config_name(), typed)
        checks.check(option, sweep)
        found.append((typed, option))
    return found


def _config_name() -> str:
    return HydraConfig.get().job.config_name or "config"


def _composed(overrides: list[str]) -> DictConfig:
    """The config with these overrides; `${hydra:runtime.choices...}` in it are its own."""
    composed = compose(_config_name(), overrides, return_hydra_config=True)
    runtime: Any = HydraConfig.get().runtime
    with read_write(runtime), open_dict(composed):
        runtime.choices = composed.pop("hydra").runtime.choices
    return composed


def _time_steps(cfg: DictConfig, typed: list[str]) -> tuple[DataModule, float, float]:
    """The images, and the seconds of a training step with small ones and at full size."""
    machine, seconds = parts.machine(cfg), []
    for share in (0.9, 0.0):
        timed = compose(_config_name(), [*typed, f"data.start_share={share}", f"trainer.max_epochs={MAX_EPOCHS}"])
        data = parts.data(timed, machine.accelerator)
        seconds.append(step_seconds(timed, machine, data))
        gc.collect()  # trainer and classifier hang in cycles, and with them the images
    return data, seconds[0], seconds[1]


def step_seconds(cfg: DictConfig, machine: parts.Machine, data: DataModule) -> float:
    """Seconds of a training step: the mean of `STEPS` after a warm-up, of a run that leaves nothing behind."""
    classifier = parts.spare(cfg, parts.network(cfg, data, machine.accelerator), data)
    steps = STEPS[machine.accelerator]
    timer = _Timer(steps)
    trainer = throwaway_trainer(
        **machine.one_device(),
        benchmark=parts.benchmark(cfg, machine.accelerator),
        max_steps=WARM_UP + steps,
        max_epochs=-1,
        callbacks=[timer],
    )
    trainer.fit(classifier, data.train_dataloader())
    return (timer.at[1] - timer.at[0]) / steps


class _Timer(Callback):
    """When the warm-up was done, and when all steps were."""

    def __init__(self, steps: int) -> None:
        self.at, self._marks = list[float](), (WARM_UP, WARM_UP + steps)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step in self._marks:
            if (kind := trainer.strategy.root_device.type) != "cpu":
                torch.get_device_module(kind).synchronize()
            self.at.append(time.monotonic())


def _costs(cfg: DictConfig, data: DataModule, small: float, full: float, planning: float) -> Costs:
    """The costs of a run with this config; `data` may be split in another way."""
    published = cfg.protocol == "published"
    images = data.size("train") + (0 if published else data.size("val"))
    share = cfg.data.val_size if cfg.data.fold is None else 1 / cfg.data.folds
    held_out = 0 if published else number_held_out(share, images)
    image = EVALUATION * full / cfg.data.batch_size
    validated, test = data.size("test") if published else held_out, data.size("test")
    explored = bool(cfg.callbacks.get("explore"))
    steps, limit = (images - held_out) // cfg.data.batch_size, cfg.trainer.get("limit_train_batches")
    return Costs(
        steps=min(steps, limit) if isinstance(limit, int) else steps,
        small=small,
        full=full,
        epoch=validated * image / cfg.trainer.check_val_every_n_epoch,
        once=planning + ONCE + MAP * explored + test * image * (2 if cfg.tta == "flip" else 1),
        start_share=cfg.data.start_share if cfg.data.start_scale < 1 else 0.0,
        finder=cfg.lr_finder.num_training if cfg.lr_finder.enabled else 0,
        image=image,
        passes=(images - held_out, test + held_out) if explored else (0, 0),
    )
