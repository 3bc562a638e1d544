"""After the test: the nearest training images, near-duplicates, a map of the test images."""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.images import Rows
from cifar_pl.errors import UserError, require
from cifar_pl.evaluation import features
from cifar_pl.evaluation.features import Explored, Neighbours
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.runs import files, rundir
from cifar_pl.training.callbacks.dashboard import boards, data_of
from cifar_pl.training.classifier import Classifier

log = logging.getLogger(__name__)

PASSES = 0.085  # of the network, per image and epoch of training: 3 % of its time, of which a pass takes 0.35
FEW, MOST = 2000, 100_000  # training images that are compared in any case, and that there is memory for
ALIKE = 0.01  # of the images pass for copies of a stranger's neighbours (CIFAR-10: 0.0001): then none is called a copy
TAG, COLUMNS = "embedding/test", ["class", "predicted", "right"]  # in TensorBoard's projector
SIDE = 32  # pixels of an image there


class Explore(Callback):
    """Looks for the nearest training images of all test and validation images, by features of the tested network.

    Training images are not augmented; where their passes would take too long (see `compared`), a stratified sample is
    compared. Writes `explored.npz`, and shows the images of the map in TensorBoard's projector. The first process works
    alone, and asks the others for nothing. A failure is logged and does not end the run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        """Write into `run_dir`."""
        self._path = Path(run_dir) / rundir.EXPLORED

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        self._path.unlink(missing_ok=True)  # an older one of a resumed run
        data = data_of(trainer)
        kept = {s: p for s, p in pl_module.predictions.items() if s == "test" or not data.test_selected}
        autocast, device = trainer.precision_plugin.forward_context, trainer.strategy.root_device
        see = partial(features.features, pl_module.network, device=device, autocast=autocast)
        try:
            explored, vectors = explore(see, data, kept, trainer.max_epochs or 0, device)
            files.write_npz(self._path, explored.validated().arrays())
            rows = _table(kept["test"], explored.mapped, pl_module.hparams["classes"])
            for board in boards(trainer) if rows else ():
                _project(board, vectors, data.parts("test", explored.mapped), rows)
        except UserError as error:
            log.warning("!! No nearest training images: %s", error)
        except Exception:
            log.exception("The nearest training images could not be found; the run continues.")


def compared(train: int, others: int, epochs: int) -> int:
    """How many of `train` images are compared with `others`.

    All passes together take 3 % of the time of so many epochs, unless these few do not fit into it. What is not counted
    is the search among the features, and the map.
    """
    return min(train, MOST, max(FEW, round(PASSES * epochs * train) - others))


def explore(
    see: Callable[[Iterable[NDArray[np.uint8]]], torch.Tensor],
    data: DataModule,
    predictions: Mapping[str, Predictions],
    epochs: int,
    device: torch.device | str = "cpu",
) -> tuple[Explored, NDArray[np.float32]]:
    """What `explored.npz` holds, and the features of the images on the map, `reduced`: float32 (M, d).

    Args:
        see: `features` of a network.
        data: The run's images.
        predictions: By split.
        epochs: Of the run.
        device: Where features are compared.
    """
    rows = {split: of.index.numpy() for split, of in predictions.items()}
    train, images = data.rows("train"), len(data.images("train").labels)
    number = compared(len(train), sum(map(len, rows.values())), epochs)
    train = train[features.sample(data.images("train").labels[train], number)]
    log.info("Looking for the nearest of %d training images", len(train))
    bank = see(data.parts("train", train))
    require(bool((bank != bank[0]).any()), "all of them are the same to the network.")
    seen = {split: see(data.parts(split, index)) for split, index in rows.items()}
    neighbours = {}
    for split, index in rows.items():
        near, similarity = features.nearest(seen[split], bank, device=device)
        near = train[near]
        strangers = np.roll(near, len(near) // 2, axis=0)
        distinct = _copies(data, split, index, strangers).mean() < ALIKE
        neighbours[split] = Neighbours(index, near, similarity, _copies(data, split, index, near) & distinct)
    test = predictions["test"]
    mapped = features.chosen(test.label.numpy(), (test.predicted != test.label).numpy())
    shown = seen["test"][mapped]
    if len(mapped) < features.FEWEST or bool((shown == shown[0]).all()):  # of equal ones t-SNE ends the process
        nowhere = np.zeros((0, 2), np.float32)
        return Explored(neighbours, len(train), mapped[:0], nowhere, images), nowhere
    vectors = features.reduced(shown)
    return Explored(neighbours, len(train), rows["test"][mapped], features.layout(vectors), images), vectors


def _copies(data: DataModule, split: str, index: Rows, near: Rows) -> NDArray[np.bool_]:
    """Whether each of a split's images, (N,), is a copy of one of these training images, (N, k): bool (N,)."""
    pairs = zip(data.parts(split, index), data.parts("train", near), strict=True)
    return np.concatenate([features.duplicates(images, others) for images, others in pairs])


def _project(
    board: TensorBoardLogger, vectors: NDArray[np.float32], images: Iterable[NDArray[np.uint8]], rows: list[list[str]]
) -> None:
    """Show features, (M, d), in TensorBoard's projector with their images, uint8 (m, H, W, 3), and their `COLUMNS`."""
    tiles = torch.cat([_small(part) for part in images])
    shutil.rmtree(Path(board.log_dir) / "00000", ignore_errors=True)  # of a resumed run: that of step 0
    board.experiment.add_embedding(vectors.astype(float).round(3), rows, tiles, tag=TAG, metadata_header=COLUMNS)


def _small(images: NDArray[np.uint8]) -> torch.Tensor:
    """Images as the projector takes them: float32 (m, 3, h, w) in [0, 1], h and w at most `SIDE`."""
    side = min(SIDE, images.shape[1])
    return F.interpolate(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, (side, side), mode="area")


def _table(test: Predictions, index: Rows, classes: Sequence[str]) -> list[list[str]]:
    """A row of `COLUMNS` for each of these test images."""
    at, names = np.searchsorted(test.index.numpy(), index), [" ".join(name.split()) for name in classes]  # no tabs
    pairs = zip(test.label[at].tolist(), test.predicted[at].tolist(), strict=True)
    return [[names[true], names[predicted], "yes" if true == predicted else "no"] for true, predicted in pairs]
