"""The run's pictures, as files and in TensorBoard, and the numbers that compare runs there."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from cifar_pl import figures, rundir
from cifar_pl.callbacks.epoch_log import EpochLog
from cifar_pl.classifier import Classifier
from cifar_pl.datamodule import DataModule

TEST_SELECTED = "protocol=published: validation is the test set, and the result is test-selected"
EXAMPLES, DRAWS = 8, 8  # of the augmentation grid
LAYOUT = {"train and validation": {n: ["Multiline", [f"train/{n}", f"val/{n}"]] for n in ("loss", "acc")}}


class Dashboard(Callback):
    """Augmentation grid at the start, curves at the end of fit, confusion matrices and HParams after the test."""

    def __init__(self, run_dir: str | Path, hparams: Mapping[str, Any]) -> None:
        """Write into `run_dir`; `hparams` are the columns of TensorBoard's HParams tab."""
        self._run_dir, self._hparams = Path(run_dir), dict(hparams)

    def on_fit_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Show what the augmentation does to some training images."""
        if not trainer.is_global_zero:
            return
        data = _data(trainer)
        draws = [data.batch("train", epoch, EXAMPLES) for epoch in range(DRAWS)]
        shown = [batch.image.permute(0, 2, 3, 1).numpy() for batch in draws]
        original = data.pixels("train", draws[0].index.numpy())
        publish(trainer, self._run_dir, "augmentations", figures.augmentations(original, shown))
        for logger in trainer.loggers:
            logger.log_hyperparams(self._known(pl_module))
        for logger in _boards(trainer):
            logger.experiment.add_custom_scalars(LAYOUT)
            if data.test_selected:
                logger.experiment.add_text("protocol", TEST_SELECTED)
            if (finder := self._run_dir / rundir.LR_FIGURE).exists():
                logger.experiment.add_image("lr_finder", imread(finder)[..., :3], dataformats="HWC")

    def on_fit_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Draw the curves."""
        if not trainer.is_global_zero:
            return
        rows = [row for c in trainer.callbacks if isinstance(c, EpochLog) for row in c.rows]  # type: ignore[attr-defined]
        if rows:
            publish(trainer, self._run_dir, "curves", figures.curves(rows))

    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Save and draw what the tested checkpoint said of test and validation; enter the run into the HParams tab."""
        if not trainer.is_global_zero:
            return
        predictions = pl_module.predictions["test"]
        buffer = io.BytesIO()
        np.savez(buffer, **{name: value.numpy() for name, value in predictions._asdict().items()})
        rundir.write(self._run_dir / "predictions.npz", buffer.getvalue())
        for split in pl_module.predictions:
            self._confusion(trainer, pl_module, split)
        scores = {"hp/test_acc": float(trainer.callback_metrics["test/acc"])}
        if "val" in pl_module.predictions:
            scores["hp/val_acc"] = pl_module.predictions["val"].accuracy()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._known(pl_module), scores)
            else:
                logger.log_metrics(scores)

    def _known(self, pl_module: Classifier) -> dict[str, Any]:
        return {**self._hparams, "lr": pl_module.hparams["lr"]}

    def _confusion(self, trainer: Trainer, pl_module: Classifier, split: str) -> None:
        p, classes = pl_module.predictions[split], pl_module.hparams["classes"]
        title = f"{'validation' if split == 'val' else split}: {p.accuracy():.2%} of {len(p.label)} images right"
        figure = figures.confusion_matrix(p.confusion(len(classes)), classes, title)
        publish(trainer, self._run_dir, f"confusion_matrix_{split}", figure)


def publish(trainer: Trainer, run_dir: Path, name: str, figure: Figure) -> None:
    """Save a figure as `figures/<name>.png` and show it in TensorBoard."""
    if _data(trainer).test_selected:
        figures.warn(figure, TEST_SELECTED)
    rundir.write(run_dir / "figures" / f"{name}.png", figures.png(figure))
    for logger in _boards(trainer):
        logger.experiment.add_figure(name, figure, trainer.current_epoch, close=False)


def _boards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _data(trainer: Trainer) -> DataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, DataModule)
    return data
