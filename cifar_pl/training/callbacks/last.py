"""The state after the last epoch, and when checkpoints reach the disk."""

import logging
import time
from typing import Any

from pydantic import NonNegativeFloat
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from cifar_pl.errors import UserError, checked
from cifar_pl.runs.checkpoints import AtomicCheckpoints

log = logging.getLogger(__name__)


class Last(ModelCheckpoint):
    """Keeps the state after every epoch in memory, and writes the latest one from time to time.

    The best checkpoint waits for it and is written just before: a run resumes from the last one, and a best one of
    a later epoch might never be reached again. Both are written after the first epoch, at the end, and if a signal
    or an exception ends the run.
    """

    @checked
    def __init__(self, every: NonNegativeFloat, **options: Any) -> None:
        """Write every `every` seconds at most; 0: after every epoch. `options` are those of `ModelCheckpoint`."""
        super().__init__(**options)
        self._every, self._next, self._files = every, 0.0, AtomicCheckpoints()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        files = trainer.strategy.checkpoint_io
        assert isinstance(files, AtomicCheckpoints)
        # Of several processes one may end the others in less time than a late write takes.
        self._files, files.holds = files, trainer.world_size == 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if time.monotonic() >= self._next:
            self._files.flush()
            self._next = time.monotonic() + self._every

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._files.flush()
        trainer.strategy.barrier()  # every process reads them next

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        try:
            self._files.flush()
        except UserError as error:  # such as a full disk; it must not hide the exception
            log.warning("!! %s", error)
