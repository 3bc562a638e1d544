"""The progress bar: loss, accuracy and images/s while training."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from cifar_pl.data.batches import Batch
from cifar_pl.training.classifier import Classifier

EVERY = 0.25  # seconds


class Progress(TQDMProgressBar):
    """Lightning's tqdm bar, drawn a few times a second, which is when its numbers are read from the device."""

    _drawn = -EVERY

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

    def _should_update(self, current: int, total: int) -> bool:
        """Whether to draw: Lightning would in every step, and the device would wait for it."""
        now = time.monotonic()
        if not self.is_enabled or (current != total and now - self._drawn < EVERY):
            return False
        self._drawn = now
        return True

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
