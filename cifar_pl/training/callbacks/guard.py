"""Ends a run that cannot end well, and warns of a rate that is too high to start with."""

import logging
import math
import signal
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_pl.data.batches import Batch
from cifar_pl.errors import UserError
from cifar_pl.runs import rundir

log = logging.getLogger(__name__)

EVERY = 50  # steps: a GPU would have to wait if the loss of each were read
LAST_STEPS = 10  # of the first epoch: their mean loss is compared with that of guessing
FAR_ABOVE = 1.5  # times the loss of guessing


class Guard(Callback):
    """Ends any run, before a checkpoint is written, if a loss or a weight is NaN or infinite.

    A run that had stopped early when it was killed is not trained on: Lightning forgets the stop.
    """

    def __init__(self, run_dir: str | Path) -> None:
        """Name the checkpoints of `run_dir` in messages."""
        self._run_dir = Path(run_dir)
        self._steps: list[tuple[int, float, torch.Tensor]] = []  # number from 1, rate, loss
        self._max_lr = 0.0
        self._recent: deque[float] = deque(maxlen=LAST_STEPS)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(stop.stopped_epoch for stop in trainer.early_stopping_callbacks):
            trainer.should_stop = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])  # now, before the schedule changes it
        self._max_lr = max(self._max_lr, self._lr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._steps.append((trainer.fit_loop.epoch_loop.total_batch_idx + 1, self._lr, outputs["loss"].detach()))
        if len(self._steps) >= EVERY or trainer.strategy.root_device.type == "cpu":
            self._check_losses(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_losses(trainer)
        weights = [value for value in pl_module.state_dict().values() if value.is_floating_point()]
        if not torch.stack([torch.isfinite(value).all() for value in weights]).all():
            self._stop(trainer, "A weight is NaN or infinite after the last step", self._lr)
        if not torch.isfinite(trainer.callback_metrics.get("val/loss", torch.zeros(1))).all():
            self._stop(trainer, "The validation's loss is NaN or infinite after the last step", self._lr)
        if trainer.current_epoch == 0 and trainer.is_global_zero:
            self._warn_of_a_cliff(float(trainer.callback_metrics["train/acc"]), len(pl_module.hparams["classes"]))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):  # Lightning ignores every further Ctrl-C
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _check_losses(self, trainer: Trainer) -> None:
        if not self._steps:
            return
        losses = torch.as_tensor(
            trainer.strategy.reduce(torch.stack([loss for *_, loss in self._steps]), reduce_op="mean")
        )
        finite = torch.isfinite(losses)
        if not finite.all():
            place = int(finite.int().argmin())
            number, lr, _ = self._steps[place]
            self._stop(trainer, f"The loss became {float(losses[place])} in step {number}", lr)
        self._recent.extend(losses.tolist())
        self._steps.clear()

    def _stop(self, trainer: Trainer, what: str, lr: float) -> NoReturn:
        done, last = trainer.current_epoch, self._run_dir / rundir.LAST
        good = f"The last good checkpoint is {last}, of epoch {done}" if last.exists() else "There is no checkpoint yet"
        raise UserError(
            f"{what} (epoch {done + 1}), at a rate of {lr:.3g}. {good}. "
            "Lower optimizer.lr, or let lr_finder=range_test choose it."
        )

    def _warn_of_a_cliff(self, accuracy: float, classes: int) -> None:
        """Warn if the first epoch ends far above the loss of guessing, and not because of an L1 term."""
        guessing, loss = math.log(classes), sum(self._recent) / len(self._recent)
        if loss > FAR_ABOVE * guessing and accuracy < 2 / classes:
            log.warning(
                f"!! The first epoch ended at a training loss of {loss:.2f}; guessing has ln {classes} = "
                f"{guessing:.2f}. The rate, up to {self._max_lr:.3g}, is likely too high to begin with: lower "
                "optimizer.lr, warm up (scheduler.warmup=1), or let lr_finder=range_test choose."
            )
