"""The run's pictures, as files and in TensorBoard, and the numbers that compare runs there."""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from cifar_pl.data.datamodule import DataModule
from cifar_pl.evaluation import calibration
from cifar_pl.evaluation.predictions import SPLITS, scores
from cifar_pl.reporting import figures
from cifar_pl.runs import files, rundir
from cifar_pl.training.callbacks.epoch_log import EpochLog
from cifar_pl.training.classifier import Classifier

EXAMPLES, DRAWS = 8, 8  # of the augmentation grid
CALM = 10.0  # seconds, at least, between two confusion matrices: one takes as long as many steps on a GPU
CLASS = "val_acc_of"  # a class's validation accuracy is the scalar `val_acc_of/<class>`
LAYOUT = {
    "train and validation": {n: ["Multiline", [f"train/{n}", f"val/{n}"]] for n in ("loss", "acc")},
    "validation accuracy by class": {"all classes": ["Multiline", [f"{CLASS}/.*"]]},
}


class Dashboard(Callback):
    """Augmentations at the start; classes per validation, at times confusion; curves when fit ends; the test's rest.

    What the tested checkpoint said of test and validation goes into `predictions*.npz`, and as confusion
    matrices, reliability diagrams and TensorBoard's precision-recall curves into pictures.
    """

    def __init__(self, run_dir: str | Path, hparams: Mapping[str, Any]) -> None:
        """Write into `run_dir`; `hparams` are the columns of TensorBoard's HParams tab."""
        self._run_dir, self._hparams = Path(run_dir), dict(hparams)
        self._drawn = -CALM
        self._undrawn: tuple[int, NDArray[np.int64]] | None = None  # epoch and counts of the last validation

    def on_fit_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Show what the augmentation does to some training images."""
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        draws = [data.batch("train", epoch, EXAMPLES) for epoch in range(DRAWS)]
        shown = [batch.image.permute(0, 2, 3, 1).numpy() for batch in draws]
        original = data.pixels("train", draws[0].index.numpy())
        publish(trainer, self._run_dir, "augmentations", figures.augmentations(original, shown))
        for logger in trainer.loggers:
            logger.log_hyperparams(self._known(pl_module))
        for logger in _boards(trainer):
            logger.experiment.add_custom_scalars(LAYOUT)
            if data.test_selected:
                logger.experiment.add_text("protocol", figures.TEST_SELECTED)
            if (finder := self._run_dir / rundir.LR_FIGURE).exists():
                logger.experiment.add_image("lr_finder", imread(finder)[..., :3], dataformats="HWC")

    def on_validation_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Show how each class fares, in the loggers only."""
        if not trainer.is_global_zero or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        epoch, classes = trainer.current_epoch + 1, pl_module.hparams["classes"]
        counts = pl_module.predictions["val"].confusion(len(classes))
        recalls = {f"{CLASS}/{s.name}": s.recall for s in scores(counts, classes) if s.recall is not None}
        for logger in trainer.loggers:
            logger.log_metrics(recalls, step=epoch)
        self._undrawn = epoch, counts
        if time.monotonic() - self._drawn >= CALM:
            self._draw_confusion(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Draw the curves, and the last validation's confusion."""
        if not trainer.is_global_zero:
            return
        self._draw_confusion(trainer, pl_module)
        rows = [row for c in trainer.callbacks if isinstance(c, EpochLog) for row in c.rows]  # type: ignore[attr-defined]
        if rows:
            publish(trainer, self._run_dir, "curves", figures.curves(rows))

    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Save and draw what the tested checkpoint said of test and validation; enter the run into the HParams tab."""
        if not trainer.is_global_zero:
            return
        for split, predictions in pl_module.predictions.items():
            buffer = io.BytesIO()
            np.savez(buffer, **{name: value.numpy() for name, value in predictions._asdict().items()})
            files.write(self._run_dir / rundir.PREDICTIONS[split], buffer.getvalue())
            self._draw(trainer, pl_module, split)
        results = {"hp/test_acc": float(trainer.callback_metrics["test/acc"])}
        if "val" in pl_module.predictions:
            results["hp/val_acc"] = pl_module.predictions["val"].accuracy()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._known(pl_module), results)
            else:
                logger.log_metrics(results)

    def _draw_confusion(self, trainer: Trainer, pl_module: Classifier) -> None:
        if self._undrawn and _boards(trainer):
            epoch, counts = self._undrawn
            figure = figures.confusion_matrix(counts, pl_module.hparams["classes"], f"validation, epoch {epoch}")
            _show(trainer, "confusion_matrix_by_epoch", figure, epoch)
        self._undrawn, self._drawn = None, time.monotonic()

    def _known(self, pl_module: Classifier) -> dict[str, Any]:
        return {**self._hparams, "lr": pl_module.hparams["lr"]}

    def _draw(self, trainer: Trainer, pl_module: Classifier, split: str) -> None:
        p, classes = pl_module.predictions[split], pl_module.hparams["classes"]
        title = f"{SPLITS[split]}: {p.accuracy():.2%} of {len(p.label)} images right"
        figure = figures.confusion_matrix(p.confusion(len(classes)), classes, title)
        publish(trainer, self._run_dir, f"confusion_matrix_{split}", figure)
        bins = calibration.reliability(p)
        title = f"{SPLITS[split]}: calibration error {calibration.error(bins):.3f}"
        figure = figures.reliability({"as trained": bins}, title)
        publish(trainer, self._run_dir, f"reliability_{split}", figure)
        for logger in _boards(trainer):
            for n, (of, probability) in enumerate(zip(classes, p.logits.softmax(1).nan_to_num().T, strict=True)):
                logger.experiment.add_pr_curve(f"{split}/{of}", p.label == n, probability, trainer.current_epoch)


def publish(trainer: Trainer, run_dir: Path, name: str, figure: Figure) -> None:
    """Save a figure as `figures/<name>.png` and show it in TensorBoard."""
    _show(trainer, name, figure, trainer.current_epoch)
    files.write(run_dir / "figures" / f"{name}.png", figures.png(figure))


def data_of(trainer: Trainer) -> DataModule:
    """The run's images."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, DataModule)
    return data


def _show(trainer: Trainer, name: str, figure: Figure, epoch: int) -> None:
    """Mark a figure that the test images have chosen, and hand it to TensorBoard."""
    if data_of(trainer).test_selected:
        figures.warn(figure)
    for logger in _boards(trainer):
        logger.experiment.add_figure(name, figure, epoch, close=False)


def _boards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
