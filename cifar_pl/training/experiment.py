"""One run: config to objects, then rate, fit, test once, summary."""

import logging
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import nn

from cifar_pl.config import resume, schema
from cifar_pl.config.build import build
from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import Pruned, complete, require
from cifar_pl.evaluation import calibration, predictions
from cifar_pl.machine import hardware, processes
from cifar_pl.models.resnet18 import whiten
from cifar_pl.reporting import page
from cifar_pl.runs import checkpoints, files, overrides, rundir, summary
from cifar_pl.runs.monitors import MONITORS
from cifar_pl.training import learning_rate
from cifar_pl.training.callbacks import EpochLog, FirstSteps, Guard, Misclassified
from cifar_pl.training.classifier import Classifier

log = logging.getLogger(__name__)

LARGEST = 1024  # pixels
WHITENING = 500  # images: half a million patches for a covariance of 27 x 27
USES = {"train": "train on", "val": "validate on", "test": "test on"}


def run(cfg: DictConfig) -> float | None:
    """Run one experiment in its run directory.

    Returns:
        The best monitored value; None without a validation of its own.

    Raises:
        UserError: the config asks for something that cannot be done.
    """
    run_dir = Path(cfg.run_dir)
    goes_on = bool(cfg.resume) or (processes.requeued() and rundir.is_run(run_dir))
    if goes_on:
        cfg = resume.config(cfg, run_dir)
    elif processes.rank() == 0:
        rundir.require_new(run_dir)
    matplotlib.use("Agg")
    hardware.keep_memory()
    now = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
    typed = overrides.merged(overrides.of_run(run_dir) if goes_on else [], now)
    origin = {**summary.provenance(), "overrides": typed}  # now: the code may have changed when the run ends
    if cfg.resume and (before := files.read_json(run_dir / rundir.STATUS).get("git")) != origin["git"]:
        log.warning("!! The run was begun by other code (%s) than goes on with it (%s).", before, origin["git"])
        origin["git"] = {**(origin["git"] or {"commit": None}), "dirty": True, "begun": before}
    try:
        with rundir.tracked(run_dir, **origin) if processes.rank() == 0 else nullcontext():
            return _run(cfg, run_dir, origin)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # a sweep keeps the error; it need not keep the network
        raise


