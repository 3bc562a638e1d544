"""CIFAR-10 experiment bench: train ResNet18, then look at what it gets wrong.

The path of an image: bytes on disk -> `data` (uint8 arrays, split, augmented, batches of uint8) -> `models/resnet`
(which normalises) -> `training/classifier` (loss, metrics) -> `evaluation` (predictions, Grad-CAM) ->
`reporting` (the page). `training/experiment` puts the parts together out of `conf/`; `cli/command` wraps it on a shell.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cifar_pl.errors import UserError

if TYPE_CHECKING:
    from cifar_pl.api import Prediction, Run, compare, open_run, train
    from cifar_pl.reporting.notebook import Comparison, Gallery

__all__ = ["Comparison", "Gallery", "Prediction", "Run", "UserError", "compare", "open_run", "train"]

# albumentations asks the network for a newer version at every import, in every worker (2 s offline).
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # 5 s of torch and Lightning that `import cifar_pl` does without
    return getattr(import_module("cifar_pl.api"), name)
