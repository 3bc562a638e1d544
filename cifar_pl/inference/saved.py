"""A run on disk, finished or not, opened: its network with its weights, its predictions, its images."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cifar_pl.data.augment import Transform
from cifar_pl.data.cifar10 import cifar10, cifar100
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.digits import digits
from cifar_pl.data.image_folder import image_folder
from cifar_pl.data.images import Source
from cifar_pl.errors import complete, nearest, require
from cifar_pl.evaluation.gradcam import last_map
from cifar_pl.evaluation.predictions import Predictions, with_mirror_images
from cifar_pl.machine import hardware
from cifar_pl.models.resnet import resnet
from cifar_pl.models.timm_model import timm_model
from cifar_pl.runs import checkpoints, rundir

log = logging.getLogger(__name__)

# A run's config may be untrusted: only these functions are called, with plain arguments.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cifar_pl.models.resnet.resnet": resnet,
    "cifar_pl.models.timm_model.timm_model": timm_model,
}
SOURCES: dict[str, Callable[..., Source]] = {
    f"{source.__module__}.{source.__name__}": source for source in (digits, cifar10, cifar100, image_folder)
}
SOURCE_ARGUMENTS = ("_target_", "root", "image_size", "strict", "test_size", "test_seed")  # no mirrors


@dataclass(frozen=True)
class Saved:
    """A run and one of its checkpoints, or a checkpoint alone."""

    directory: Path  # of the run, or of the lone checkpoint
    checkpoint: Path
    config: dict[str, Any]
    network: nn.Module  # uint8 (N, 3, H, W) to logits (N, classes), on `device`, in evaluation mode
    classes: list[str]
    epoch: int  # of the weights, from 1
    validation: Predictions | None  # of that epoch
    facts: dict[str, Any]  # summary of a finished run, status of another; results only if they are of this checkpoint
    tested: bool  # by the run
    device: torch.device
    dtype: torch.dtype  # of autocast: as in the run, if this machine can

    def logits(self, images: torch.Tensor, tta: bool = False) -> torch.Tensor:
        """uint8 (N, 3, H, W) to float32 (N, classes) on the CPU; with `tta` averaged over mirror images."""
        kind, half = self.device.type, self.dtype != torch.float32
        images = images.to(self.device, memory_format=hardware.memory_format(kind))
        with torch.inference_mode(), torch.autocast(kind, self.dtype, enabled=half):
            logits: torch.Tensor = self.network(images).float()
            return (with_mirror_images(self.network, images, logits) if tta else logits).cpu()

    @property
    def layers(self) -> list[str]:
        """The layers that the run explains."""
        layers = (self.config["callbacks"].get("misclassified") or {}).get("layers", "auto")
        return [last_map(self.network, self.config["data"]["image_size"])] if layers == "auto" else list(layers)

    @property
    def keeps_test(self) -> bool:
        """Whether the run tested this checkpoint and kept the predictions."""
        return self.tested and (self.directory / rundir.PREDICTIONS["test"]).exists()

    def number(self, name: str, asked: str) -> int:
        """The number of a class that was `asked` for."""
        require(name in self.classes, f"{asked} {name}: there is no such class.{nearest(name, self.classes)}")
        return self.classes.index(name)

    def split(self, asked: str | None, data: DataModule) -> str:
        """The split to look at: what was `asked` for, else the validation, else the test if the run has read it."""
        validated = data.size("val") > 0 and not data.test_selected
        require(validated or asked != "val", "split val: the run held no images out, so there are none.")
        require(
            validated or asked or self.tested or data.test_selected,
            "The run held no images out, and its test images were not read for these weights. To do so: --split test, "
            "or split='test' in Python.",
        )
        return asked or ("val" if validated else "test")

    def data(self) -> DataModule:
        """The run's images, loaded, without augmentation."""
        data = images(self.config)
        classes = list(data.load().classes)
        require(classes == self.classes, f"{self.directory}: it was trained on {self.classes}, these are {classes}.")
        return data

    def predictions(self, split: str, data: DataModule) -> Predictions:
        """Predictions of this checkpoint for `val` or `test`: those that the run kept, or computed now."""
        kept = None
        if split == "val" or data.test_selected:
            kept = self.validation
        elif self.keeps_test:
            kept = Predictions.load(self.directory / rundir.PREDICTIONS["test"])
        if kept is not None:
            same = fits(data, split, kept.index.numpy(), kept.label.numpy())
            require(same, f"{self.directory}: the {split} images are not those that the run saw.")
            return kept
        if split == "test" and not self.tested:
            log.warning("!! The test images are read now, for this checkpoint. Do not select anything by the results.")
        loader: Any = data.test_dataloader() if split == "test" else data.val_dataloader()
        parts = [Predictions(self.logits(batch.image), batch.label, batch.index) for batch in loader]
        return Predictions(*map(torch.cat, zip(*parts, strict=True)))


