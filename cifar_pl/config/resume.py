"""`resume=RUN` continues a run in its own directory with its own config; `sweep.resume=` runs what a sweep lacks."""

import logging
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cifar_pl.config import schema
from cifar_pl.errors import require
from cifar_pl.runs import rundir
from cifar_pl.runs.overrides import TRAIN, key_of, merged, quoted
from cifar_pl.runs.summary import read_metrics

log = logging.getLogger(__name__)

NO_SUBDIR = "hydra.output_subdir=null"  # a refused resume leaves the run's .hydra as it was
# What may differ, because it does not change a single weight, and where else in a run's config it stands.
FREE = {
    "trainer.max_epochs": "callbacks.dashboard.hparams.training/epochs",
    "data.num_workers": "datamodule.num_workers",
}
TARGET = re.compile(r"_target_\s*[:=]\s*['\"]?([\w.]+)")  # in an override
EXPANDED = {"hydra.run.dir", "hydra.output_subdir", "hydra.job.name"}  # by us, and by Lightning for its processes
# What a sweep's file may say of Hydra, because it cannot run a command.
LAUNCH = {"hydra/launcher", "hydra.sweep.dir"} | {
    f"hydra.launcher.{name}"
    for name in ("name", "timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb", "array_parallelism", "partition")
}


def arguments(argv: list[str]) -> list[str]:
    """The command line with `resume=` or `sweep.resume=` expanded: the directory, and a sweep's overrides."""
    sweep, run = _last(argv, "sweep.resume="), _last(argv, "resume=")
    if sweep:
        return _sweep(argv, Path(sweep))
    if not run:
        return argv
    require(
        not {"-m", "--multirun"} & set(argv),
        f"resume= continues one run: leave out -m. For a sweep: {TRAIN} -m sweep.resume=DIR.",
    )
    expanded = NO_SUBDIR in argv  # Lightning starts further processes with our own line
    known = {"resume", *FREE} | (EXPANDED if expanded else set())
    others = [a for a in argv if key_of(a) not in known and not TARGET.search(a)]
    directory = Path(run) if expanded else rundir.find_run(run)
    require(
        not others,
        f"resume={run}: a run continues with its own config, {directory / rundir.CONFIG}; only {' and '.join(FREE)} "
        f"may change. Leave out {' '.join(others)}, or start a new run with it.",
    )
    if expanded:
        return argv
    kept = [a for a in argv if key_of(a) != "resume"]
    return [*kept, f"resume={quoted(directory)}", f"hydra.run.dir={quoted(directory)}", NO_SUBDIR]


def _last(argv: list[str], name: str) -> str | None:
    """The last value of `name`; None if it has none."""
    values = [a.removeprefix(name).strip("'\"") for a in argv if a.startswith(name)]
    return values[-1] if values and values[-1] not in ("", "null") else None


def _sweep(argv: list[str], directory: Path) -> list[str]:
    file = directory / rundir.SWEEP
    require(file.is_file(), f"sweep.resume={directory}: this is not a sweep's directory (it has no {rundir.SWEEP}).")
    saved: Any = OmegaConf.load(file)
    named: Any = OmegaConf.select(saved, "hydra.overrides") if OmegaConf.is_dict(saved) else None
    typed: list[Any] = [named.get(kind) for kind in ("task", "hydra")] if OmegaConf.is_dict(named) else [None]
    require(all(map(OmegaConf.is_list, typed)), f"{file} names no overrides. It is damaged.")
    require(not _last(argv, "resume="), "resume= continues a run, sweep.resume= a sweep: leave one of them out.")
    flags = [a for a in argv if a.startswith("-") and a not in ("-m", "--multirun")]
    require(not flags, f"{' '.join(flags)}: sweep.resume= takes overrides alone.")
    old = [str(o) for part in typed for o in part if o != "hydra.mode=MULTIRUN"]
    new = [a for a in argv if not a.startswith(("-", "sweep.resume="))]
    again = set(map(key_of, new))
    left = [o for o in old if key_of(o) not in again]
    risky = [o for o in left if TARGET.search(o) or (key_of(o).startswith("hydra") and key_of(o) not in LAUNCH)]
    require(
        not risky,
        f"sweep.resume={directory}: {file.name} has {' '.join(risky)}, which could run any program. If it is yours, "
        "type it again.",
    )
    kept = [a for a in merged(old, new) if not a.startswith(("hydra.sweep.dir=", "sweep.resume="))]
    return ["-m", *kept, f"sweep.resume={quoted(directory)}", f"hydra.sweep.dir={quoted(directory)}"]


def config(asked: DictConfig, run_dir: Path) -> DictConfig:
    """The config of the run in `run_dir`, with `FREE` as it was typed for `asked`.

    Its `resume` is null if the run has to start again, because it ended in its first epoch.
    """
    cfg, task = schema.of_run(run_dir), HydraConfig.get().overrides.task
    again = {target for override in task for target in TARGET.findall(override)}
    schema.allow(cfg, *schema.targets(), *again, hint=" If it is yours, type the override with its _target_ again.")
    require(
        Path(cfg.run_dir) == Path(asked.run_dir),
        f"resume={run_dir}: the run was made in {cfg.run_dir}, and its checkpoints have that path. Move it back.",
    )
    planned = cfg.trainer.max_epochs
    for key, copy in FREE.items():
        for place in (key, copy) if key in map(key_of, task) else ():
            if OmegaConf.select(cfg, place) is not None:  # a callback may be left out
                OmegaConf.update(cfg, place, OmegaConf.select(asked, key))
    epochs = cfg.trainer.max_epochs
    require(
        epochs == planned or (isinstance(epochs, int) and epochs > planned and may_grow(cfg)),
        f"trainer.max_epochs={epochs}: the run was planned for {planned} epochs. It may only grow, and only if "
        "nothing depends on it: a schedule that is constant, plateau, or multistep with milestones in epochs, a "
        "warm-up in epochs, and images of one size throughout (data.start_share=0).",
    )
    require(
        rundir.state(run_dir)["status"] != "finished" or epochs > planned,
        f"resume={run_dir}: the run is finished. If its schedule allows more epochs, raise trainer.max_epochs.",
    )
    started = (run_dir / rundir.LAST).is_file()
    # An epoch's row comes before its checkpoint: one row may be there.
    require(
        started or not ((run_dir / rundir.SUMMARY).is_file() or len(read_metrics(run_dir / rundir.METRICS)) > 1),
        f"resume={run_dir}: it has no {rundir.LAST} to continue from. Start a new run.",
    )
    cfg.resume = str(run_dir) if started else None
    if not started:
        log.info("The run ended in its first epoch: it starts again.")
    return cfg


def may_grow(cfg: DictConfig) -> bool:
    """Whether more epochs leave everything before them as it is."""
    scheduler = cfg.scheduler
    name = scheduler["_target_"].rpartition(".")[2]
    if (cfg.data.start_share > 0 and cfg.data.start_scale < 1) or 0 < scheduler.get("warmup", 0) < 1:
        return False
    if name == "multistep":
        return all(isinstance(m, int) for m in scheduler["milestones"])
    return name in ("plateau", "constant")
