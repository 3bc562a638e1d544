"""A run on disk, finished or not: its network with its weights, what it said, its images."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cifar_pl.config import schema
from cifar_pl.config.build import build
from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import UserError, complete, require
from cifar_pl.evaluation.predictions import Predictions, with_mirror_images
from cifar_pl.machine import hardware
from cifar_pl.runs import checkpoints, record, rundir

log = logging.getLogger(__name__)

# A run's config may come from somebody else: it has these built, with plain arguments, and nothing else.
NETWORKS = ("cifar_pl.models.resnet18.resnet18",)
SOURCES = tuple(f"cifar_pl.data.{name}.{name}" for name in ("digits", "cifar10", "image_folder"))
SOURCE_ARGUMENTS = ("_target_", "_partial_", "root", "image_size")  # no mirrors


@dataclass(frozen=True)
class Saved:
    """A run's network, on `device`, in evaluation mode.

    Attributes:
        directory: The run's; for a checkpoint without its run, the directory that holds it.
        checkpoint: The file that the weights are from.
        cfg: The run's config.
        network: uint8 (N, 3, H, W) to logits (N, classes).
        classes: Names.
        epoch: That the weights are of, from 1.
        said: The validation's predictions of that epoch, where there was one.
        facts: The summary of a finished run, else the status; results only where they are this checkpoint's.
        tested: Whether it is the checkpoint that the run tested, and kept the predictions of.
        device: cpu, cuda or mps.
        dtype: What the network computes in, by autocast: as the run did where that can be had here.
    """

    directory: Path
    checkpoint: Path
    cfg: DictConfig
    network: nn.Module
    classes: list[str]
    epoch: int
    said: Predictions | None
    facts: dict[str, Any]
    tested: bool
    device: torch.device
    dtype: torch.dtype

    def logits(self, images: torch.Tensor, tta: bool = False) -> torch.Tensor:
        """uint8 (N, 3, H, W) to float32 (N, classes) on the CPU; with `tta` the mean with each mirror image's."""
        images = images.to(self.device, memory_format=hardware.memory_format(self.device.type))
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            said: torch.Tensor = self.network(images).float()
            if tta:
                said = with_mirror_images(self.network, images, said)
        return said.cpu()

    def data(self) -> DataModule:
        """The run's images, loaded, without augmentation.

        Raises:
            UserError: they are not where they were, or others.
        """
        data = images(self.cfg)
        classes = list(data.load().classes)
        require(classes == self.classes, f"{self.directory}: it was trained on {self.classes}, these are {classes}.")
        return data

    def predictions(self, split: str, data: DataModule) -> Predictions:
        """What this checkpoint says of `val` or `test`: as the run kept it, else computed.

        Raises:
            UserError: the images are not those of the run.
        """
        said = None
        if split == "val" or data.test_selected:
            said = self.said
        elif self.tested:
            said = Predictions.load(self.directory / rundir.PREDICTIONS["test"])
        if said is not None:
            labels, index = data.labels(split), said.index.numpy()
            same = index.max() < len(labels) and (labels[index] == said.label.numpy()).all()
            require(same, f"{self.directory}: the {split} images are not those that the run saw.")
            return said
        if split == "test":
            log.warning("!! The test images are read now, for this checkpoint. Choose nothing by what they say.")
        loader: Any = data.test_dataloader() if split == "test" else data.val_dataloader()
        parts = [Predictions(self.logits(batch.image), batch.label, batch.index) for batch in loader]
        return Predictions(*map(torch.cat, zip(*parts, strict=True)))


def find(name: str) -> Saved:
    """The run that `name` means: its directory, one of its checkpoints, or `latest`; or a checkpoint without its run.

    Of a directory it is the checkpoint that the run tested, or would: the best, else the last.

    Raises:
        UserError: there is no such run, no checkpoint in it, or one that cannot be used.
    """
    path = Path(name)
    chosen = path.resolve() if path.is_file() else None
    lone = chosen is not None and not rundir.is_run(chosen.parent.parent)
    directory = (chosen.parent if lone else chosen.parent.parent) if chosen else rundir.find_run(name)
    checkpoint = chosen or _tested(directory)
    require(
        checkpoint.is_file(), f"{directory}: it has no checkpoint; it kept none, or ended before its first epoch did."
    )
    try:
        content = checkpoints.load(checkpoint)
        known = content["hyper_parameters"]
        require(not lone or "config" in known, f"{name}: it is not in its run's directory, and too old to do without.")
        cfg = OmegaConf.create(known["config"]) if lone else schema.of_run(directory)
        schema.allow(OmegaConf.to_container(cfg.model), *NETWORKS)
        classes = list(known["classes"])
        network = complete(build(cfg.model), "model", num_classes=len(classes), mean=[0.0] * 3, std=[1.0] * 3)
        facts: dict[str, Any] = {"status": "unknown", "hardware": {"precision": known.get("precision")}}
        if not lone:
            run = record.read(directory)
            require(run.status != "unreadable", f"{directory}: {run.error}")
            facts = dict(run.summary or run.facts)
        tested = "test" in facts and checkpoint == _tested(directory)
        if not tested:
            facts = {key: value for key, value in facts.items() if key not in ("test", "val", "calibration")}
        network = checkpoints.load_network(checkpoint, content, network)
        said, epoch = content.get("predictions", {}).get("val"), int(content["epoch"]) + 1
        predictions = Predictions(**said).validated() if said else None
        accelerator = hardware.accelerator("auto")
        network = network.to(memory_format=hardware.memory_format(accelerator))
        computed = facts.get("hardware", {}).get("precision") or known.get("precision")
        dtype = hardware.dtype(computed, cfg.precision, accelerator)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{directory} is no run of this version: {type(error).__name__}: {error}") from error
    return Saved(
        directory,
        checkpoint,
        cfg,
        network.to(accelerator).eval(),
        classes,
        epoch,
        predictions,
        facts,
        tested and (directory / rundir.PREDICTIONS["test"]).exists(),
        torch.device(accelerator),
        dtype,
    )


def images(cfg: DictConfig, augment: bool = False) -> DataModule:
    """The images that a run's config names; of a run from another machine those in a folder of that name here.

    Raises:
        UserError: it names something else than images, or transforms that are not of this project's configs.
    """
    plain: Any = OmegaConf.to_container(cfg.datamodule)
    transforms = {name: node for name, node in plain.pop("augment").items() if augment}
    schema.allow(transforms, *schema.targets())
    source = {key: value for key, value in plain.pop("source").items() if key in SOURCE_ARGUMENTS}
    schema.allow(source, *SOURCES)
    nested = [key for key, value in source.items() if isinstance(value, (dict, list))]
    require(not nested, f"The run's {rundir.CONFIG} has more than a plain value for {nested} of its source.")
    schema.allow(plain, "cifar_pl.data.datamodule.DataModule")
    root = Path(str(source.get("root", ".")))
    if not root.exists() and Path(root.name).exists():
        log.info("%s is not on this machine: the images are read from %s, here.", root, root.name)
        source["root"] = root.name
    data: DataModule = build(OmegaConf.create({**plain, "source": source, "augment": transforms}), "datamodule")
    return data


def _tested(directory: Path) -> Path:
    best = directory.resolve() / rundir.BEST
    return best if best.exists() else directory.resolve() / rundir.LAST
