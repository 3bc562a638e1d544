"""The run's pictures, as files and in TensorBoard, and the numbers that compare runs there."""

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
from pytorch_lightning.utilities import rank_zero_only

from cifar_pl.data.datamodule import DataModule
from cifar_pl.evaluation import calibration
from cifar_pl.evaluation.metrics import scores
from cifar_pl.evaluation.predictions import SPLITS
from cifar_pl.reporting import figures
from cifar_pl.runs import files, rundir
from cifar_pl.training.callbacks.epoch_log import EpochLog
from cifar_pl.training.classifier import Classifier

EXAMPLES, DRAWS = 8, 8  # of the augmentation grid
PAUSE = 10.0  # seconds, at least, between two confusion matrices: one takes as long as many steps on a GPU
CLASS = "val_acc_of"  # a class's validation accuracy is the scalar `val_acc_of/<class>`
LAYOUT = {
    "train and validation": {n: ["Multiline", [f"train/{n}", f"val/{n}"]] for n in ("loss", "acc")},
    "validation accuracy by class": {"all classes": ["Multiline", [f"{CLASS}/.*"]]},
}


class Dashboard(Callback):
    """Draws augmentations at the start, confusion from time to time, curves after fit, and the results of the test.

    The predictions of the tested checkpoint on test and validation are also saved, in `predictions*.npz`.
    """

    def __init__(self, run_dir: str | Path, hparams: Mapping[str, Any]) -> None:
        """Write into `run_dir`; `hparams` are the columns of TensorBoard's HParams tab."""
        self._run_dir, self._hparams = Path(run_dir), dict(hparams)
        self._drawn_at = -PAUSE
        self._undrawn: tuple[int, NDArray[np.int64]] | None = None  # epoch and counts of the last validation

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        data = data_of(trainer)
        draws = [data.batch("train", epoch, EXAMPLES) for epoch in range(DRAWS)]
        original = data.pixels("train", draws[0].index.numpy())
        augmented = [batch.image.permute(0, 2, 3, 1).numpy() for batch in draws]
        publish(trainer, self._run_dir, "augmentations", figures.augmentations(original, augmented))
        self._hparams["lr"] = pl_module.hparams["lr"]
        for logger in trainer.loggers:
            logger.log_hyperparams(self._hparams)
        for logger in boards(trainer):
            logger.experiment.add_custom_scalars(LAYOUT)
            if data.test_selected:
                logger.experiment.add_text("protocol", figures.FOOTNOTE)
            if (finder := self._run_dir / rundir.LR_FIGURE).exists():
                logger.experiment.add_image("lr_finder", imread(finder)[..., :3], dataformats="HWC")

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        epoch, classes = trainer.current_epoch + 1, pl_module.hparams["classes"]
        counts = pl_module.predictions["val"].confusion(len(classes))
        recalls = {f"{CLASS}/{s.name}": s.recall for s in scores(counts, classes) if s.recall is not None}
        for logger in trainer.loggers:
            logger.log_metrics(recalls, step=epoch)
        self._undrawn = epoch, counts
        if time.monotonic() - self._drawn_at >= PAUSE:
            self._draw_confusion(trainer, classes)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        self._draw_confusion(trainer, pl_module.hparams["classes"])
        rows = [row for c in trainer.callbacks if isinstance(c, EpochLog) for row in c.rows]  # type: ignore[attr-defined]
        if rows:
            publish(trainer, self._run_dir, "curves", figures.curves(rows))

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        classes = pl_module.hparams["classes"]
        for split, predictions in pl_module.predictions.items():
            files.write_npz(self._run_dir / rundir.PREDICTIONS[split], predictions._asdict())
            title = f"{SPLITS[split]}: {predictions.accuracy():.2%} of {len(predictions.label)} images right"
            figure = figures.confusion_matrix(predictions.confusion(len(classes)), classes, title)
            publish(trainer, self._run_dir, f"confusion_matrix_{split}", figure)
            bins = calibration.reliability(predictions)
            title = f"{SPLITS[split]}: calibration error {calibration.error(bins):.3f}"
            publish(trainer, self._run_dir, f"reliability_{split}", figures.reliability({"as trained": bins}, title))
        results = {"hp/test_acc": float(trainer.callback_metrics["test/acc"])}
        if "val" in pl_module.predictions:
            results["hp/val_acc"] = pl_module.predictions["val"].accuracy()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._hparams, results)
            else:
                logger.log_metrics(results)

    def _draw_confusion(self, trainer: Trainer, classes: list[str]) -> None:
        if self._undrawn and boards(trainer):
            epoch, counts = self._undrawn
            figure = figures.confusion_matrix(counts, classes, f"validation, epoch {epoch}")
            _show(trainer, "confusion_matrix_by_epoch", figure, epoch)
        self._undrawn, self._drawn_at = None, time.monotonic()


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
    """Show a figure in TensorBoard, marked if the test images chose it."""
    if data_of(trainer).test_selected:
        figures.warn(figure)
    for logger in boards(trainer):
        logger.experiment.add_figure(name, figure, epoch, close=False)


def boards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The run's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
