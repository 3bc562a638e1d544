"""`resume=RUN`: a run goes on in its own directory with its own config; `sweep.resume=` runs what a sweep lacks."""

import logging
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cifar_pl.config import schema
from cifar_pl.errors import require
from cifar_pl.runs import rundir
from cifar_pl.runs.overrides import key_of, merged, quoted

log = logging.getLogger(__name__)

SWEEP = "multirun.yaml"
NO_SUBDIR = "hydra.output_subdir=null"  # a refused resume leaves the run's .hydra as it was
# What may differ, because it does not change a single weight, and where else in a run's config it stands.
FREE = {
    "trainer.max_epochs": "callbacks.dashboard.hparams.training/epochs",
    "data.num_workers": "datamodule.num_workers",
}
TARGET = re.compile(r"_target_\s*[:=]\s*['\"]?([\w.]+)")  # in an override
EXPANDED = {"hydra.run.dir", "hydra.output_subdir", "hydra.job.name"}  # by us, and by Lightning for its processes
# Of a sweep, what cannot run a command on this machine.
LAUNCH = {"hydra/launcher", "hydra.sweep.dir"} | {
    f"hydra.launcher.{name}"
    for name in ("name", "timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb", "array_parallelism", "partition")
}


def arguments(argv: list[str]) -> list[str]:
    """The command line with `resume=` or `sweep.resume=` expanded: the directory, and for a sweep its overrides.

    Raises:
        UserError: more is given than may differ, or there is no run or no sweep to resume.
    """
    if sweep := _asked(argv, "sweep.resume="):
        return _sweep(argv, Path(sweep))
    asked = _asked(argv, "resume=")
    if not asked:
        return argv
    require(
        not {"-m", "--multirun"} & set(argv),
        "resume= goes on with one run: leave out -m. For a sweep: python train.py -m sweep.resume=DIR.",
    )
    expanded = NO_SUBDIR in argv  # Lightning starts further processes with our own line
    known = {"resume", *FREE} | (EXPANDED if expanded else set())
    others = [a for a in argv if key_of(a) not in known and not TARGET.search(a)]
    directory = Path(asked) if expanded else rundir.find(asked)
    require(
        not others,
        f"resume={asked}: a run goes on with its own config, {directory / rundir.CONFIG}; only {' and '.join(FREE)} "
        f"may be given anew. Leave out {' '.join(others)}, or start a new run with it.",
    )
    if expanded:
        return argv
    free = [a for a in argv if key_of(a) in FREE or TARGET.search(a)]
    return [*free, f"resume={quoted(directory)}", f"hydra.run.dir={quoted(directory)}", NO_SUBDIR]


def _asked(argv: list[str], name: str) -> str | None:
    """The last value of `name`; None where there is none."""
    values = [a.removeprefix(name).strip("'\"") for a in argv if a.startswith(name)]
    return values[-1] if values and values[-1] not in ("", "null") else None


def _sweep(argv: list[str], directory: Path) -> list[str]:
    file = directory / SWEEP
    require(file.is_file(), f"sweep.resume={directory}: this is not a sweep's directory (it has no {SWEEP}).")
    saved: Any = OmegaConf.load(file)
    known = OmegaConf.is_dict(saved)
    typed: list[Any] = [
        OmegaConf.select(saved, f"hydra.overrides.{kind}") if known else None for kind in ("task", "hydra")
    ]
    require(all(OmegaConf.is_list(part) for part in typed), f"{file} names no overrides. It is damaged.")
    old = [str(o) for part in typed for o in part if o != "hydra.mode=MULTIRUN"]
    require(
        not _asked(argv, "resume="), "resume= goes on with one run, sweep.resume= with a sweep: leave one of them out."
    )
    flags = [a for a in argv if a.startswith("-") and a not in ("-m", "--multirun")]
    require(not flags, f"{' '.join(flags)}: sweep.resume= takes overrides alone.")
    new = [a for a in argv if not a.startswith(("-", "sweep.resume="))]
    again = {key_of(a) for a in new}
    risky = [o for o in old if key_of(o) not in again and not _harmless(o)]
    require(
        not risky,
        f"sweep.resume={directory}: {file.name} has {' '.join(risky)}, which could run any program. If it is yours, "
        "type it again.",
    )
    kept = [a for a in merged(old, new) if not a.startswith(("hydra.sweep.dir=", "sweep.resume="))]
    return ["-m", *kept, f"sweep.resume={quoted(directory)}", f"hydra.sweep.dir={quoted(directory)}"]


