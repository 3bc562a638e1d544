"""A trial of a search reports to its study, and ends early if most trials did better by then."""

from pathlib import Path

import optuna
from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_pl.sweeps import study as studies


class Prune(Callback):
    """Reports the monitored value after every validation; stops training if the median pruner decides so."""

    def __init__(self, study: Path, run: str, monitor: str) -> None:
        """Report to the trial that belongs to this run directory; do nothing if there is none."""
        self._monitor = monitor
        loaded = studies.load(study, monitor)
        loaded.pruner = optuna.pruners.MedianPruner(**loaded.user_attrs["pruner"])
        own = [t for t in loaded.trials if t.user_attrs.get(studies.RUN) == run]
        self._trial = optuna.trial.Trial(loaded, own[0]._trial_id) if own else None
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, ask."""
        if self._trial is None or trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._trial.report(float(trainer.callback_metrics[self._monitor]), trainer.current_epoch + 1)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if not last and self._trial.should_prune():
            self.pruned = trainer.should_stop = True
