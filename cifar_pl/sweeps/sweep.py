"""A sweep: plan, run, compare."""

import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from cifar_pl.config import schema
from cifar_pl.errors import require
from cifar_pl.reporting import comparison_page
from cifar_pl.runs import rundir
from cifar_pl.runs.compare import Comparison
from cifar_pl.runs.overrides import TRAIN, key_of
from cifar_pl.runs.record import list_runs
from cifar_pl.sweeps import searched, slots
from cifar_pl.sweeps.jobs import Sweep
from cifar_pl.sweeps.slots import Work

Check = Callable[[list[list[str]]], object]  # raises if one of some jobs' overrides cannot be composed
Plan = Callable[[DictConfig, Sweep, Mapping[str, Override], Check], list[Work]]


def run(plan: Plan, config: DictConfig, launcher: Launcher, overrides: Iterable[Override], check: Check) -> None:
    """Run the jobs of `plan` in `hydra.sweep.dir`, and write their table and page there, even if it ends early.

    The overrides of `sweep` are not passed to jobs. Every job must have a result in the end.
    """
    schema.check(OmegaConf.masked_copy(config, ["sweep"]))
    directory = Path(config.hydra.sweep.dir)
    free = slots.allocate(launcher, config.sweep.at_once)
    typed = {o.get_key_element(): o for o in overrides if o.key_or_group.partition(".")[0] != "sweep"}
    sweep = Sweep(directory, launcher)
    work = plan(config, sweep, typed, check)
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, directory / rundir.SWEEP)
    hydra = [o for o in config.hydra.overrides.hydra if not o.startswith(("hydra.mode=", "hydra.sweep.dir="))]
    try:
        slots.run_all(work, free, sweep.interrupt)
    finally:
        if any(directory.glob(f"*/{rundir.STATUS}")):
            comparison = Comparison(list_runs([directory]))
            tqdm.write(f"\n{comparison_page.text(comparison)}")
            task = [o for o in config.hydra.overrides.task if key_of(o) != "sweep.resume"]
            typed_line = [*TRAIN.split(), "-m", *task, *hydra]
            comparison_page.write(directory, comparison, typed_line, searched.read(directory))
            tqdm.write(f"Look at: {directory / comparison_page.PAGE}")
    missing = [job for job in sweep.jobs if not job.is_over()]
    require(
        not missing,
        f"{len(missing)} of {len(sweep.jobs)} runs have no result (above). Once that is fixed, "
        f"run what is missing: {TRAIN} -m sweep.resume={shlex.quote(str(directory))}",
    )


def grid(_config: DictConfig, sweep: Sweep, typed: Mapping[str, Override], check: Check) -> list[Work]:
    """Every combination of the values that `typed` lists."""
    lists = {}
    for key, override in typed.items():
        values = [str(override.input_line)]
        if override.is_sweep_override():
            endless = f"{values[0]}: an interval has infinitely many values. List some, or search: sweep=search."
            require(override.is_discrete_sweep(), endless)
            values = list(dict.fromkeys(f"{key}={value}" for value in override.sweep_string_iterator()))
        lists[key] = values
    combinations = list(itertools.product(*lists.values()))
    check([list(c) for c in combinations])
    fixed = {values[0] for values in lists.values() if len(values) == 1}
    sweep.total = len(combinations)
    jobs = [sweep.job(c, [o for o in c if o not in fixed]) for c in combinations]
    return [partial(sweep.launch, job) for job in jobs]
