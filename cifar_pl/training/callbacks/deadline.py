"""Warns that a run with `minutes=` will end later than planned."""

import logging
import time
from collections.abc import Callable

from pytorch_lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

LATE, SLACK = 1.1, 10.0  # times what was planned, and seconds: the first epoch bears what happens once


class Deadline(Callback):
    """Compares the time after every epoch with the plan, and warns once."""

    def __init__(self, planned: Callable[[int], float]) -> None:
        """`planned`: seconds from the first step to the end of an epoch, by its number from 1."""
        self._planned, self._warned = planned, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        spent, planned = time.monotonic() - self._start, self._planned(trainer.current_epoch + 1)
        if spent > LATE * planned + SLACK and not self._warned:
            self._warned = True
            log.warning("!! Training takes %.1f times as long as planned.", spent / planned)
