"""A trial of a search tells its study how it fares, and ends where most did better by then."""

from pathlib import Path

import optuna
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_pl.sweeps import search


class Prune(Callback):
    """Reports the monitored value after every validation; stops training where the median pruner says so."""

    def __init__(self, study: Path, run: str, monitor: str) -> None:
        """Take part in the study in this file as the trial whose run directory has this name, if it is one."""
        self._monitor = monitor
        found = search.load(study, monitor)
        found.pruner = optuna.pruners.MedianPruner(**found.user_attrs["pruner"])
        own = [t for t in found.trials if t.user_attrs.get(search.RUN) == run]
        self._trial = optuna.trial.Trial(found, own[0]._trial_id) if own else None
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, ask."""
        if self._trial is None or trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._trial.report(float(trainer.callback_metrics[self._monitor]), trainer.current_epoch + 1)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if not last and self._trial.should_prune():
            self.pruned = trainer.should_stop = True
