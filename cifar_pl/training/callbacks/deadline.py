"""Warns that a run with `minutes=` will end later than planned."""

import logging
from collections.abc import Callable

from pytorch_lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

LATE = 0.1  # as a share of the training: the first epochs also bear what happens once


class Deadline(Callback):
    """Asks after every epoch how late the run will be, and warns once."""

    def __init__(self, lateness: Callable[[int], float]) -> None:
        """`lateness` of an epoch's number, from 1, is a share of the training."""
        self._lateness, self._warned = lateness, False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        late = self._lateness(trainer.current_epoch + 1)
        if late > LATE and not self._warned:
            self._warned = True
            log.warning("!! Training is slower than planned: at this speed it takes %.0f %% longer.", 100 * late)
