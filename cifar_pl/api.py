"""From Python what the commands do, by the same objects: `train`, `open_run`, `compare`; see docs/python.md."""

import multiprocessing
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from cifar_pl.cli import command
from cifar_pl.cli.guest import guest
from cifar_pl.config import checks, place, resume
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.pictures import Picture, squares
from cifar_pl.errors import require
from cifar_pl.evaluation import cases, gallery
from cifar_pl.evaluation.predictions import SPLITS, Predictions
from cifar_pl.inference import saved
from cifar_pl.inference.saved import Saved
from cifar_pl.reporting import figures
from cifar_pl.reporting.notebook import Comparison, Gallery, html
from cifar_pl.runs import rundir, summary
from cifar_pl.runs.overrides import TRAIN
from cifar_pl.runs.record import list_runs
from cifar_pl.training import experiment


class Prediction(NamedTuple):
    """The most likely class of an image, its probability in [0, 1], and both of each of the `top` classes."""

    label: str
    probability: float
    top: list[tuple[str, float]]


class Run:
    """A run on disk, or a checkpoint alone. Its network is loaded when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def saved(self) -> Saved:
        """The run as the commands open it: its network, config, predictions."""
        return saved.find(str(self._path))

    @cached_property
    def data(self) -> DataModule:
        """The run's images, loaded."""
        return self.saved.data()

    @property
    def directory(self) -> Path:
        """Where the run is, or the lone checkpoint."""
        return self._path if self._path.is_dir() else self.saved.directory

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json holds, or status.json if the run is not finished."""
        return self.saved.facts if self._path.is_file() else rundir.facts(self._path)

    @property
    def metrics(self) -> list[dict[str, float]]:
        """A row for each epoch, with the columns of metrics.csv; `pandas.DataFrame(run.metrics)` is a table."""
        return summary.read_metrics(self.directory / rundir.METRICS)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the network's outputs."""
        return self.saved.classes

    def predict(self, images: Iterable[Picture], top: int = 3, tta: bool = False) -> list[Prediction]:
        """The `top` most likely classes of each image; with `tta` the mean of it and its mirror image.

        Images of any size are cropped and resized as those of a folder are for training.
        """
        most = len(self.classes)
        require(top >= 1, f"top={top}: from 1 to {most}, the number of classes.")
        p, likely = self._logits(self._pixels(images), tta).softmax(1).topk(min(top, most), dim=1)
        rows = zip(likely.tolist(), p.tolist(), strict=True)
        found = [[(self.classes[n], q) for n, q in zip(*row, strict=True)] for row in rows]
        return [Prediction(*best[0], best) for best in found]

    def mistakes(
        self,
        number: int = 25,
        true: str | None = None,
        predicted: str | None = None,
        split: str | None = None,
        by: str = "confidence",
        layers: Sequence[str] = (),
        method: str = "gradcam",
    ) -> Gallery:
        """Up to `number` misclassified images, of these classes if any is named, with heat maps of `layers`.

        `by` confidence, loss or random; from `val`, or `test` if the run held nothing out, or the `split` named.
        """
        run, data = self.saved, self.data
        require(number > 0, f"number={number}: it must be at least 1.")
        require(split in (None, *SPLITS), f"split={split}: one of {', '.join(SPLITS)}.")
        split = run.split(split, data)
        named = {"true": true, "predicted": predicted}
        first, second = (None if name is None else run.number(name, asked) for asked, name in named.items())
        chosen = cases.select(run.predictions(split, data), number, by=by, pair=(first, second))
        what = f"misclassified {SPLITS[split]} images{' of these classes' if true or predicted else ''}"
        require(chosen, f"There are no {what} in epoch {run.epoch} of {run.directory}.")
        images = data.pixels(split, [case.index for case in chosen])
        title = f"{len(chosen)} {what}, epoch {run.epoch}"
        how = layers or run.layers, method, run.device, data.mean
        shown = gallery.explain(run.network, split, chosen, images, run.classes, title, *how)
        return Gallery(shown, test_selected=data.test_selected)

    def explain(self, images: Iterable[Picture], layers: Sequence[str] = (), method: str = "gradcam") -> Gallery:
        """Where the network looked in any images, by `layers`, or those that the run explained."""
        run, pixels = self.saved, self._pixels(images)
        logits = self._logits(pixels)
        chosen = cases.of(Predictions(logits, logits.argmax(1), torch.arange(len(logits))), range(len(logits)))
        square = pixels.permute(0, 2, 3, 1).numpy()
        how = layers or run.layers, method, run.device
        title = f"{len(chosen)} images, epoch {run.epoch}"
        return Gallery(gallery.explain(run.network, "", chosen, square, run.classes, title, *how), labelled=False)

    def _pixels(self, images: Iterable[Picture]) -> torch.Tensor:
        """Images as the network takes them: uint8 (N, 3, H, W)."""
        size = self.saved.config["data"]["image_size"]
        return torch.from_numpy(squares(images, size)).permute(0, 3, 1, 2)

    def _logits(self, images: torch.Tensor, tta: bool = False) -> torch.Tensor:
        parts = torch.split(images, self.saved.config["data"]["batch_size"])
        return torch.cat([self.saved.logits(part, tta) for part in parts])

    def __repr__(self) -> str:
        return f"cifar_pl.open_run({str(self._path)!r})"

    def _repr_html_(self) -> str:
        facts, rows = self.summary, self.metrics
        text = summary.table(facts, self.directory) if "test" in facts else f"{self._path}: {facts['status']}"
        return html(text, *([figures.curves(rows)] if rows else []))


def train(*overrides: str) -> Run:
    """Train one run with overrides as on the command line, `"aug=cutout"` or `"resume=latest"`; its bits are the same.

    An interrupt raises KeyboardInterrupt, and `train("resume=latest")` goes on. What the process had before, such as
    its random state and its loggers, it has again.
    """
    directories = list[Path]()
    # Python's own name for it; without this each loader worker of Windows and Macs would begin a training.
    imported = getattr(multiprocessing.current_process(), "_inheriting", False)
    require(not imported, 'other processes import this script: put cifar_pl.train below `if __name__ == "__main__":`.')

    def job(cfg: DictConfig) -> None:
        directories.append(Path(cfg.run_dir))
        alone = f"cifar_pl.train is one process, which has one device. For several: {TRAIN}"
        try:
            require(checks.one_device(cfg.trainer.devices), f"trainer.devices={cfg.trainer.devices}: {alone}")
            experiment.run(cfg)
        except Exception as error:
            raise command.Failed from error

    command.register_resolvers()
    asked = resume.arguments([*overrides])
    flags = [one for one in asked if one.startswith("-")]
    require(not flags, f"{' '.join(flags)}: overrides of one run alone. For a sweep: {TRAIN} -m")
    with guest(), initialize_config_dir(str(place.CONF), "train", version_base="1.3"):
        GlobalHydra.instance().hydra.run("config", job, asked)  # type: ignore[union-attr]
    return Run(directories[0])


def open_run(name: str | Path) -> Run:
    """The run in a directory, the `latest` below outputs/ or multirun/ here, or a checkpoint."""
    path = Path(name)
    return Run(path if path.is_file() else rundir.find_run(str(name)))


def compare(*directories: str | Path) -> Comparison:
    """All runs in and below these directories, such as a sweep's."""
    return Comparison(list_runs([Path(one) for one in directories]))