def _run(cfg: DictConfig, run_dir: Path, origin: dict[str, Any]) -> float | None:
    _check(cfg)
    devices = cfg.trainer.devices
    listed = list(devices) if isinstance(devices, ListConfig) else []  # GPUs by their numbers
    gpu = listed[0] if listed and listed[0] in range(torch.cuda.device_count()) else 0  # others Lightning refuses
    accelerator = hardware.accelerator(cfg.trainer.accelerator, gpu)
    precision = hardware.precision(cfg.precision, accelerator, gpu)
    machine = {**hardware.describe(gpu), "precision": precision, "accelerator": accelerator}
    kept = cfg.copy()
    kept.data.root = str(Path(cfg.data.root).absolute())  # it may be explained from another directory
    if processes.rank() == 0:
        for old in () if cfg.resume else rundir.FIRST_FILES:  # of an attempt that ended before its first epoch did
            (run_dir / old).unlink(missing_ok=True)
        files.write(run_dir / rundir.CONFIG, OmegaConf.to_yaml(kept, resolve=True))
        files.write(run_dir / overrides.FILE, OmegaConf.to_yaml(OmegaConf.create(origin["overrides"])))
    data: DataModule = build(cfg.datamodule)
    data.accelerator = accelerator  # for the range test
    classes = data.load().classes
    log.info("Images: %s", ", ".join(f"{data.size(split)} to {use}" for split, use in USES.items()))
    if data.test_selected:
        log.warning("!! protocol=published: the test images stand in for the validation; the result is test-selected.")
    network = initial(cfg, data, accelerator)
    # What may refuse comes before the range test, which takes minutes.
    known = {"network": network, "classes": classes, "lr": float(cfg.optimizer.lr)}
    classifier: Classifier = complete(build(cfg.classifier), "classifier", **known)
    sample = data.batch("train", cfg.trainer.max_epochs, 1).image
    callbacks = _callbacks(cfg, bool(data.size("val")))
    for callback in callbacks:
        if isinstance(callback, Misclassified):
            callback.check(network, sample)
    trainer: Trainer = complete(
        build(cfg.trainer),
        "trainer",
        precision=precision,
        callbacks=callbacks,
        logger=[build(node, f"logger.{name}") for name, node in cfg.logger.items() if node] or False,
        plugins=[checkpoints.WholeFiles()],
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=any(isinstance(c, TQDMProgressBar) for c in callbacks),
        benchmark=_benchmark(cfg, accelerator),
        **unvalidated(data),
    )
    if (several := trainer.world_size) > 1:
        processes.each_ends_itself(trainer)
        log.info("%d processes, %d images each per step", several, data.each(several))
    # They open late, and may refuse.
    complete(lambda: [logger.experiment for logger in trainer.loggers], "logger")  # type: ignore[attr-defined]

    one = {"accelerator": accelerator, "precision": precision, "devices": listed[:1] or 1}
    throwaway = {**one, "default_root_dir": run_dir}
    lr, lr_source = learning_rate.choose(cfg, network, data, throwaway, run_dir, processes.rank() == 0)
    where, threads = hardware.named(machine), machine["threads"]
    log.info("Rate %g (%s), %s on %s, %d threads", lr, lr_source, precision, where, threads)
    # A checkpoint can be used without its run.
    classifier.hparams.update(lr=lr, config=OmegaConf.to_container(kept, resolve=True), precision=precision)
    classifier.example_input_array = sample  # for sizes in the model summary
    if cfg.compile:
        classifier.compile_training()
    last = str(run_dir / rundir.LAST) if cfg.resume else None
    trainer.fit(classifier, datamodule=data, ckpt_path=last, weights_only=True)
    if any(getattr(c, "pruned", False) for c in callbacks):
        raise Pruned(f"Pruned after epoch {trainer.current_epoch}: most trials of this search did better by then.")
    # Now, because the test loads a checkpoint, and with it what the callbacks knew at that epoch.
    rows = [row for c in callbacks if isinstance(c, EpochLog) for row in c.rows]
    best = next((c for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor), None)
    score = best.best_model_score if best else trainer.callback_metrics.get(cfg.monitor)
    tested = best.best_model_path if best else None
    trainer.test(classifier, datamodule=data, ckpt_path=tested, verbose=False, weights_only=True)
    if processes.rank() == 0:
        # The test images are no validation, not even where they stand in for it.
        said = {s: p for s, p in classifier.predictions.items() if s == "test" or not data.test_selected}
        scores = predictions.scores(said["test"].confusion(len(classes)), classes)
        facts = {
            "status": "finished",
            "test": {
                "loss": float(trainer.callback_metrics["test/loss"]),
                "acc": float(trainer.callback_metrics["test/acc"]),
                **({"acc_tta": float(trainer.callback_metrics["test/acc_tta"])} if cfg.tta == "flip" else {}),
                "acc_per_class": {score.name: score.recall for score in scores},
            },
            **summary.training(rows, cfg.monitor, cfg.target_acc),
            "lr": {"value": lr, "source": lr_source},
            "calibration": calibration.summary(said),
            "parameters": sum(p.numel() for p in network.parameters()),
            "protocol": {
                "images": {split: data.size(split) for split in USES},
                "tested_checkpoint": f"best {cfg.monitor}" if best else "last",
                "name": cfg.protocol,
                "test_selected": data.test_selected,
            },
            "seed": cfg.seed,
            **origin,
            "hardware": machine,
        }
        files.write_json(run_dir / rundir.SUMMARY, facts)
        gallery = next((c.gallery for c in callbacks if isinstance(c, Misclassified)), None)
        try:
            pixels, selected = data.pixels, data.test_selected
            page.write(run_dir, run_dir / rundir.PAGE, facts, said, classes, pixels, gallery, selected)
        except Exception:
            log.exception("The page could not be made; everything else is there.")
        log.info("\n%s\n", summary.table(facts, run_dir))
    return None if score is None or data.test_selected else float(score)  # no sweep selects on the test set either


