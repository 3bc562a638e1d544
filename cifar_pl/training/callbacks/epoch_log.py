"""One row per epoch: to metrics.csv, to the log and to every logger, with the epoch as the x-axis."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_pl.data.batches import Batch
from cifar_pl.runs import files, rundir
from cifar_pl.runs.monitors import TEST_SELECTED

log = logging.getLogger(__name__)

COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr", "images_per_second", "seconds")


class EpochLog(Callback):
    """Collects and writes the rows. They are kept in the checkpoint, so a resumed run continues its file.

    Columns: `epoch` from 1; losses; accuracies in [0, 1], that of train a running mean over augmented images; `lr`,
    the rate of the epoch's last step; `images_per_second` in training, of all processes together; `seconds` of the
    epoch with its validation. What was not validated is empty.
    """

    def __init__(self, run_dir: str | Path) -> None:
        """Write into `run_dir`."""
        self._path = Path(run_dir) / rundir.METRICS
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = self._trained = time.perf_counter()
        self._images = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])  # now, before the schedule changes it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.label) * trainer.world_size
        if trainer.is_last_batch and trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # or steps that wait for the GPU would count as done
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name in COLUMNS}
        if not trainer.fit_loop.epoch_loop._should_check_val_epoch():
            values = {name: value for name, value in values.items() if not name.startswith("val/")}  # of an older epoch
        values |= {
            "lr": self._lr,
            "images_per_second": self._images / (self._trained - self._start),
            "seconds": time.perf_counter() - self._start,
        }
        epoch = trainer.current_epoch + 1
        for logger in trainer.loggers:
            logger.log_metrics(values, step=epoch)
        self.rows.append({"epoch": epoch, **values})
        if trainer.is_global_zero:
            files.write_csv(self._path, COLUMNS, self.rows)
            selected = getattr(trainer.datamodule, "test_selected", False)  # type: ignore[attr-defined]
            line = as_line(self.rows[-1], trainer.max_epochs or 0)
            log.info("%s", line + (f" | {TEST_SELECTED}" if selected else ""))


def as_line(row: dict[str, float], max_epochs: int) -> str:
    """A row as one line of the log, with the time left."""
    parts = [f"epoch {row['epoch']}/{max_epochs}"]
    parts += [
        f"{split} loss {row[f'{split}/loss']:.4f} acc {row[f'{split}/acc']:.2%}"
        for split in ("train", "val")
        if f"{split}/acc" in row
    ]
    parts += [f"lr {row['lr']:.3g}", f"{row['images_per_second']:.0f} images/s", f"{row['seconds']:.0f} s"]
    left = (max_epochs - row["epoch"]) * row["seconds"]
    return " | ".join(parts + ([f"{left / 60:.0f} min left"] if left else []))
