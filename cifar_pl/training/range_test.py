"""The learning-rate range test (Smith 2017, arXiv 1506.01186), measured with Lightning; `lr_finder` chooses.

Lightning's own suggestion is never called: since 2.5.3 it differentiates by the rate and not by its logarithm, so that
noise at the smallest rates decides.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities.seed import isolate_rng  # restores random state on errors too

from cifar_pl.errors import require
from cifar_pl.training.lr_finder import Curve, Method

MIN_STEPS, MAX_STEPS = 40, 300
SHARE = 0.03  # of the run's steps


def steps(total: int) -> int:
    """How many steps the range test of a run of `total` steps has: 3 %, but from 40 to 300."""
    return min(max(int(SHARE * total), MIN_STEPS), MAX_STEPS)


@dataclass(frozen=True, config={"strict": True})
class RangeTest:
    """What conf/lr_finder has of the range test."""

    enabled: bool
    method: Method
    apply: bool
    num_training: Annotated[int, Field(ge=MIN_STEPS)] | Literal["auto"]
    min_lr: PositiveFloat
    max_lr: PositiveFloat
    optimizer: dict[str, Any]

    def __post_init__(self) -> None:
        require(self.min_lr < self.max_lr, f"lr_finder.min_lr={self.min_lr} must be below max_lr={self.max_lr}.")


def throwaway_trainer(**options: Any) -> Trainer:
    """A trainer that leaves nothing behind and shows nothing."""
    return Trainer(
        **options,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def measure(
    classifier: LightningModule, loader: Any, trainer: dict[str, Any], num_training: int, min_lr: float, max_lr: float
) -> Curve:
    """Train for `num_training` steps while the rate grows from `min_lr` to `max_lr` on a log scale.

    The classifier is one to throw away; `trainer` has arguments of its trainer. Random state is restored. The test ends
    early at a loss that is not finite, and only there: a network that diverges at a rate often learns again at a higher
    one.
    """
    losses: list[torch.Tensor] = []  # Lightning records a moving average that lags behind
    step = classifier.training_step
    with isolate_rng():
        throwaway = throwaway_trainer(**trainer, max_epochs=math.ceil(num_training / len(loader)))

        def recorded(*arguments: Any) -> Any:
            loss: Any = step(*arguments)
            losses.append(loss.detach())
            if not torch.isfinite(loss):
                throwaway.should_stop = True
            return loss

        classifier.training_step = recorded  # type: ignore[method-assign]
        finder = Tuner(throwaway).lr_find(
            classifier,
            train_dataloaders=loader,
            num_training=num_training,
            min_lr=min_lr,
            max_lr=max_lr,
            early_stop_threshold=None,
            update_attr=False,
        )
    assert finder is not None  # None only under fast_dev_run
    loss = torch.stack(losses).cpu().double().numpy()  # in this order: Apple's GPUs have no float64
    require(
        bool(np.isfinite(loss[0])),
        f"The range test's first loss is {loss[0]}, before any step: no rate can help. Look at data.mean and data.std, "
        "the images, and the network.",
    )
    return Curve(np.array(finder.results["lr"], float)[: len(loss)], loss)
