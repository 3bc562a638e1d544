"""The parts of a run, built from its config."""

import copy
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from torch import nn

from cifar_pl.config.build import build
from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import complete
from cifar_pl.machine import hardware
from cifar_pl.models.resnet import whiten
from cifar_pl.runs import checkpoints

log = logging.getLogger(__name__)

WHITENING_IMAGES = 500  # half a million patches for a covariance of 27 x 27


class Machine(NamedTuple):
    """What a run computes with: `cpu`, `cuda` or `mps`, Lightning's name of the precision, its first GPU's number."""

    accelerator: str
    precision: str
    gpu: int

    def one_device(self) -> dict[str, Any]:
        """Arguments of a trainer on the run's first device alone."""
        devices = [self.gpu] if self.accelerator == "cuda" else 1
        return {"accelerator": self.accelerator, "precision": self.precision, "devices": devices}


def machine(cfg: DictConfig) -> Machine:
    """What the run computes with here; UserError if that is not available."""
    devices = cfg.trainer.devices
    listed = isinstance(devices, ListConfig) and devices and devices[0] in range(torch.cuda.device_count())
    gpu = devices[0] if listed else 0  # Lightning refuses other numbers
    accelerator = hardware.accelerator(cfg.trainer.accelerator, gpu)
    return Machine(accelerator, hardware.precision(cfg.precision, accelerator, gpu), gpu)


def data(cfg: DictConfig, accelerator: str) -> DataModule:
    """The images, loaded."""
    made: DataModule = build(cfg.datamodule)
    made.accelerator = accelerator  # the range test has no trainer that could tell
    made.load()
    return made


def network(cfg: DictConfig, data: DataModule, accelerator: str) -> nn.Module:
    """The network as training begins with it; seeds everything."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    classes = data.load().classes
    model = OmegaConf.create({key: value for key, value in cfg.model.items() if key != "weights"})
    made: nn.Module = build(model, "model", num_classes=len(classes), mean=data.mean, std=data.std)
    if cfg.model.get("weights"):
        if not cfg.resume:  # its checkpoint has them, and the file may be gone
            checkpoints.load_weights(Path(str(cfg.model.weights)), made)
    elif cfg.whiten:
        pixels = data.pixels("train", data.batch("train", 0, WHITENING_IMAGES).index.numpy())
        whiten(made, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    return made.to(memory_format=hardware.memory_format(accelerator))


def classifier(cfg: DictConfig, network: nn.Module, data: DataModule, lr: float) -> Any:
    """The classifier around `network`."""
    made = build(cfg.classifier, "classifier", network=network, classes=data.load().classes, lr=lr)
    if cfg.compile:
        made.compile_training()
    return made


def spare(cfg: DictConfig, network: nn.Module, data: DataModule) -> Any:
    """A classifier for the range test around a copy of `network`, with that test's optimizer and no schedule.

    It has no L1 term, which would lift the curve above the loss of guessing.
    """
    own = cfg.lr_finder.get("optimizer") or {}
    return build(
        cfg.classifier,
        "classifier",
        network=copy.deepcopy(network),
        optimizer=build(OmegaConf.create({**cfg.optimizer, **own}), "lr_finder.optimizer"),
        scheduler=lambda **_: [],
        classes=data.load().classes,
        lr=float(cfg.optimizer.lr),
        l1=0.0,
    )


def callbacks(cfg: DictConfig, data: DataModule, study: Path | None) -> list[Callback]:
    """The config's callbacks, and for a trial of a search the one that prunes it.

    Without a validation no best checkpoint is kept; see `checks` for others that monitor it.
    """
    nodes = {name: node for name, node in cfg.callbacks.items() if node}
    if "best" in nodes and nodes["best"].get("monitor") and not data.size("val"):
        log.info("No validation (data.val_size=0): no best checkpoint is kept, the last one is tested.")
        del nodes["best"]
    elif "best" in nodes and (left := cfg.trainer.max_epochs % cfg.trainer.check_val_every_n_epoch):
        log.warning(
            "!! No validation after epoch %d, so the best checkpoint cannot be of a later one: "
            "trainer.check_val_every_n_epoch should divide trainer.max_epochs.",
            cfg.trainer.max_epochs - left,
        )
    made: list[Callback] = [build(node, f"callbacks.{name}") for name, node in nodes.items()]
    if study and study.exists():
        run = Path(cfg.run_dir).name
        made.append(build(cfg.sweep.prune, "sweep.prune", study=study, run=run, monitor=cfg.monitor))
    return made


def trainer(
    cfg: DictConfig, machine: Machine, data: DataModule, callbacks: list[Callback], loggers: Any, **options: Any
) -> Trainer:
    """The trainer, with `loggers` of the config, which are open."""
    made: Trainer = build(
        cfg.trainer,
        "trainer",
        precision=machine.precision,
        callbacks=callbacks,
        logger=[build(node, f"logger.{name}") for name, node in loggers.items() if node] or False,
        plugins=[checkpoints.AtomicCheckpoints()],
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
        benchmark=benchmark(cfg, machine.accelerator),
        **({} if data.size("val") else {"limit_val_batches": 0}),
        **options,
    )
    complete(lambda: [each.experiment for each in made.loggers], "logger")  # type: ignore[attr-defined]
    return made


def benchmark(cfg: DictConfig, accelerator: str) -> bool | None:
    """Whether cuDNN tries its algorithms for each size of images; it must not if bits are to be the same."""
    asked: bool | None = cfg.trainer.get("benchmark")
    return asked if asked is not None or cfg.trainer.get("deterministic") else accelerator == "cuda" or None
