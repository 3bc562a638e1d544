"""The gallery: what the network got most confidently wrong, and where it looked."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from pytorch_lightning import Callback, Trainer
from torch import nn

from cifar_pl.errors import checked
from cifar_pl.evaluation import cases, gallery
from cifar_pl.evaluation.gradcam import heat_maps, last_map
from cifar_pl.evaluation.predictions import SPLITS, Predictions
from cifar_pl.reporting import figures
from cifar_pl.runs import checkpoints, files, rundir
from cifar_pl.training.callbacks.dashboard import data_of, publish
from cifar_pl.training.classifier import Classifier

log = logging.getLogger(__name__)

Layers = Literal["auto"] | Annotated[Sequence[str], Field(min_length=1)]


class Misclassified(Callback):
    """Makes the gallery at the end of fit from validation images; after the test if there are none.

    The mistakes are those of the validation of the best checkpoint's epoch (of the last epoch if no best one is
    kept); only the heat maps run a network, a copy with that epoch's weights. Writes `misclassified.npz`, from which
    the page is made, `misclassified.csv` and `figures/misclassified.png`. A failure is logged and does not end the run.
    """

    @checked
    def __init__(self, run_dir: str | Path, number: PositiveInt = 25, layers: Layers = "auto") -> None:
        """Show up to `number` mistakes in `run_dir`, with heat maps of these `layers`, or of `gradcam.last_map`."""
        self._run_dir, self._number, self._layers = Path(run_dir), number, layers

    def check(self, network: nn.Module, image: torch.Tensor) -> None:
        """Explain one image, uint8 (1, 3, H, W), so that unfit layers are refused now and not after hours."""
        heat_maps(network, self._shown(network, image.shape[-1]), image, torch.tensor([0]), "cpu")

    def _shown(self, network: nn.Module, image_size: int) -> list[str]:
        return [last_map(network, image_size)] if self._layers == "auto" else list(self._layers)

    def on_fit_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        best, network, epoch = self._run_dir / rundir.BEST, pl_module.network, trainer.current_epoch
        pruned = any(getattr(callback, "pruned", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if pruned or not trainer.is_global_zero:
            return
        if best.exists():
            checkpoint = checkpoints.load(best)
            network = checkpoints.load_network(best, checkpoint, network)
            predictions, epoch = Predictions(**checkpoint["predictions"]["val"]), checkpoint["epoch"] + 1
        elif "val" in pl_module.predictions:
            predictions = pl_module.predictions["val"]
        else:
            return
        split = "test" if data_of(trainer).test_selected else "val"
        self._explain(trainer, network, predictions, split, f", epoch {epoch}")

    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        if "val" not in pl_module.predictions and trainer.is_global_zero:
            self._explain(trainer, pl_module.network, pl_module.predictions["test"], "test", "")

    def _explain(self, trainer: Trainer, network: nn.Module, predictions: Predictions, split: str, epoch: str) -> None:
        what, total = f"{SPLITS[split]} images{epoch}", len(predictions.label)
        try:
            (self._run_dir / rundir.GALLERY).unlink(missing_ok=True)  # an older one of a resumed run
            classes = trainer.lightning_module.hparams["classes"]
            mistakes = cases.select(predictions, self._number)
            files.write_csv(self._run_dir / "misclassified.csv", cases.COLUMNS, cases.rows(mistakes, classes))
            if not mistakes:
                log.info("No gallery: none of the %d %s is misclassified.", total, what)
                return
            wrong = int((predictions.predicted != predictions.label).sum())
            title = f"{len(mistakes)} most confidently wrong of {wrong} misclassified {what} (of {total})"
            data, device = data_of(trainer), trainer.strategy.root_device
            images = data.pixels(split, [case.index for case in mistakes])
            layers = self._shown(network, images.shape[1])
            shown = gallery.explain(
                network, split, mistakes, images, classes, title, layers, device=device, fill=data.mean
            )
            files.write_npz(self._run_dir / rundir.GALLERY, shown._asdict())
            publish(trainer, self._run_dir, "misclassified", figures.gallery(shown))
        except Exception:
            log.exception("The gallery of misclassified images could not be made; the run continues.")
