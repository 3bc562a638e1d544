"""The losses of a run's first steps, by which `verify` finds out whether a machine repeats it."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_pl.data.batches import Batch
from cifar_pl.machine import hardware
from cifar_pl.runs import files, summary

STEPS = 20


class FirstSteps(Callback):
    """Records the training loss of the first steps of any run, with the rate and the hardware.

    The losses are kept in the checkpoint, because an epoch may have fewer steps.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Write into `file`; without one, end the training after these steps."""
        self._file = file
        self.losses: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = list(state_dict["losses"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if len(self.losses) == STEPS:
            return
        loss = trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")
        self.losses.append(float(torch.as_tensor(loss)))
        complete = len(self.losses) == STEPS
        if self._file is None:
            trainer.should_stop |= complete
        elif (complete or trainer.is_last_batch) and trainer.is_global_zero:
            record = {"losses": self.losses, "lr": pl_module.hparams["lr"], "on": self.on(trainer)}
            files.write_json(self._file, record)

    @staticmethod
    def on(trainer: Trainer) -> dict[str, Any]:
        """What the losses depend on besides the config: processor, GPU, threads, precision, versions, commit."""
        origin, device = summary.provenance(), trainer.strategy.root_device
        here = {**hardware.describe(device.index or 0), "accelerator": device.type, "precision": trainer.precision}
        return {**here, **origin["versions"], "git": origin["git"]}
