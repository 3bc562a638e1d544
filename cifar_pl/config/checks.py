"""Rules between values of a config. `schema` has the kinds of single values, constructors their ranges."""

from typing import Any

import torch
from omegaconf import DictConfig, ListConfig

from cifar_pl.config import schema
from cifar_pl.errors import require
from cifar_pl.machine import processes
from cifar_pl.runs.monitors import FOLLOWED, MONITORS
from cifar_pl.runs.overrides import TRAIN


def check(cfg: DictConfig, sweep: bool) -> None:
    """Refuse, before anything is loaded, what could only fail later; `sweep`: the run is one of a sweep (-m)."""
    schema.check(cfg)
    require("trials" not in cfg.sweep, "sweep=search is made of many runs: add -m.")
    _length(cfg)
    _monitors(cfg)
    _devices(cfg, sweep)


def _length(cfg: DictConfig) -> None:
    epochs, every, share = cfg.trainer.max_epochs, cfg.trainer.check_val_every_n_epoch, cfg.data.start_share
    require(epochs > 0, f"trainer.max_epochs={epochs}: it must be 1 or more.")
    require(
        1 <= every <= epochs,
        f"trainer.check_val_every_n_epoch={every}: it must be from 1 to trainer.max_epochs={epochs}.",
    )
    require(
        cfg.trainer.get("limit_val_batches", 1) != 0 and not cfg.trainer.get("fast_dev_run"),
        "trainer.limit_val_batches=0 and trainer.fast_dev_run would leave nothing to judge by: take data.val_size=0.",
    )
    require(
        0 <= share < 1, f"data.start_share={share}: it must be from 0 to below 1, for training has to end at full size."
    )


def _monitors(cfg: DictConfig) -> None:
    watched = {f"callbacks.{name}.monitor": node.get("monitor") for name, node in cfg.callbacks.items() if node}
    watched = {key: monitor for key, monitor in watched.items() if monitor is not None}
    followed = cfg.scheduler.get("monitor", cfg.monitor)
    for key, monitor in {"monitor": cfg.monitor, "scheduler.monitor": followed, **watched}.items():
        allowed = FOLLOWED if key.startswith("scheduler") else MONITORS
        require(monitor in allowed, f"{key}={monitor}: one of {', '.join(allowed)}; the test set selects nothing.")
    best = watched.pop("callbacks.best.monitor", cfg.monitor)
    require(
        best == cfg.monitor,
        f"callbacks.best.monitor={best}: the best checkpoint is chosen by the run's monitor={cfg.monitor}. "
        f"Take monitor={best}.",
    )
    if cfg.data.val_size == 0 and cfg.data.fold is None and cfg.protocol == "honest":
        require(
            "plateau" not in cfg.scheduler["_target_"],
            "scheduler=plateau follows the validation, but data.val_size=0 leaves none. Hold images out, or take "
            "scheduler=onecycle, multistep, cosine or constant.",
        )
        require(not watched, f"data.val_size=0 leaves no validation for {', '.join(watched)} to follow.")


def one_device(devices: Any) -> bool:
    """Whether `trainer.devices` is one device."""
    one = len(devices) == 1 if isinstance(devices, ListConfig) else devices in (1, "1")
    return one or (devices == "auto" and torch.cuda.device_count() <= 1)


def _devices(cfg: DictConfig, sweep: bool) -> None:
    devices, nodes, started = cfg.trainer.devices, cfg.trainer.get("num_nodes", 1), processes.started()
    require(
        not sweep or one_device(devices),
        f"trainer.devices={devices}: a sweep in one process cannot start several per run. "
        f"Leave out -m, and let the shell sweep: for seed in 0 1 2; do {TRAIN} trainer=ddp seed=$seed; done",
    )
    require(not (mistake := processes.misstarted()), mistake)
    require(
        nodes == 1 or started > 1,
        f"trainer.num_nodes={nodes}: on several machines torchrun or srun has to start the processes.",
    )
    require(
        started == 1 or not isinstance(devices, int) or started == devices * nodes,
        f"trainer.devices={devices} on {nodes} machines, but {started} processes were started: give as many as "
        "torchrun or srun starts on each, trainer=ddp trainer.devices=... trainer.num_nodes=...",
    )
    dropout = {place: p for place, p in (cfg.model.get("dropout") or {}).items() if p}
    require(
        not dropout or not cfg.trainer.get("sync_batchnorm"),
        f"trainer.sync_batchnorm=true would put torch's batch norm in the place of ours, and with it lose "
        f"model.dropout={dropout}. Leave one of them out.",
    )
