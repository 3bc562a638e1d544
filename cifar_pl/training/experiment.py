"""One run: check, build, find the rate, fit, test once, publish."""

import logging
import sys
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar

from cifar_pl.config import checks, parts, resume
from cifar_pl.config.build import build
from cifar_pl.data.datamodule import DataModule
from cifar_pl.errors import Pruned, require
from cifar_pl.evaluation import calibration
from cifar_pl.evaluation.gallery import Gallery
from cifar_pl.evaluation.metrics import scores
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference.kept import explored
from cifar_pl.machine import hardware, processes
from cifar_pl.reporting import page
from cifar_pl.runs import files, overrides, rundir, summary
from cifar_pl.runs.monitors import TEST_SELECTED
from cifar_pl.training import budget, learning_rate
from cifar_pl.training.callbacks import Deadline, EpochLog, FirstSteps, Guard, Misclassified
from cifar_pl.training.classifier import Classifier

log = logging.getLogger(__name__)

USES = {"train": "train on", "val": "validate on", "test": "test on"}


def run(cfg: DictConfig) -> float | None:
    """Run one experiment in its run directory; the best monitored value, or None without a validation of its own."""
    run_dir = Path(cfg.run_dir)
    resumed = bool(cfg.resume) or (processes.requeued() and rundir.is_run(run_dir))
    if resumed:
        cfg = resume.config(cfg, run_dir)
    elif processes.rank() == 0:
        way_out = f"resume={run_dir} continues it; for a new run, name another directory."
        require(not rundir.has_results(run_dir), f"{run_dir} holds a run already. {way_out}")
    hardware.keep_memory()
    before = rundir.state(run_dir) if resumed else {}
    typed = [o for o in HydraConfig.get().overrides.task if overrides.key_of(o) != "resume"]
    origin = summary.provenance()  # now: the code may have changed when the run ends
    if "trainer.max_epochs" not in map(overrides.key_of, typed):
        origin |= {key: value for key, value in before.items() if key in ("planned", "planned_minutes")}
    typed = overrides.merged(before.get("overrides", []), typed)
    origin["overrides"] = typed
    if cfg.resume and (git := before.get("git")) != origin["git"]:
        log.warning("!! The run was started by other code (%s) than resumes it (%s).", git, origin["git"])
        origin["git"] = {**(origin["git"] or {"commit": None}), "dirty": True, "begun": git}
    plan, sweep = None, HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with rundir.tracked(run_dir, **origin) if processes.rank() == 0 else nullcontext() as add:
            if cfg.get("minutes") is not None and not resumed:
                plan = budget.plan(cfg, [o for o in typed if overrides.key_of(o) != "minutes"], sweep)
                cfg, facts = plan.cfg, {"planned": plan.overrides, "planned_minutes": plan.minutes}
                origin |= facts
                if add:
                    add(**facts)
            return _run(cfg, run_dir, origin, sweep, plan)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # a sweep keeps the error; it need not keep the network
        raise


