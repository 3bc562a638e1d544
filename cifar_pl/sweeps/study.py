"""Optuna's study of a search, a file in the sweep's directory, and the callback by which a trial reports to it."""

import logging
from pathlib import Path
from typing import Literal

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState
from pytorch_lightning import Callback, LightningModule, Trainer
from sqlalchemy import URL

from cifar_pl.errors import require
from cifar_pl.runs.monitors import MONITORS
from cifar_pl.runs.record import Record

NAME, RUN = "cifar-pl", "run"  # the study; a trial's attribute, the name of its run directory
LOCKED = 60  # seconds to wait for another process that writes into the study


def load(path: Path, monitor: str) -> optuna.Study:
    """The study in an SQLite file, or a new one, which looks for the best `monitor`."""
    direction: Literal["minimize", "maximize"] = "maximize" if MONITORS[monitor] == "max" else "minimize"
    return optuna.create_study(study_name=NAME, storage=_storage(path), direction=direction, load_if_exists=True)


def opened(path: Path) -> optuna.Study:
    """The study in an SQLite file; KeyError if there is none."""
    return optuna.load_study(study_name=NAME, storage=_storage(path))


def _storage(path: Path) -> optuna.storages.RDBStorage:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = str(URL.create("sqlite", database=str(path)))  # any path
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCKED}})


def tell(study: optuna.Study, trial: int, run: Record, monitor: str) -> None:
    """Enter the result of a trial; one that was interrupted stays open."""
    if run.status == "finished":
        best = {} if run.test_selected else run.summary["val"] or {}
        value = best.get(f"best_{monitor.removeprefix('val/')}")  # None: it was NaN
        study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    elif run.status in ("pruned", "failed"):
        study.tell(trial, state=TrialState.PRUNED if run.status == "pruned" else TrialState.FAIL)


def distribution(override: Override) -> BaseDistribution:
    """Where Optuna draws the value of an override that is a list or an interval."""
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    low, high, log = value.start, value.end, "log" in value.tags
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    require(low > 0 or not log, f"{override.input_line}: on a log scale an interval must start above 0.")
    return FloatDistribution(low, high, log=log)


class Prune(Callback):
    """Reports the monitored value after every validation; stops training if most trials did better by then."""

    def __init__(self, study: Path, run: str, monitor: str) -> None:
        """Report to the trial whose run directory has this name; do nothing if there is none."""
        self._monitor, loaded = monitor, load(study, monitor)
        loaded.pruner = optuna.pruners.MedianPruner(**loaded.user_attrs["pruner"])
        trials = [trial for trial in loaded.trials if trial.user_attrs.get(RUN) == run]
        self._trial = Trial(loaded, trials[0]._trial_id) if trials else None
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._trial is None or trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1
        self._trial.report(float(trainer.callback_metrics[self._monitor]), epoch)
        if epoch < (trainer.max_epochs or 0) and self._trial.should_prune():
            self.pruned = trainer.should_stop = True
