"""Thin hooks: each decides when, and calls a function of another module that does the work.

Deleting any of them changes no weight and no accuracy (`Guard` only ends a run). They write on the first process only.
"""

from cifar_pl.training.callbacks.dashboard import Dashboard
from cifar_pl.training.callbacks.deadline import Deadline
from cifar_pl.training.callbacks.epoch_log import EpochLog
from cifar_pl.training.callbacks.explore import Explore
from cifar_pl.training.callbacks.first_steps import FirstSteps
from cifar_pl.training.callbacks.guard import Guard
from cifar_pl.training.callbacks.last import Last
from cifar_pl.training.callbacks.misclassified import Misclassified

__all__ = ["Dashboard", "Deadline", "EpochLog", "Explore", "FirstSteps", "Guard", "Last", "Misclassified"]
