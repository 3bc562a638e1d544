"""The gallery: what the network got most confidently wrong, and where it looked."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from torch import nn

from cifar_pl.errors import require
from cifar_pl.evaluation import gallery
from cifar_pl.evaluation.gallery import Gallery
from cifar_pl.evaluation.gradcam import heat_maps
from cifar_pl.evaluation.predictions import SPLITS, Predictions, select
from cifar_pl.reporting import figures
from cifar_pl.runs import checkpoints, files, rundir
from cifar_pl.training.callbacks.dashboard import data_of, publish
from cifar_pl.training.classifier import Classifier

log = logging.getLogger(__name__)


class Misclassified(Callback):
    """Renders the gallery at the end of fit from validation images; after the test where there are none.

    The mistakes are read from what the validation of the best checkpoint's epoch said (of the last
    epoch, where no best is kept); only the heat maps run a network, a copy with that epoch's weights.
    Writes `figures/misclassified.png` and `misclassified.csv`, and keeps the gallery for the page. A
    failure here is logged and does not spoil the run.
    """

    def __init__(self, run_dir: str | Path, number: int = 25, layers: Sequence[str] = ("layer3",)) -> None:
        """Show up to `number` mistakes in `run_dir`, with heat maps of these `layers`."""
        require(number > 0, f"callbacks.misclassified.number={number}: it must be at least 1.")
        require(layers, "callbacks.misclassified.layers is empty: name at least one layer, such as layer3.")
        self._run_dir, self._number, self._layers = Path(run_dir), number, list(layers)
        self.gallery: Gallery | None = None

    def check(self, network: nn.Module, image: torch.Tensor) -> None:
        """Explain one image, uint8 (1, 3, H, W), so that layers are refused now, not after hours.

        Raises:
            UserError: a layer does not exist, or is too small.
        """
        heat_maps(network, self._layers, image, torch.tensor([0]), "cpu")

    def on_fit_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Explain the validation's mistakes."""
        if "val" not in pl_module.predictions or not trainer.is_global_zero:
            return
        network, predictions, epoch = pl_module.network, pl_module.predictions["val"], trainer.current_epoch
        best = self._run_dir / rundir.BEST
        if best.exists():
            checkpoint, network = checkpoints.read(best, network)
            predictions, epoch = Predictions(**checkpoint["predictions"]["val"]), checkpoint["epoch"] + 1
        split = "test" if data_of(trainer).test_selected else "val"
        self._render(trainer, network, predictions, split, f", epoch {epoch}")

    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Explain the test's mistakes, where there was no validation."""
        if "val" not in pl_module.predictions and trainer.is_global_zero:
            self._render(trainer, pl_module.network, pl_module.predictions["test"], "test", "")

    def _render(self, trainer: Trainer, network: nn.Module, predictions: Predictions, split: str, when: str) -> None:
        what = f"{SPLITS[split]} images{when}"
        try:
            classes = trainer.lightning_module.hparams["classes"]
            mistakes = select(predictions, self._number)
            files.write_csv(self._run_dir / "misclassified.csv", gallery.COLUMNS, gallery.as_rows(mistakes, classes))
            total = len(predictions.label)
            if not mistakes:
                log.info("No gallery: none of the %d %s is misclassified.", total, what)
                return
            wrong = int((predictions.logits.argmax(1) != predictions.label).sum())
            title = f"{len(mistakes)} most confidently wrong of {wrong} misclassified {what} (of {total})"
            images = data_of(trainer).pixels(split, [m.index for m in mistakes])
            device = trainer.strategy.root_device
            self.gallery = gallery.explain(
                network, split, mistakes, images, classes, title, self._layers, device=device
            )
            publish(trainer, self._run_dir, "misclassified", figures.explained(self.gallery))
        except Exception:
            log.exception("The gallery of misclassified images could not be drawn; everything else goes on.")