def _run(cfg: DictConfig, run_dir: Path, origin: dict[str, Any], sweep: bool, plan: budget.Plan | None) -> float | None:
    first = processes.rank() == 0
    checks.check(cfg, sweep)
    cfg = cfg.copy()
    cfg.data.root = str(Path(cfg.data.root).absolute())  # the run may be opened from another directory
    machine = parts.machine(cfg)
    computer = {**hardware.describe(machine.gpu), "precision": machine.precision, "accelerator": machine.accelerator}
    if first:
        for old in () if cfg.resume else rundir.FIRST_FILES:  # of an attempt that ended in its first epoch
            (run_dir / old).unlink(missing_ok=True)
        files.write(run_dir / rundir.CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        files.write(run_dir / rundir.OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(origin["overrides"])))

    # Everything that may refuse is built before the range test, which takes minutes.
    data = parts.data(cfg, machine.accelerator)
    log.info("Images: %s", ", ".join(f"{data.size(split)} to {use}" for split, use in USES.items()))
    if data.test_selected:
        log.warning("!! protocol=published: test images stand in for the validation; the result is %s.", TEST_SELECTED)
    network = parts.network(cfg, data, machine.accelerator)
    lr, source = float(cfg.optimizer.lr), learning_rate.CONFIGURED
    classifier: Classifier = parts.classifier(cfg, network, data, lr)
    study = Path(HydraConfig.get().sweep.dir) / rundir.STUDY if sweep else None
    callbacks = [Guard(run_dir), FirstSteps(run_dir / rundir.FIRST_STEPS), *parts.callbacks(cfg, data, study)]
    callbacks += [Deadline(partial(plan.costs.training, epochs=plan.epochs))] if plan else []
    notebook = "ipykernel" in sys.modules and find_spec("ipywidgets")  # as text it would mix with the log
    callbacks += [TQDMProgressBar(refresh_rate=10)] if sys.stdout.isatty() or notebook else []
    sample = data.batch("train", cfg.trainer.max_epochs, 1).image
    for callback in callbacks:
        if isinstance(callback, Misclassified):
            callback.check(network, sample)
    trainer = parts.trainer(cfg, machine, data, callbacks, cfg.logger)
    if (several := trainer.world_size) > 1:
        processes.each_ends_itself(trainer)
        log.info("%d processes, %d images each per step", several, data.each(several))

    if cfg.resume:
        lr, source = learning_rate.of_run(run_dir, network)
    elif cfg.lr_finder.enabled and first:  # the classifier hands the rate to the other processes
        lr, source = learning_rate.find(
            build(cfg.lr_finder),
            parts.spare(cfg, network, data),
            data.train_dataloader(),
            {**machine.one_device(), "default_root_dir": run_dir},
            build(cfg.scheduler),
            cfg.trainer.max_epochs,
            lr,
            run_dir,
        )
    where, threads = hardware.named(computer), computer["threads"]
    log.info("Rate %g (%s), %s on %s, %d threads", lr, source, machine.precision, where, threads)
    # With these a checkpoint can be used without its run.
    config = OmegaConf.to_container(cfg, resolve=True)
    classifier.hparams.update(lr=lr, config=config, precision=machine.precision, mean=data.mean, std=data.std)
    classifier.example_input_array = sample  # for sizes in the model summary
    last = str(run_dir / rundir.LAST) if cfg.resume else None
    trainer.fit(classifier, datamodule=data, ckpt_path=last, weights_only=True)
    if any(getattr(c, "pruned", False) for c in callbacks):
        raise Pruned(f"Pruned after epoch {trainer.current_epoch}: most trials of this search did better by then.")

    # Now, because the test loads a checkpoint, and with it the callbacks' state of that epoch.
    rows = [row for c in callbacks if isinstance(c, EpochLog) for row in c.rows]
    best = next((c for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor), None)
    score = best.best_model_score if best else trainer.callback_metrics.get(cfg.monitor)
    tested = best.best_model_path if best else None
    trainer.test(classifier, datamodule=data, ckpt_path=tested, verbose=False, weights_only=True)
    if first:
        # The test images are not a validation, even if they stand in for it.
        kept = {s: p for s, p in classifier.predictions.items() if s == "test" or not data.test_selected}
        summarized = {
            "status": "finished",
            **_results(data, kept, trainer.callback_metrics),
            **summary.training(rows, cfg.monitor, cfg.target_acc),
            "lr": {"value": lr, "source": source},
            "parameters": sum(p.numel() for p in network.parameters()),
            "protocol": {
                "images": {split: data.size(split) for split in USES},
                "tested_checkpoint": f"best {cfg.monitor}" if best else "last",
                "name": cfg.protocol,
                "test_selected": data.test_selected,
            },
            "seed": cfg.seed,
            **origin,
            "hardware": computer,
        }
        files.write_json(run_dir / rundir.SUMMARY, summarized)
        try:
            explained = Gallery.load(path) if (path := run_dir / rundir.GALLERY).exists() else None
            known = explored(run_dir, data)
            page.write(run_dir, run_dir / rundir.PAGE, summarized, kept, data, explained, known)
        except Exception:
            log.exception("The page could not be made; everything else is there.")
        log.info("\n%s\n", summary.table(summarized, run_dir))
    return None if score is None or data.test_selected else float(score)  # no sweep selects on the test set either


def _results(data: DataModule, kept: Mapping[str, Predictions], metrics: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the test measured, and how far the probabilities can be trusted."""
    classes = data.load().classes
    by_class = {score.name: score.recall for score in scores(kept["test"].confusion(len(classes)), classes)}
    measured = {name.removeprefix("test/"): float(value) for name, value in metrics.items() if name.startswith("test/")}
    return {"test": {**measured, "acc_per_class": by_class}, "calibration": calibration.summary(kept)}
