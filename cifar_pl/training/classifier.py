"""The LightningModule: loss, metrics, optimizer and schedule around any network."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.utilities.distributed import gather_all_tensors

from cifar_pl.data.batches import Batch
from cifar_pl.errors import checked, complete, require
from cifar_pl.evaluation.predictions import Predictions, with_mirror_images
from cifar_pl.training.metrics import Mean, correct

Schedule = Callable[..., list[LRSchedulerConfigType]]


class Classifier(LightningModule):
    """Trains a network with cross-entropy; logs `split/loss` and `split/acc` for train, val and test.

    The loss of val and test has no label smoothing, so that recipes can be compared by it. After each validation and
    test `predictions[split]` has the outputs; a checkpoint contains those of its epoch's validation.
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        classes: Sequence[str],
        lr: float,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        l1: NonNegativeFloat = 0.0,
        tta: Literal["none", "flip"] = "none",
        seed: NonNegativeInt = 0,
    ) -> None:
        """Wrap `network`.

        Args:
            network: uint8 images (B, 3, H, W) to logits (B, classes).
            optimizer: Called with parameters and `lr`.
            scheduler: Called with the optimizer, `epochs` and `total_steps`; see `schedulers`.
            classes: Names, in the order of the logits.
            lr: The learning rate.
            label_smoothing: Label smoothing of the training loss.
            l1: Factor of the sum of all absolute weights (not biases, nor those of batch norm) in the training loss.
            tta: With `flip` the test has a second accuracy, `test/acc_tta`, over each image and its mirror image.
            seed: What dropout draws depends on it, epoch, batch and process.
        """
        super().__init__()
        require(lr > 0, f"optimizer.lr={lr}: it must be above 0.")
        self.network = network
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.save_hyperparameters({"lr": lr, "classes": list(classes)}, logger=False)
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self._label_smoothing, self._l1, self._seed = label_smoothing, l1, seed
        names = [f"{split}/{name}" for split in ("train", "val", "test") for name in ("acc", "loss")]
        self.metrics = nn.ModuleDict({name: Mean() for name in [*names, *(["test/acc_tta"] if tta == "flip" else [])]})
        self.predictions: dict[str, Predictions] = {}
        self._seen: list[Predictions] = []

    def compile_training(self) -> None:
        """Train with a compiled network, one graph for each size of images; evaluation stays as it is.

        One graph for all sizes would be slower, and evaluation is too short to pay for graphs of its own.
        """
        torch.compiler.reset()  # torch limits the graphs of a process, which may hold many runs
        self._compiled = torch.compile(self.network.forward, dynamic=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(image)
        return logits

    def _count(self, batch_idx: int, name: str, total: torch.Tensor, images: int) -> None:
        metric: Any = self.metrics[name]
        metric.update(total, images)
        if batch_idx == 0:  # Lightning keeps the metric and computes it when the epoch ends; to log it again is slow
            # to callbacks only: `EpochLog` gives it to the loggers, with the epoch as the x-axis
            self.log(name, metric, on_step=False, on_epoch=True, logger=False, prog_bar=True, batch_size=images)

    def _step(self, batch: Batch, batch_idx: int, split: str) -> torch.Tensor:
        train, images = split == "train", len(batch.label)
        logits = (self._compiled if self._compiled and train else self)(batch.image)
        smoothing = self._label_smoothing if train else 0.0
        loss = F.cross_entropy(logits.float(), batch.label, label_smoothing=smoothing)
        if train:
            if self._l1:
                loss = loss + self._l1 * sum(p.abs().sum() for p in self.network.parameters() if p.dim() > 1)
            self._last_loss = loss.detach()
        self._count(batch_idx, f"{split}/acc", correct(logits, batch.label), images)
        self._count(batch_idx, f"{split}/loss", loss.detach() * images, images)
        if not train:
            self._seen.append(Predictions(logits.float(), batch.label, batch.index))
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self._step(batch, batch_idx, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self._step(batch, batch_idx, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = self._step(batch, batch_idx, "test")
        if "test/acc_tta" in self.metrics:
            logits = with_mirror_images(self, batch.image, self._seen[-1].logits)
            self._count(batch_idx, "test/acc_tta", correct(logits, batch.label), len(batch.label))
        return loss

    def on_train_epoch_start(self) -> None:
        self.predictions.pop("val", None)  # a checkpoint contains its own epoch's, or none

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # So that dropout draws what it would in a resumed run; at the epoch's start loaders would draw in between.
        words = np.random.SeedSequence((self._seed, self.current_epoch, batch_idx, self.global_rank)).generate_state(1)
        # Of the CPU and of this device alone: `torch.manual_seed` asks every backend, which is slow.
        torch.default_generator.manual_seed(int(words[0]))
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(int(words[0]))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # On MPS the images' memory format is the network's; elsewhere it is so already.
        if self.device.type == "mps" and isinstance(batch, Batch):  # the model summary's example is images alone
            return batch._replace(image=batch.image.contiguous())
        return batch

    def on_validation_epoch_start(self) -> None:
        self._seen = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        self.predictions["val"] = self._all_seen()

    def on_test_epoch_end(self) -> None:
        self.predictions["test"] = self._all_seen()

    def _all_seen(self) -> Predictions:
        """The predictions of all processes, sorted by image."""
        seen = [torch.cat(values) for values in zip(*self._seen, strict=True)]
        if self.trainer.world_size > 1:
            seen = [torch.cat(gather_all_tensors(values)) for values in seen]  # shares may differ in length
        order = seen[-1].argsort()
        return Predictions(*(values[order].cpu() for values in seen))

    def on_validation_end(self) -> None:
        # Here a plateau schedule steps before this epoch's checkpoint is written.
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                last = {"train/last_loss": self.trainer.strategy.reduce(self._last_loss, reduce_op="mean")}
                config.scheduler.step({**self.trainer.callback_metrics, **last}[str(config.monitor)])

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """A fresh optimizer and schedule for the run that the trainer plans, at the rate of the first process."""
        lr = self.hparams["lr"] = self.trainer.strategy.broadcast(self.hparams["lr"])
        optimizer = complete(self._optimizer, "optimizer", params=self.network.parameters(), lr=lr)
        length = {"epochs": self.trainer.max_epochs, "total_steps": int(self.trainer.estimated_stepping_batches)}
        return [optimizer], complete(self._make_scheduler, "scheduler", optimizer=optimizer, **length)

    def _optimizer(self, **known: Any) -> Optimizer:
        """On CUDA fused: one pass over the weights in place of one per operation. On a CPU it would change the bits."""
        cuda, clips = self.trainer.strategy.root_device.type == "cuda", bool(self.trainer.gradient_clip_val)
        # Lightning refuses fused and clipped. With fp16 a fused first step that overflows, as it mostly does, leaves
        # the momentum as memory that was never written (torch 2.14).
        if cuda and not clips and self.trainer.scaler is None:
            accepted = inspect.signature(self._make_optimizer).parameters
            if all(name in accepted and accepted[name].default is None for name in ("fused", "foreach")):
                known["fused"] = True
        return self._make_optimizer(**known)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["predictions"] = {split: p._asdict() for split, p in self.predictions.items() if split == "val"}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.predictions |= {split: Predictions(**p) for split, p in checkpoint["predictions"].items()}
