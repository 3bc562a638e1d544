"""A search: Optuna proposes trials and learns from their results."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, Trial, TrialState

from cifar_pl.errors import UserError, require
from cifar_pl.runs import record, rundir
from cifar_pl.sweeps.jobs import Job, Sweep
from cifar_pl.sweeps.slots import Slot, Work
from cifar_pl.sweeps.study import RUN, distribution, load, tell
from cifar_pl.sweeps.sweep import Check

LIMITS = {"trials": (1, 100_000), "seed": (0, 2**31), "startup": (0, 100_000), "warmup": (0, 100_000)}


def trials(config: DictConfig, sweep: Sweep, typed: Mapping[str, Override], check: Check) -> list[Work]:
    """What is left of a search, one function per trial; an interrupted trial resumes.

    Lists and intervals, in `typed` or else in `sweep.space`, are the space; what has one value is fixed.
    """
    options = config.sweep
    for name, (low, high) in LIMITS.items():
        require(low <= options[name] <= high, f"sweep.{name}={options[name]}: it must be from {low} to {high}.")
    require(
        config.protocol == "honest"
        and (config.data.val_size or config.data.fold is not None)
        and config.callbacks.get("epoch_log")
        and config.get("minutes") is None,
        "sweep=search judges by validation, epoch by epoch: it needs protocol=honest, images held out, "
        "callbacks.epoch_log, and trainer.max_epochs in place of minutes.",
    )
    default = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in options.space.items()])
    by_key = {o.get_key_element(): o for o in (*default, *typed.values())}
    space = {key: distribution(o) for key, o in by_key.items() if o.is_sweep_override()}
    fixed = [str(o.input_line) for o in by_key.values() if not o.is_sweep_override()]
    require(space, "sweep=search: there is nothing to choose from. Give a list or an interval, or sweep.space.")
    check([[*fixed, *(f"{k}={v}" for k, v in choice.items())] for choice in _each_choice(space)])

    sweep.total = options.trials
    sweep.directory.mkdir(parents=True, exist_ok=True)
    study = load(sweep.directory / rundir.STUDY, config.monitor)
    now = {"overrides": sorted(fixed), "monitor": config.monitor}
    before = study.user_attrs.get("fixed", now)
    require(
        before == now,
        f"sweep.resume={sweep.directory}: a search continues as it started, with {before}, not with {now}. "
        "Only sweep.* and the ends of intervals may differ.",
    )
    for trial in study.get_trials(deepcopy=False):
        for key in trial.distributions.keys() & space.keys():
            was, is_ = trial.distributions[key], space[key]
            try:
                check_distribution_compatibility(was, is_)
            except ValueError as error:
                raise UserError(
                    f"sweep.resume={sweep.directory}: {key} was chosen from {was}, not from {is_}. The ends of "
                    "intervals may differ, lists may not: start another search."
                ) from error
    study.set_user_attr("fixed", now)
    study.set_user_attr("pruner", {"n_startup_trials": options.startup, "n_warmup_steps": options.warmup})
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials))  # not the first proposals again

    def job(trial: Trial | FrozenTrial) -> Job:
        varied = [f"{key}={value}" for key, value in trial.params.items()]
        short = [f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items()]
        return sweep.job([*fixed, *varied], short, trial.number)

    def launch(slot: Slot, interrupted: FrozenTrial | None = None) -> None:
        trial = interrupted or study.ask(space)
        own = job(trial)
        Trial(study, trial._trial_id).set_user_attr(RUN, own.directory.name)
        sweep.launch(own, slot)
        tell(study, trial.number, record.read(own.directory), config.monitor)

    over = study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])
    for trial in over:
        job(trial)
    started = [t for t in study.get_trials(states=[TrialState.RUNNING]) if t.params.keys() == space.keys()]
    new = max(0, options.trials - len(over) - len(started))  # failed trials are replaced
    return [*(partial(launch, interrupted=t) for t in started), *[launch] * new]


def _each_choice(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Parameters in which every choice of every list occurs."""
    lists = {k: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low] for k, d in space.items()}  # type: ignore[attr-defined]
    longest = max(map(len, lists.values()))
    return [{k: values[min(n, len(values) - 1)] for k, values in lists.items()} for n in range(longest)]
