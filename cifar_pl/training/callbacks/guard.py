"""Stops a run that cannot end well, and warns of one that learns nothing."""

import logging
import math
import signal
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_pl.data.batches import Batch
from cifar_pl.errors import UserError
from cifar_pl.runs import rundir
from cifar_pl.training.callbacks.dashboard import data_of

log = logging.getLogger(__name__)

EVERY = 50  # steps: reading the loss of each would make a GPU wait
EARLY = 3  # epochs after which a network that learns is better than chance
SIGMAS = 3
LAST_STEPS = 10  # of the first epoch, whose mean loss is compared with that of guessing
FAR_ABOVE = 1.5  # times the loss of guessing


class Step(NamedTuple):
    """A step, counted from 1, its rate and its loss."""

    number: int
    lr: float
    loss: torch.Tensor


class Guard(Callback):
    """Every run has one. Ends it, before a checkpoint is written, where a loss or a weight is no finite number."""

    def __init__(self, run_dir: str | Path) -> None:
        """Name checkpoints of `run_dir`."""
        self._run_dir = Path(run_dir)
        self._steps: list[Step] = []
        self._highest = 0.0
        self._recent: deque[float] = deque(maxlen=LAST_STEPS)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Note the rate of this step."""
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._highest = max(self._highest, self._lr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Look at the loss: on a CPU at each, elsewhere at many together.

        Raises:
            UserError: one is NaN or infinite.
        """
        self._steps.append(Step(trainer.fit_loop.epoch_loop.total_batch_idx + 1, self._lr, outputs["loss"].detach()))
        if len(self._steps) >= EVERY or trainer.strategy.root_device.type == "cpu":
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last losses, at that of the validation, and at the weights after the last step.

        Raises:
            UserError: one is NaN or infinite.
        """
        self._look(trainer)
        whole = [torch.isfinite(value).all() for value in pl_module.state_dict().values() if value.is_floating_point()]
        if not torch.stack(whole).all():
            self._stop(trainer, "A weight is NaN or infinite after the last step", self._lr)
        if not torch.isfinite(trainer.callback_metrics.get("val/loss", torch.zeros(1))).all():
            self._stop(trainer, "The validation's loss is NaN or infinite after the last step", self._lr)
        if trainer.current_epoch == 0 and trainer.is_global_zero:
            self._warn_of_a_cliff(trainer)
        if trainer.current_epoch + 1 == EARLY and trainer.is_global_zero:
            self._warn(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning ignores every Ctrl-C after the first; a second one shall end the run at once."""
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _look(self, trainer: Trainer) -> None:
        if not self._steps:
            return
        losses = trainer.strategy.reduce(torch.stack([step.loss for step in self._steps]), reduce_op="mean")
        finite = torch.isfinite(torch.as_tensor(losses))
        if not finite.all():
            place = int(finite.int().argmin())
            first, loss = self._steps[place], float(torch.as_tensor(losses)[place])  # the mean of all processes
            self._stop(trainer, f"The loss became {loss} in step {first.number}", first.lr)
        self._recent.extend(torch.as_tensor(losses).tolist())
        self._steps.clear()

    def _stop(self, trainer: Trainer, what: str, lr: float) -> NoReturn:
        done, last = trainer.current_epoch, self._run_dir / rundir.LAST
        good = f"The last good checkpoint is {last}, of epoch {done}" if last.exists() else "There is no checkpoint yet"
        raise UserError(
            f"{what} (epoch {done + 1}), at a rate of {lr:.3g}. {good}. "
            "Lower optimizer.lr, or let lr_finder=range_test choose it."
        )

    def _warn_of_a_cliff(self, trainer: Trainer) -> None:
        """Say so if the first epoch ends far above the loss of guessing, and not because of an L1 term."""
        classes = len(data_of(trainer).load().classes)
        guessing, loss = math.log(classes), sum(self._recent) / len(self._recent)
        if loss > FAR_ABOVE * guessing and float(trainer.callback_metrics["train/acc"]) < 2 / classes:
            log.warning(
                "!! The first epoch ended at a training loss of %.2f; guessing has ln %d = %.2f. The rate, up to %.3g, "
                "is likely too high to begin with: lower optimizer.lr, warm up (scheduler.warmup=1), or let "
                "lr_finder=range_test choose.",
                loss,
                classes,
                guessing,
                self._highest,
            )

    def _warn(self, trainer: Trainer) -> None:
        """Say so where the training accuracy is what always naming the most frequent class would give."""
        data, acc = data_of(trainer), float(trainer.callback_metrics["train/acc"])
        chance = float(np.bincount(data.labels("train")).max() / len(data.labels("train")))
        images = trainer.num_training_batches * data.batch_size
        if acc <= chance + SIGMAS * (chance * (1 - chance) / images) ** 0.5:
            log.warning(
                "!! After %d epochs the training accuracy is %.1f%%: no better than always naming the most frequent "
                "class, %.1f%%. Try a lower rate (lr_finder=range_test chooses one), aug=none, and look whether the "
                "labels fit the images (figures/augmentations.png).",
                EARLY,
                100 * acc,
                100 * chance,
            )
