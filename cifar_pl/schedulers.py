"""The learning rate over a run. Each function: optimizer, length of the run -> what Lightning steps.

All but `plateau` step once per optimizer step, so that they are exact for any number of epochs. The
optimizer's own rate is the peak of `onecycle` and the initial rate of the others.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pytorch_lightning.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau

from cifar_pl.errors import require

FOLLOWED: Mapping[str, Literal["min", "max"]] = {"val/acc": "max", "val/loss": "min", "train/last_loss": "min"}


def constant(optimizer: Optimizer, *, epochs: int, total_steps: int) -> None:
    """The same rate all along."""


def multistep(
    optimizer: Optimizer, *, epochs: int, total_steps: int, milestones: Sequence[float], gamma: float
) -> LRSchedulerConfigType:
    """Times `gamma` at each milestone: a whole number of epochs, or a fraction of the run below 1.

    Raises:
        UserError: a milestone is not inside the run.
    """
    for m in milestones:
        inside = 0 < m < (epochs if isinstance(m, int) else 1)
        require(
            inside,
            f"scheduler.milestones={list(milestones)}: {m} is not inside the run. Give whole epochs from 1 to "
            f"{epochs - 1} (the run has {epochs}), or fractions of the run between 0 and 1.",
        )
    steps = sorted(m * total_steps // epochs if isinstance(m, int) else round(m * total_steps) for m in milestones)
    return {"scheduler": MultiStepLR(optimizer, steps, gamma), "interval": "step"}


def onecycle(
    optimizer: Optimizer,
    *,
    epochs: int,
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    div_factor: float,
    final_div_factor: float,
) -> LRSchedulerConfigType:
    """Up from peak / `div_factor` for `pct_start` of the run, then down, ending at the last step.

    The last rate is peak / `div_factor` / `final_div_factor`. Smith & Topin (2018, arXiv 1708.07120).
    """
    require(anneal_strategy in ("linear", "cos"), f"scheduler.anneal_strategy={anneal_strategy}: linear or cos.")
    require(0 < pct_start < 1, f"scheduler.pct_start={pct_start}: it must be between 0 and 1.")
    if math.isclose(pct_start * total_steps, 1):  # a way up of no length, by which torch would divide
        pct_start *= 1 - 1e-6
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=pct_start,
        anneal_strategy="linear" if anneal_strategy == "linear" else "cos",
        cycle_momentum=False,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
    return {"scheduler": scheduler, "interval": "step"}


def cosine(optimizer: Optimizer, *, epochs: int, total_steps: int, eta_min: float) -> LRSchedulerConfigType:
    """Half a cosine from the rate to `eta_min` at the last step. Loshchilov & Hutter (2017, arXiv 1608.03983)."""
    return {"scheduler": CosineAnnealingLR(optimizer, max(total_steps - 1, 1), eta_min), "interval": "step"}


def plateau(
    optimizer: Optimizer,
    *,
    epochs: int,
    total_steps: int,
    monitor: str,
    factor: float,
    patience: int,
    threshold: float,
    min_lr: float,
) -> LRSchedulerConfigType:
    """Times `factor` after more than `patience` validations without a better value of `monitor`.

    `train/last_loss` is the loss of the epoch's last batch. The classifier steps the schedule at the end of
    each validation: Lightning would do so only after the epoch's checkpoint is written, and a resumed run
    would be one validation behind.
    """
    require(
        monitor in FOLLOWED,
        f"scheduler.monitor={monitor}: one of {', '.join(FOLLOWED)}; the test set selects nothing.",
    )
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode=FOLLOWED[monitor],
        factor=factor,
        patience=patience,
        threshold=threshold,
        min_lr=min_lr,
    )
    return {"scheduler": scheduler, "reduce_on_plateau": False, "monitor": monitor}
