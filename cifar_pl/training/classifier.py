"""The LightningModule: loss, metrics, optimizer and schedule around any network."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from cifar_pl.data.batches import Batch
from cifar_pl.errors import complete, require
from cifar_pl.evaluation.predictions import Predictions, with_mirror_images

Schedule = Callable[..., list[LRSchedulerConfigType]]


class Mean(Metric):
    """A sum over images divided by their number, over all processes.

    An update never waits for the device; that of torchmetrics' `MulticlassAccuracy` does, to look at the labels.
    """

    total: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: torch.Tensor, count: int) -> None:
        """Add the sum over `count` images."""
        self.total += total
        self.count += count

    def compute(self) -> torch.Tensor:
        """The mean, float32 ()."""
        return self.total / self.count


class Classifier(LightningModule):
    """Trains a network with cross-entropy; logs `split/loss` and `split/acc` for train, val and test.

    The loss of val and test is without label smoothing, so that it compares between recipes. After
    each validation and test `predictions[split]` holds what the network said; a checkpoint carries
    those of its epoch's validation.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        classes: Sequence[str],
        lr: float,
        label_smoothing: float = 0.0,
        l1: float = 0.0,
        tta: str = "none",
        seed: int = 0,
    ) -> None:
        """Wrap `network`.

        Args:
            network: uint8 images (B, 3, H, W) to logits (B, classes).
            optimizer: From parameters and `lr`.
            scheduler: From the optimizer, `epochs` and `total_steps`; see `schedulers`.
            classes: Names of the classes, in the order of the logits.
            lr: The learning rate, above 0.
            label_smoothing: Of the training loss, in [0, 1).
            l1: Factor of the sum of all absolute weights (not biases, nor those of batch norm) that is
                added to the training loss.
            tta: `flip` measures a second accuracy of the test, `test/acc_tta`, from the mean of the logits
                of each image and its mirror image; `none` does not.
            seed: Of the run: what dropout draws depends on it, epoch, batch and process.
        """
        super().__init__()
        require(lr > 0, f"optimizer.lr={lr}: it must be above 0.")
        require(0 <= label_smoothing < 1, f"classifier.label_smoothing={label_smoothing}: it must be in [0, 1).")
        require(l1 >= 0, f"classifier.l1={l1}: it must be 0 or more.")
        require(tta in ("none", "flip"), f"tta={tta}: none or flip.")
        require(isinstance(seed, int) and seed >= 0, f"classifier.seed={seed}: it must be a whole number, 0 or more.")
        self.network = network
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.save_hyperparameters({"lr": lr, "classes": list(classes)}, logger=False)
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self._label_smoothing, self._l1, self._seed = label_smoothing, l1, seed
        self.metrics = nn.ModuleDict()
        for split in ("train", "val", "test"):
            self.metrics[f"{split}/acc"], self.metrics[f"{split}/loss"] = Mean(), Mean()
        if tta == "flip":
            self.metrics["test/acc_tta"] = Mean()
        self.predictions: dict[str, Predictions] = {}
        self._seen: list[Predictions] = []

    def compile_training(self) -> None:
        """Let training run a compiled network, one graph for each size of images; evaluation stays as it is.

        A graph of all sizes would be slower, and evaluation is too short to pay for graphs of its own.
        """
        torch.compiler.reset()  # torch limits the graphs of a process, which may hold many runs
        self._compiled = torch.compile(self.network.forward, dynamic=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) to logits (B, classes)."""
        logits: torch.Tensor = self.network(image)
        return logits

    def metric(self, name: str) -> Mean:
        """The torchmetrics object behind `split/loss` or `split/acc`."""
        metric = self.metrics[name]
        assert isinstance(metric, Mean)
        return metric

    def _count(self, batch_idx: int, name: str, total: torch.Tensor, images: int) -> None:
        metric = self.metric(name)
        metric.update(total, images)
        if batch_idx == 0:  # Lightning keeps the metric and asks it when the epoch ends; to log it again is slow
            # to callbacks only: `EpochLog` gives it to the loggers, with the epoch as the x-axis
            self.log(name, metric, on_step=False, on_epoch=True, logger=False, prog_bar=True, batch_size=images)

    def _step(self, batch: Batch, batch_idx: int, split: str) -> torch.Tensor:
        logits = (self._compiled if self._compiled and split == "train" else self)(batch.image)
        smoothing = self._label_smoothing if split == "train" else 0.0
        loss = F.cross_entropy(logits.float(), batch.label, label_smoothing=smoothing)
        if split == "train":
            if self._l1:
                loss = loss + self._l1 * sum(p.abs().sum() for p in self.network.parameters() if p.dim() > 1)
            self._last_loss = loss.detach()
        images = len(batch.label)
        self._count(batch_idx, f"{split}/acc", _right(logits, batch.label), images)
        self._count(batch_idx, f"{split}/loss", loss.detach() * images, images)
        if split != "train":
            self._seen.append(Predictions(logits.float(), batch.label, batch.index))
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The loss of one batch."""
        return self._step(batch, batch_idx, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The same, measured."""
        return self._step(batch, batch_idx, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The same, on the test images; with test-time augmentation a second time, for a metric of its own."""
        loss = self._step(batch, batch_idx, "test")
        if "test/acc_tta" in self.metrics:
            logits = with_mirror_images(self, batch.image, self._seen[-1].logits)
            self._count(batch_idx, "test/acc_tta", _right(logits, batch.label), len(batch.label))
        return loss

    def on_train_epoch_start(self) -> None:
        """Forget an older epoch's validation: a checkpoint carries its own epoch's, or none."""
        self.predictions.pop("val", None)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let dropout draw what a resumed run would draw: at the epoch's start, loaders draw in between."""
        words = np.random.SeedSequence((self._seed, self.current_epoch, batch_idx, self.global_rank)).generate_state(1)
        # Of the CPU and of this device alone: `torch.manual_seed` asks every backend, which is slow.
        torch.default_generator.manual_seed(int(words[0]))
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(int(words[0]))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """On MPS the images lie as the network does; elsewhere they come so."""
        if self.device.type == "mps" and isinstance(batch, Batch):  # the model summary's example is images alone
            return batch._replace(image=batch.image.contiguous())
        return batch

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's predictions."""
        self._seen = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Keep what the network said."""
        self.predictions["val"] = self._all_seen()

    def on_test_epoch_end(self) -> None:
        """Keep what the network said."""
        self.predictions["test"] = self._all_seen()

    def _all_seen(self) -> Predictions:
        """Of all processes, in the order of the data set."""
        seen = [torch.cat(values) for values in zip(*self._seen, strict=True)]
        if self.trainer.world_size > 1:
            seen = [torch.cat(gather_all_tensors(values)) for values in seen]  # shares may differ in length
        order = seen[-1].argsort()
        return Predictions(*(values[order].cpu() for values in seen))

    def on_validation_end(self) -> None:
        """Step a plateau schedule, before this epoch's checkpoint is written."""
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                last = {"train/last_loss": self.trainer.strategy.reduce(self._last_loss, reduce_op="mean")}
                config.scheduler.step({**self.trainer.callback_metrics, **last}[str(config.monitor)])

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step every other schedule when Lightning says so."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """A fresh optimizer and schedule for the run that the trainer plans, at the rate of the first process.

        Raises:
            UserError: an argument of the optimizer or the schedule does not exist or is out of range.
        """
        self.hparams["lr"] = self.trainer.strategy.broadcast(self.hparams["lr"])
        optimizer = complete(self._optimizer, "optimizer", params=self.network.parameters(), lr=self.hparams["lr"])
        schedulers = complete(
            self._make_scheduler,
            "scheduler",
            optimizer=optimizer,
            epochs=self.trainer.max_epochs,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return [optimizer], schedulers

    def _optimizer(self, **known: Any) -> Optimizer:
        """On CUDA fused: one pass over the weights in place of one per operation. On a CPU it would change the bits."""
        cuda, clips = self.trainer.strategy.root_device.type == "cuda", bool(self.trainer.gradient_clip_val)
        if cuda and not clips:  # Lightning refuses both
            accepted = inspect.signature(self._make_optimizer).parameters
            if all(name in accepted and accepted[name].default is None for name in ("fused", "foreach")):
                known["fused"] = True
        return self._make_optimizer(**known)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the validation's predictions, as plain tensors."""
        checkpoint["predictions"] = {split: p._asdict() for split, p in self.predictions.items() if split == "val"}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""
        self.predictions |= {split: Predictions(**p) for split, p in checkpoint["predictions"].items()}


def _right(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """How many images the logits (B, classes) name rightly: int64 ()."""
    return (logits.argmax(1) == label).sum()
