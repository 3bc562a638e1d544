"""The progress bar: loss, accuracy and images/s while training."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from cifar_pl.batches import Batch
from cifar_pl.classifier import Classifier


class Progress(TQDMProgressBar):
    """Lightning's tqdm bar; its numbers are read from the device only when the bar is drawn."""

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Start the clock."""
        super().on_train_epoch_start(trainer, *args)
        self._start, self._images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count, and draw now and then."""
        self._images += len(batch.label) * trainer.world_size
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar: of this epoch so far."""
        assert isinstance(pl_module, Classifier)
        if not trainer.training:
            return {}
        shown: dict[str, int | str | float | dict[str, float]] = {}
        if trainer.world_size == 1:  # with more, computing would wait for processes that draw no bar
            shown["loss"] = f"{float(pl_module.metric('train/loss').compute()):.3f}"
            shown["acc"] = f"{float(pl_module.metric('train/acc').compute()):.1%}"
        shown["images/s"] = f"{self._images / (time.perf_counter() - self._start):.0f}"
        return shown
