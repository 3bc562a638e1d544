"""The learning rate over a run. Each function: optimizer, length of the run -> what Lightning steps.

All but `plateau` step once per optimizer step, so that they are exact for any number of epochs. The optimizer's own
rate is the highest of the run. Each scheduler multiplies the rate in place, so that a warm-up and a schedule can run
side by side; `warmup` is a number of epochs, or a fraction of the run below 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from pytorch_lightning.utilities.types import LRSchedulerConfigType
from torch.nn import Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau

from cifar_pl.errors import checked, require
from cifar_pl.runs.monitors import FOLLOWED

Configs = list[LRSchedulerConfigType]


def constant(optimizer: Optimizer, *, epochs: int, total_steps: int, warmup: float = 0) -> Configs:
    """The same rate throughout, after a warm-up."""
    return _warmup(optimizer, warmup, epochs, total_steps)


def multistep(
    optimizer: Optimizer,
    *,
    epochs: int,
    total_steps: int,
    milestones: Sequence[float],
    gamma: float,
    warmup: float = 0,
) -> Configs:
    """Times `gamma` at each milestone: a whole number of epochs, or a fraction of the run below 1."""
    for m in milestones:
        require(
            0 < m < (epochs if isinstance(m, int) else 1),
            f"scheduler.milestones={list(milestones)}: {m} is not inside the run. Give whole epochs from 1 to "
            f"{epochs - 1} (the run has {epochs}), or fractions of the run between 0 and 1.",
        )
    steps = sorted(_steps(m, epochs, total_steps) for m in milestones)
    first = _warmup(optimizer, warmup, epochs, total_steps)
    return [*first, {"scheduler": MultiStepLR(optimizer, steps, gamma), "interval": "step"}]


@checked
def onecycle(
    optimizer: Optimizer,
    *,
    epochs: int,
    total_steps: int,
    pct_start: Annotated[float, Field(gt=0, lt=1)],
    anneal_strategy: Literal["linear", "cos"],
    div_factor: float,
    final_div_factor: float,
) -> Configs:
    """Up from peak / `div_factor` for `pct_start` of the run, then down to that / `final_div_factor` at the last step.

    Smith & Topin (2018, arXiv 1708.07120).
    """
    if math.isclose(pct_start * total_steps, 1):  # a way up of no length, by which torch would divide
        pct_start *= 1 - 1e-6
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=pct_start,
        anneal_strategy=anneal_strategy,
        cycle_momentum=False,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
    return [{"scheduler": scheduler, "interval": "step"}]


def cosine(optimizer: Optimizer, *, epochs: int, total_steps: int, eta_min: float, warmup: float = 0) -> Configs:
    """Half a cosine from the rate to `eta_min` at the last step. Loshchilov & Hutter (2017, arXiv 1608.03983)."""
    first = _warmup(optimizer, warmup, epochs, total_steps)
    return [*first, {"scheduler": CosineAnnealingLR(optimizer, max(total_steps - 1, 1), eta_min), "interval": "step"}]


def plateau(
    optimizer: Optimizer, *, epochs: int, total_steps: int, monitor: str, warmup: float = 0, **options: float
) -> Configs:
    """Torch's `ReduceLROnPlateau`: times `factor` after more than `patience` validations that are not better.

    `train/last_loss` is the loss of the epoch's last batch. The classifier steps the schedule at the end of each
    validation: Lightning would do so only after the epoch's checkpoint is written, and a resumed run would be one
    validation behind.
    """
    first = _warmup(optimizer, warmup, epochs, total_steps)
    scheduler = ReduceLROnPlateau(optimizer, FOLLOWED[monitor], **options)  # type: ignore[arg-type]
    return [*first, {"scheduler": scheduler, "reduce_on_plateau": False, "monitor": monitor}]


def stays(schedule: Callable[..., Configs], epochs: int, total_steps: int) -> bool:
    """Whether a schedule is near its rate for 30 % of the steps or more; otherwise it only passes it.

    `plateau` stays: when it comes down, the validation decides.
    """
    optimizer = SGD([Parameter(torch.zeros(1))], lr=1.0)
    configs = schedule(optimizer, epochs=epochs, total_steps=total_steps)
    near = 0
    optimizer.step()  # or torch warns
    for _ in range(total_steps):
        near += optimizer.param_groups[0]["lr"] >= 0.9
        for config in configs:
            if config.get("interval") == "step":
                config["scheduler"].step()
    return near >= 0.3 * total_steps


def _warmup(optimizer: Optimizer, warmup: float, epochs: int, total_steps: int) -> Configs:
    """A straight line from rate / n in the first step to the rate in the n-th, the last of the warm-up."""
    require(
        0 <= warmup <= epochs if isinstance(warmup, int) else 0 <= warmup < 1,
        f"scheduler.warmup={warmup}: give whole epochs from 0 to {epochs} (the run has {epochs}), or a fraction of the "
        "run from 0.0 to below 1.",
    )
    n = _steps(warmup, epochs, total_steps)
    return [] if n < 2 else [{"scheduler": LinearLR(optimizer, 1 / n, total_iters=n - 1), "interval": "step"}]


def _steps(length: float, epochs: int, total_steps: int) -> int:
    """Whole epochs, or a fraction of the run, in steps."""
    return length * total_steps // epochs if isinstance(length, int) else round(length * total_steps)