def initial(cfg: DictConfig, data: DataModule, accelerator: str) -> nn.Module:
    """The run's network as training begins with it; seeds everything."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    classes = data.load().classes
    network: nn.Module = complete(build(cfg.model), "model", num_classes=len(classes), mean=data.mean, std=data.std)
    if cfg.whiten:
        some = data.pixels("train", data.batch("train", 0, WHITENING).index.numpy())
        whiten(network, torch.from_numpy(some).permute(0, 3, 1, 2))
    return network.to(memory_format=hardware.memory_format(accelerator))


def unvalidated(data: DataModule) -> dict[str, int]:
    """What a trainer has to know where no images are held out."""
    return {} if data.size("val") else {"limit_val_batches": 0}


def _benchmark(cfg: DictConfig, accelerator: str) -> bool | None:
    """Whether cuDNN tries its algorithms for each size of images; where bits shall be the same it must not."""
    asked: bool | None = cfg.trainer.get("benchmark")
    return asked if asked is not None or cfg.trainer.get("deterministic") else accelerator == "cuda" or None


def _check(cfg: DictConfig) -> None:
    """Refuse, before anything is loaded, what could only fail later."""
    schema.check(cfg)
    size = cfg.data.image_size
    require(1 <= size <= LARGEST, f"data.image_size={size}: it must be from 1 to {LARGEST}; all images are in memory.")
    epochs = cfg.trainer.max_epochs
    require(
        isinstance(epochs, int) and epochs > 0, f"trainer.max_epochs={epochs}: it must be a whole number, 1 or more."
    )
    require(
        cfg.monitor in MONITORS, f"monitor={cfg.monitor}: one of {', '.join(MONITORS)}; the test set selects nothing."
    )
    for name, node in cfg.callbacks.items():
        watched = node.get("monitor") if node else None
        require(
            watched in (None, *MONITORS),
            f"callbacks.{name}.monitor={watched}: one of {', '.join(MONITORS)}; the test set selects nothing.",
        )
    kept = (cfg.callbacks.get("best") or {}).get("monitor", cfg.monitor)
    require(
        kept == cfg.monitor,
        f"callbacks.best.monitor={kept}: the best checkpoint is chosen by the run's monitor={cfg.monitor}. "
        f"Take monitor={kept}.",
    )
    require(
        HydraConfig.get().mode != RunMode.MULTIRUN
        or cfg.trainer.devices in (1, "1")
        or (isinstance(cfg.trainer.devices, ListConfig) and len(cfg.trainer.devices) == 1)
        or (cfg.trainer.devices == "auto" and torch.cuda.device_count() <= 1),
        f"trainer.devices={cfg.trainer.devices}: a sweep in one process cannot start several per run. "
        "Leave out -m, and let the shell sweep: for seed in 0 1 2; do python train.py trainer=ddp seed=$seed; done",
    )
    devices, nodes, started = cfg.trainer.devices, cfg.trainer.get("num_nodes", 1), processes.started()
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
    require("trials" not in cfg.sweep, "sweep=search is made of many runs: add -m.")
    every = cfg.trainer.check_val_every_n_epoch
    require(
        isinstance(every, int) and 1 <= every <= epochs,
        f"trainer.check_val_every_n_epoch={every}: it must be a whole number from 1 to trainer.max_epochs={epochs}.",
    )
    require(
        cfg.trainer.get("limit_val_batches", 1) != 0 and not cfg.trainer.get("fast_dev_run"),
        "trainer.limit_val_batches=0 and trainer.fast_dev_run would leave nothing to judge by: take data.val_size=0.",
    )
    share = cfg.data.start_share
    require(
        isinstance(share, (int, float)) and 0 <= share < 1,
        f"data.start_share={share}: it must be a number from 0 to below 1, for training has to end at full size.",
    )
    if cfg.data.val_size == 0 and cfg.data.fold is None and cfg.protocol == "honest":
        require(
            "plateau" not in cfg.scheduler["_target_"],
            "scheduler=plateau follows the validation, but data.val_size=0 leaves none. Hold images out, or take "
            "scheduler=onecycle, multistep, cosine or constant.",
        )


def _callbacks(cfg: DictConfig, validates: bool) -> list[Callback]:
    """The config's callbacks, without validation not those that watch it; those of every run; a bar for a person."""
    callbacks: list[Callback] = [Guard(cfg.run_dir), FirstSteps(Path(cfg.run_dir) / rundir.FIRST_STEPS)]
    for name, node in cfg.callbacks.items():
        if node is None:
            continue
        watched = node.get("monitor")
        if watched and not validates:
            require(name == "best", f"callbacks.{name} watches {watched}, but data.val_size=0 leaves no validation.")
            log.info("No validation (data.val_size=0): no best checkpoint is kept, the last one is tested.")
            continue
        callbacks.append(build(node, f"callbacks.{name}"))
    hydra = HydraConfig.get()
    # A search's trial. Further processes of one run have no sweep.dir: it would be another one for each.
    if hydra.mode == RunMode.MULTIRUN and (study := Path(hydra.sweep.dir) / rundir.STUDY).exists():
        known = {"study": study, "run": Path(cfg.run_dir).name, "monitor": cfg.monitor}
        callbacks.append(complete(build(cfg.sweep.prune), "sweep.prune", **known))
    return [*callbacks, TQDMProgressBar(refresh_rate=10)] if sys.stdout.isatty() else callbacks
