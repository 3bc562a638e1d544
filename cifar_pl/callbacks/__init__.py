"""Thin hooks: each decides when, and lets a function of another module do the work.

Deleting any of them changes no weight and no accuracy. They write on the first process only.
"""

from cifar_pl.callbacks.dashboard import Dashboard
from cifar_pl.callbacks.epoch_log import EpochLog
from cifar_pl.callbacks.misclassified import Misclassified
from cifar_pl.callbacks.progress import Progress

__all__ = ["Dashboard", "EpochLog", "Misclassified", "Progress"]
