"""A search: Optuna proposes the next trial and learns from what came of it; its study lies in the sweep's directory."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from cifar_pl import rundir
from cifar_pl.errors import require
from cifar_pl.slots import Slot, Work
from cifar_pl.sweep import Check, Job, Sweep

NAME = "cifar-pl"
LOCKED = 60  # seconds to wait for another process that writes into the study


def trials(config: DictConfig, sweep: Sweep, typed: Mapping[str, Override], check: Check) -> list[Work]:
    """What is left of a search, one function per trial; a trial that was interrupted goes on.

    Args:
        config: Of the sweep.
        sweep: Launches the trials' runs.
        typed: The command line's overrides: lists and intervals are the space, what has one value is fixed.
        check: Raises where overrides cannot be composed.

    Raises:
        UserError: the search has nothing to go by or to choose from.
    """
    wanted = config.sweep
    require(config.protocol == "honest", "sweep=search judges by validation, which protocol=published does not have.")
    require(isinstance(wanted.trials, int) and wanted.trials > 0, f"sweep.trials={wanted.trials}: 1 or more.")
    by_key = {o.get_key_element(): o for o in (*_default_space(config), *typed.values())}
    space = {key: _distribution(o) for key, o in by_key.items() if o.is_sweep_override()}
    fixed = [str(o.input_line) for o in by_key.values() if not o.is_sweep_override()]
    require(space, "sweep=search: there is nothing to choose from. Give a list or an interval, or sweep.space.")
    sweep.directory.mkdir(parents=True, exist_ok=True)
    sweep.total = wanted.trials
    study = load(sweep.directory / rundir.STUDY, config.mode)
    study.sampler = optuna.samplers.TPESampler(seed=wanted.seed + len(study.trials))  # go on, do not begin again
    study.set_user_attr("pruner", {"n_startup_trials": wanted.startup, "n_warmup_steps": wanted.warmup})

    def job(trial: Trial | FrozenTrial) -> Job:
        varied = [f"{key}={value}" for key, value in trial.params.items()]
        short = [f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items()]
        return sweep.job([*fixed, *varied], short, trial.number)

    def one(slot: Slot, known: FrozenTrial | None = None) -> None:
        this = job(known or study.ask(space))
        check([list(this.overrides)])
        sweep.launch([this], slot)
        _tell(study, this, config.monitor)

    for trial in study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]):
        job(trial)
    begun = [t for t in study.trials if t.state == TrialState.RUNNING and t.params.keys() == space.keys()]
    new = wanted.trials - len(study.trials)
    return [*(partial(one, known=t) for t in begun), *[one] * max(0, new)]


def load(path: Path, mode: str) -> optuna.Study:
    """The study in an SQLite file, or a new one; `mode` is max or min."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Patience, because every trial's process writes into this file.
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": LOCKED}})
    direction: Literal["minimize", "maximize"] = "maximize" if mode == "max" else "minimize"
    return optuna.create_study(study_name=NAME, storage=storage, direction=direction, load_if_exists=True)


def _tell(study: optuna.Study, job: Job, monitor: str) -> None:
    """Enter what came of a trial; one that was interrupted stays open."""
    status = job.facts()["status"]
    if status == "finished":
        best = rundir.read_json(job.directory / rundir.SUMMARY)["val"]
        require(best, "sweep=search judges by validation: it needs images held out, and callbacks.epoch_log.")
        study.tell(job.number, best[{"val/acc": "best_acc", "val/loss": "best_loss"}[monitor]])
    elif status in ("pruned", "failed"):
        study.tell(job.number, state=TrialState.PRUNED if status == "pruned" else TrialState.FAIL)


def _default_space(config: DictConfig) -> list[Override]:
    return OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in config.sweep.space.items()])


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    log = "log" in value.tags
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=log)
    assert value.start is not None
    assert value.end is not None
    return FloatDistribution(value.start, value.end, log=log)
