"""A search: Optuna proposes the next trial and learns from what came of it; its study lies in the sweep's directory."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL

from cifar_pl.errors import require
from cifar_pl.runs import files, rundir
from cifar_pl.runs.monitors import MONITORS
from cifar_pl.sweeps.slots import Slot, Work
from cifar_pl.sweeps.sweep import Check, Job, Sweep

NAME, RUN = "cifar-pl", "run"  # the study; a trial's attribute, the name of its run directory
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
    for name, least, most in (
        ("trials", 1, 100_000),
        ("seed", 0, 2**31),
        ("startup", 0, 100_000),
        ("warmup", 0, 100_000),
    ):
        require(least <= wanted[name] <= most, f"sweep.{name}={wanted[name]}: it must be from {least} to {most}.")
    require(
        config.protocol == "honest"
        and (config.data.val_size or config.data.fold is not None)
        and config.callbacks.get("epoch_log"),
        "sweep=search judges by validation: it needs protocol=honest, images held out, and callbacks.epoch_log.",
    )
    by_key = {o.get_key_element(): o for o in (*_default_space(config), *typed.values())}
    space = {key: _distribution(o) for key, o in by_key.items() if o.is_sweep_override()}
    fixed = [str(o.input_line) for o in by_key.values() if not o.is_sweep_override()]
    require(space, "sweep=search: there is nothing to choose from. Give a list or an interval, or sweep.space.")
    check([[*fixed, *(f"{k}={v}" for k, v in choice.items())] for choice in _each_choice(space)])

    sweep.total = wanted.trials
    sweep.directory.mkdir(parents=True, exist_ok=True)
    study = load(sweep.directory / rundir.STUDY, config.monitor)
    begun_with = study.user_attrs.get("fixed", known := {"overrides": sorted(fixed), "monitor": config.monitor})
    require(
        begun_with == known,
        f"sweep.resume={sweep.directory}: a search goes on as it began, with {begun_with}, not with {known}. "
        "Only sweep.* and the space may differ.",
    )
    study.set_user_attr("fixed", known)
    study.set_user_attr("pruner", {"n_startup_trials": wanted.startup, "n_warmup_steps": wanted.warmup})
    study.sampler = optuna.samplers.TPESampler(seed=wanted.seed + len(study.trials))  # go on, do not begin again

    def job(trial: Trial | FrozenTrial) -> Job:
        varied = [f"{key}={value}" for key, value in trial.params.items()]
        short = [f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items()]
        return sweep.job([*fixed, *varied], short, trial.number)

    def one(slot: Slot, known: FrozenTrial | None = None) -> None:
        trial = known or study.ask(space)
        this = job(trial)
        Trial(study, trial._trial_id).set_user_attr(RUN, this.directory.name)
        sweep.launch(this, slot)
        _tell(study, this, config.monitor)

    over = study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])
    begun = [t for t in study.get_trials(states=[TrialState.RUNNING]) if t.params.keys() == space.keys()]
    for trial in over:
        job(trial)
    new = wanted.trials - len(over) - len(begun)  # in place of what failed, too
    return [*(partial(one, known=t) for t in begun), *[one] * max(0, new)]


def load(path: Path, monitor: str) -> optuna.Study:
    """The study in an SQLite file, or a new one, which looks for the best `monitor`."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Patience, because every trial's process writes into this file.
    url = str(URL.create("sqlite", database=str(path)))  # whatever its name holds
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCKED}})
    direction: Literal["minimize", "maximize"] = "maximize" if MONITORS[monitor] == "max" else "minimize"
    return optuna.create_study(study_name=NAME, storage=storage, direction=direction, load_if_exists=True)


def _tell(study: optuna.Study, job: Job, monitor: str) -> None:
    """Enter what came of a trial; one that was interrupted stays open."""
    status = job.status()
    if status == "finished":
        summary = files.read_json(job.directory / rundir.SUMMARY)
        best = {} if summary["protocol"]["test_selected"] else summary["val"] or {}
        value = best.get({"val/acc": "best_acc", "val/loss": "best_loss"}[monitor])  # None: it was NaN
        study.tell(job.number, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    elif status in ("pruned", "failed"):
        study.tell(job.number, state=TrialState.PRUNED if status == "pruned" else TrialState.FAIL)


def _each_choice(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Parameters in which every choice of every list occurs."""
    lists = {k: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low] for k, d in space.items()}  # type: ignore[attr-defined]
    longest = max(map(len, lists.values()))
    return [{k: values[min(n, len(values) - 1)] for k, values in lists.items()} for n in range(longest)]


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
    require(value.start > 0 or not log, f"{override.input_line}: on a log scale an interval begins above 0.")
    return FloatDistribution(value.start, value.end, log=log)
