"""A run on disk, finished or not: its network with its weights, what it said, its images."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cifar_pl import checkpoints, hardware, rundir
from cifar_pl.build import build, complete
from cifar_pl.datamodule import DataModule
from cifar_pl.errors import UserError, require
from cifar_pl.predictions import Predictions

log = logging.getLogger(__name__)

# What a run's config may name; it is read from a file that somebody else may have written.
OURS = ("cifar_pl.network.", "cifar_pl.sources.", "cifar_pl.datamodule.")


@dataclass(frozen=True)
class Saved:
    """A run's network, on `device`, in evaluation mode.

    Attributes:
        directory: Of the run.
        checkpoint: The file that the weights are from.
        cfg: The run's config.
        network: uint8 (N, 3, H, W) to logits (N, classes).
        classes: Names.
        epoch: That the weights are of, from 1.
        said: The validation's predictions of that epoch, where there was one.
        device: cpu, cuda or mps.
        bf16: Whether the network computes in bf16, as the run did.
    """

    directory: Path
    checkpoint: Path
    cfg: DictConfig
    network: nn.Module
    classes: list[str]
    epoch: int
    said: Predictions | None
    device: torch.device
    bf16: bool

    def logits(self, images: torch.Tensor, tta: bool = False) -> torch.Tensor:
        """uint8 (N, 3, H, W) to float32 (N, classes) on the CPU; with `tta` the mean with each mirror image's."""
        images = images.to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            said: torch.Tensor = self.network(images).float()
            if tta:
                said = (said + self.network(images.flip(-1)).float()) / 2
        return said.cpu()

    def data(self) -> DataModule:
        """The run's images, loaded, without augmentation.

        Raises:
            UserError: they are not where they were.
        """
        node = self.cfg.datamodule.copy()
        node.augment = {}
        _check(node)
        data: DataModule = build(node, "datamodule")
        data.load()
        return data

    def predictions(self, split: str, data: DataModule) -> Predictions:
        """What this checkpoint says of `val` or `test`: as the run kept it, else computed."""
        kept = self.directory / rundir.PREDICTIONS["test"]
        if self.said is not None and (split == "val" or data.test_selected):
            return self.said
        if split == "test" and kept.exists() and self.checkpoint == _tested(self.directory):
            return Predictions.load(kept)
        if split == "test":
            log.warning("!! The test images are read now, for this checkpoint. Choose nothing by what they say.")
        loader: Any = data.test_dataloader() if split == "test" else data.val_dataloader()
        parts = [Predictions(self.logits(batch.image), batch.label, batch.index) for batch in loader]
        return Predictions(*map(torch.cat, zip(*parts, strict=True)))


def find(name: str) -> Saved:
    """The run that `name` means: its directory, one of its checkpoints, or `latest`.

    Of a directory it is the checkpoint that the run tested, or would: the best, else the last.

    Raises:
        UserError: there is no such run, no checkpoint in it, or one that cannot be used.
    """
    path = Path(name)
    chosen = path if path.is_file() else None
    directory = rundir.find(str(path.parent.parent) if chosen else name)
    checkpoint = chosen or _tested(directory)
    require(checkpoint.is_file(), f"{directory}: it has no checkpoint; the run ended before its first epoch did.")
    try:
        cfg = OmegaConf.load(directory / rundir.CONFIG)
        assert isinstance(cfg, DictConfig)
        _check(cfg.model)
        content = checkpoints.load(checkpoint)
        classes = list(content["hyper_parameters"]["classes"])
        network = complete(build(cfg.model), "model", num_classes=len(classes), mean=[0.0] * 3, std=[1.0] * 3)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{directory} is no run of this version: {type(error).__name__}: {error}") from error
    accelerator = hardware.accelerator("auto")
    network = checkpoints.into(network, content, checkpoint).to(memory_format=torch.channels_last)
    said = content.get("predictions", {}).get("val")
    return Saved(
        directory,
        checkpoint,
        cfg,
        network.to(accelerator).eval(),
        classes,
        content["epoch"] + 1,
        Predictions(**said) if said else None,
        torch.device(accelerator),
        hardware.precision(cfg.precision, accelerator) == hardware.PRECISIONS["bf16"],
    )


def _tested(directory: Path) -> Path:
    best = directory / rundir.BEST
    return best if best.exists() else directory / rundir.LAST


def _check(node: DictConfig) -> None:
    """Refuse a config that would have anything else than our own code run."""
    for target in _targets(OmegaConf.to_container(node)):
        require(
            target.startswith(OURS) and get_object(target).__module__ == target.rpartition(".")[0],
            f"The run's {rundir.CONFIG} names {target}; only what {', '.join(OURS)} define is built from it.",
        )


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _targets(inner)