def _harmless(override: str) -> bool:
    key = key_of(override)
    return not TARGET.search(override) and (not key.startswith("hydra") or key in LAUNCH)


def config(asked: DictConfig, run_dir: Path) -> DictConfig:
    """The config of the run in `run_dir`, with what `asked` has typed anew of `FREE`.

    Its `resume` is null if the run ended before its first epoch did: it begins again.

    Raises:
        UserError: the config names what this project's do not; the schedule does not allow `trainer.max_epochs`; or
            there is nothing left to do.
    """
    cfg = schema.of_run(run_dir)
    plain, task = OmegaConf.to_container(cfg), HydraConfig.get().overrides.task
    again = {name for override in task for name in TARGET.findall(override)}
    strangers = schema.named(plain) - schema.targets() - again
    require(
        not strangers,
        f"resume={run_dir}: {rundir.CONFIG} names {', '.join(sorted(strangers))}, not of this project's configs, which "
        "could run any program. If it is yours, type the override with its _target_ again.",
    )
    schema.require_resolved(plain)
    require(
        Path(cfg.run_dir) == Path(asked.run_dir),
        f"resume={run_dir}: the run was made in {cfg.run_dir}, and its checkpoints know that path. Move it back.",
    )
    planned = cfg.trainer.max_epochs
    for key, copy in FREE.items():
        if key in map(key_of, task):
            for place in (key, copy):
                if OmegaConf.select(cfg, place) is not None:  # a callback may be left out
                    OmegaConf.update(cfg, place, OmegaConf.select(asked, key))
    epochs = cfg.trainer.max_epochs
    require(
        epochs == planned or (isinstance(epochs, int) and epochs > planned and _may_grow(cfg)),
        f"trainer.max_epochs={epochs}: the run was planned for {planned} epochs. It may only grow, and only where "
        "nothing depends on it: a schedule that is constant, plateau, or multistep with milestones in epochs, a "
        "warm-up in epochs, and images of one size throughout (data.start_share=0).",
    )
    require(
        rundir.state(run_dir)["status"] != "finished" or epochs > planned,
        f"resume={run_dir}: the run is finished. If its schedule allows more epochs, raise trainer.max_epochs.",
    )
    begun = (run_dir / rundir.LAST).is_file()
    require(begun or not _has_results(run_dir), f"resume={run_dir}: it has no {rundir.LAST} to go on from. Begin anew.")
    cfg.resume = str(run_dir) if begun else None
    if not begun:
        log.info("The run ended before its first epoch did: it begins again.")
    return cfg


def _has_results(run_dir: Path) -> bool:
    """Whether more than one epoch, whose row comes before its checkpoint, would be lost by beginning again."""
    from cifar_pl.runs.summary import read_metrics  # numpy, which --help does without

    return len(read_metrics(run_dir / rundir.METRICS)) > 1 or (run_dir / rundir.SUMMARY).is_file()


def _may_grow(cfg: DictConfig) -> bool:
    """Whether more epochs leave everything before them as it is."""
    scheduler = cfg.scheduler
    name = scheduler["_target_"].rpartition(".")[2]
    if cfg.data.start_share > 0 and cfg.data.start_scale < 1:
        return False
    if 0 < scheduler.get("warmup", 0) < 1:  # a fraction of the run
        return False
    if name == "multistep":
        return all(isinstance(m, int) for m in scheduler["milestones"])
    return name in ("plateau", "constant")
