"""The gallery: what the network got most confidently wrong, and where it looked."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning import Callback, Trainer
from torch import nn

from cifar_pl import checkpoints, figures, rundir
from cifar_pl.callbacks.dashboard import publish
from cifar_pl.classifier import Classifier, Predictions
from cifar_pl.errors import require
from cifar_pl.gradcam import heat_maps

log = logging.getLogger(__name__)


class Misclassified(Callback):
    """Renders the gallery at the end of fit from validation images; after the test where there are none.

    The mistakes are read from what the validation of the best checkpoint's epoch said (of the last
    epoch, where no best is kept); only the heat maps run a network, a copy with that epoch's weights.
    Writes `figures/misclassified.png` and `misclassified.csv`. A failure here is logged and does not
    spoil the run.
    """

    def __init__(self, run_dir: str | Path, number: int = 25, layers: Sequence[str] = ("layer3",)) -> None:
        """Show up to `number` mistakes in `run_dir`, with heat maps of these `layers`."""
        require(number > 0, f"callbacks.misclassified.number={number}: it must be at least 1.")
        require(layers, "callbacks.misclassified.layers is empty: name at least one layer, such as layer3.")
        self._run_dir, self._number, self._layers = Path(run_dir), number, list(layers)

    def on_fit_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Explain one image, so that a layer that does not exist or is too small is refused now, not after hours."""
        image = trainer.datamodule.batch("train", trainer.max_epochs, 1).image  # type: ignore[attr-defined]
        heat_maps(pl_module.network, self._layers, image, torch.tensor([0]), trainer.strategy.root_device)

    def on_fit_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Explain the validation's mistakes."""
        if "val" not in pl_module.predictions or not trainer.is_global_zero:
            return
        network, predictions, epoch = pl_module.network, pl_module.predictions["val"], trainer.current_epoch
        best = self._run_dir / rundir.BEST
        if best.exists():
            checkpoint, network = checkpoints.read(best, network)
            predictions, epoch = Predictions(**checkpoint["predictions"]["val"]), checkpoint["epoch"] + 1
        self._render(trainer, network, predictions, "val", f"validation images, epoch {epoch}")

    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Explain the test's mistakes, where there was no validation."""
        if "val" not in pl_module.predictions and trainer.is_global_zero:
            self._render(trainer, pl_module.network, pl_module.predictions["test"], "test", "test images")

    def _render(self, trainer: Trainer, network: nn.Module, predictions: Predictions, split: str, what: str) -> None:
        try:
            module = trainer.lightning_module
            mistakes = most_confident(predictions, self._number)
            write_csv(self._run_dir / "misclassified.csv", mistakes, module.hparams["classes"])
            wrong = int((predictions.logits.argmax(1) != predictions.label).sum())
            title = (
                f"{len(mistakes)} most confidently wrong of {wrong} misclassified {what} (of {len(predictions.label)})"
            )
            if not mistakes:
                log.info("No gallery: none of the %d %s is misclassified.", len(predictions.label), what)
                return
            data = trainer.datamodule  # type: ignore[attr-defined]
            images = data.pixels(split, [m.index for m in mistakes])
            device = trainer.strategy.root_device
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
            said = heat_maps(network, self._layers, pixels, torch.tensor([m.predicted for m in mistakes]), device)
            true = heat_maps(network, self._layers, pixels, torch.tensor([m.true for m in mistakes]), device)
            maps = {layer: (said[row], true[row]) for row, layer in enumerate(self._layers)}
            captions = [m.captions(module.hparams["classes"]) for m in mistakes]
            publish(trainer, self._run_dir, "misclassified", figures.gallery(images, maps, captions, title))
        except Exception:
            log.exception("The gallery of misclassified images could not be drawn; everything else goes on.")


class Mistake(NamedTuple):
    """One misclassified image: its index in the source's part, classes, probabilities, cross-entropy."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    true: int
    predicted: int
    p_true: float
    p_predicted: float
    loss: float

    def captions(self, classes: Sequence[str]) -> tuple[str, str, str]:
        """What stands over the image, the predicted and the true class's map."""
        said = f"said {classes[self.predicted]} {self.p_predicted:.0%}"
        return f"image {self.index}", said, f"is {classes[self.true]} {self.p_true:.0%}"


def most_confident(predictions: Predictions, number: int) -> list[Mistake]:
    """Up to `number` wrong predictions, the one with the highest probability of the wrong class first."""
    log_p = predictions.logits.double().log_softmax(1)
    highest, said = log_p.max(1)
    wrong = (said != predictions.label).nonzero().flatten()
    order = wrong[highest[wrong].argsort(descending=True, stable=True)][:number]
    of_true = log_p.gather(1, predictions.label[:, None]).flatten()
    return [
        Mistake(
            int(predictions.index[row]),
            int(predictions.label[row]),
            int(said[row]),
            float(of_true[row].exp()),
            float(highest[row].exp()),
            float(-of_true[row]),
        )
        for row in order
    ]


def write_csv(path: Path, mistakes: Sequence[Mistake], classes: Sequence[str]) -> None:
    """The mistakes as a table, classes by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Mistake._fields)
    for m in mistakes:
        writer.writerow(m._replace(true=classes[m.true], predicted=classes[m.predicted]))  # type: ignore[arg-type]
    rundir.write(path, text.getvalue())