def find(name: str) -> Saved:
    """Open a checkpoint, with or without its run, or a run directory (or `latest`) with the one that it tests.

    That is the best checkpoint, or the last one if there is no best.
    """
    path, lone = Path(name), False
    if path.is_file():
        checkpoint = path.resolve()
        lone = not rundir.is_run(checkpoint.parent.parent)
        directory = checkpoint.parent if lone else checkpoint.parent.parent
    else:
        directory = rundir.find_run(name)
        checkpoint = _tested(directory)
    require(checkpoint.is_file(), f"{directory}: it has no checkpoint; none was kept, or its first epoch did not end.")
    opened: Saved = complete(partial(_open, directory, checkpoint, lone), f"{directory} is not a run of this version")
    return opened


def _open(directory: Path, checkpoint: Path, lone: bool) -> Saved:
    content = checkpoints.load(checkpoint)
    known = content["hyper_parameters"]
    require(not lone or "config" in known, f"{checkpoint}: it is not in its run's directory, and too old to be alone.")
    config = rundir.renamed(known["config"]) if lone else rundir.read_config(directory)
    classes = list(known["classes"])
    model = {key: value for key, value in config["model"].items() if key != "weights"}  # it has its own
    # Older runs have them among the weights.
    statistics = {"mean": known.get("mean", (0.0,) * 3), "std": known.get("std", (1.0,) * 3)}
    network = complete(_named(model, NETWORKS), "model", num_classes=len(classes), **statistics)
    network = checkpoints.load_network(checkpoint, content, network)
    accelerator = hardware.accelerator("auto")
    network = network.to(memory_format=hardware.memory_format(accelerator)).to(accelerator).eval()
    facts: dict[str, Any] = {"status": "unknown"} if lone else rundir.facts(directory)
    tested = "test" in facts and checkpoint == _tested(directory)
    if not tested:
        facts = {key: value for key, value in facts.items() if key not in ("test", "val", "calibration")}
    validation = content.get("predictions", {}).get("val")
    precision = facts.get("hardware", {}).get("precision") or known.get("precision")
    return Saved(
        directory,
        checkpoint,
        config,
        network,
        classes,
        int(content["epoch"]) + 1,
        Predictions(**validation).validated() if validation else None,
        facts,
        tested,
        torch.device(accelerator),
        hardware.dtype(precision, config["precision"], accelerator),
    )


def images(config: Mapping[str, Any], augment: Mapping[str, Transform | None] | None = None) -> DataModule:
    """The images that a run's config names; if it is from another machine, those in a folder of the same name here."""
    settings = {key: value for key, value in config["datamodule"].items() if key not in ("_target_", "augment")}
    source = {key: value for key, value in settings.pop("source").items() if key in SOURCE_ARGUMENTS}
    root = Path(str(source.get("root", ".")))
    if not root.exists() and Path(root.name).exists():
        log.info("%s is not on this machine: the images are read from %s, here.", root, root.name)
        source["root"] = root.name
    made: DataModule = complete(partial(DataModule, _named(source, SOURCES), augment or {}), "datamodule", **settings)
    return made


def fits(data: DataModule, split: str, index: NDArray[np.int64], label: NDArray[np.int64]) -> bool:
    """Whether these are the labels of a split at `index`, both (N,)."""
    labels = data.images(split).labels
    return bool(index.max() < len(labels) and (labels[index] == label).all())


def _named(node: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The function, one of `functions`, that a node of a config names, with the node's arguments."""
    target = str(node.get("_target_"))
    known = f"it may name {', '.join(functions)} alone. Runs of version 0.1 cannot be opened"
    require(target in functions, f"The run's {rundir.CONFIG} names {target}, which could run any program: {known}.")
    return partial(functions[target], **{key: value for key, value in node.items() if not key.startswith("_")})


def _tested(directory: Path) -> Path:
    best = directory.resolve() / rundir.BEST
    return best if best.exists() else directory.resolve() / rundir.LAST
