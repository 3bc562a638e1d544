import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from cifar_pl.errors import UserError, complete
from cifar_pl.training import schedulers

EPOCHS, STEPS = 4, 40


def rates(schedule: Callable[..., Any], epochs: int = EPOCHS, steps: int = STEPS, **options: Any) -> list[float]:
    """The rate of each optimizer step of a run, initial rate 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    configs = schedule(optimizer, epochs=epochs, total_steps=steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for config in configs:
            assert config["interval"] == "step"
            config["scheduler"].step()
    return seen


def test_constant() -> None:
    assert rates(schedulers.constant) == [1.0] * STEPS


@pytest.mark.parametrize("milestones", [[0.5, 0.75], [2, 3], [0.5, 3]])
def test_multistep_in_epochs_or_fractions(milestones: list[float]) -> None:
    expected = [1.0] * 20 + [0.1] * 10 + [0.01] * 10
    assert rates(schedulers.multistep, milestones=milestones, gamma=0.1) == pytest.approx(expected)


@pytest.mark.parametrize("milestones", [[4], [0], [1.0], [0.5, 9], [-1], [2.5]])
def test_milestones_outside_the_run_are_refused(milestones: list[float]) -> None:
    with pytest.raises(UserError, match="not inside the run"):
        rates(schedulers.multistep, milestones=milestones, gamma=0.1)


def test_linear_onecycle_ends_at_the_last_step() -> None:
    seen = rates(
        schedulers.onecycle,
        steps=41,
        pct_start=11 / 41,
        anneal_strategy="linear",
        div_factor=5.0,
        final_div_factor=100.0,
    )
    up = [0.2 + 0.8 * step / 10 for step in range(11)]
    down = [1 + (0.002 - 1) * step / 30 for step in range(1, 31)]
    assert seen == pytest.approx(up + down)


def test_cosine_onecycle_peaks_at_the_rate_and_ends_at_the_last_step() -> None:
    seen = rates(schedulers.onecycle, pct_start=0.25, anneal_strategy="cos", div_factor=10.0, final_div_factor=1e4)
    assert seen[0] == pytest.approx(0.1)
    assert max(seen) == seen[9] == pytest.approx(1.0)
    assert seen[-1] == min(seen) == pytest.approx(0.1 / 1e4)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_onecycle_is_defined_for_the_shortest_runs(steps: int) -> None:
    options = {"pct_start": 0.25, "anneal_strategy": "linear", "div_factor": 5.0, "final_div_factor": 1e4}
    assert all(0 < rate <= 1 for rate in rates(schedulers.onecycle, steps=steps, **options))


def test_cosine_in_closed_form() -> None:
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / (STEPS - 1))) / 2 for step in range(STEPS)]
    assert rates(schedulers.cosine, eta_min=0.1) == pytest.approx(expected)


def test_plateau_drops_after_more_than_patience_bad_values_down_to_min_lr() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    [config] = schedulers.plateau(
        optimizer,
        epochs=9,
        total_steps=9,
        monitor="val/acc",
        factor=0.1,
        patience=2,
        threshold=1e-3,
        min_lr=0.05,
    )
    seen = []
    for value in [0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]:
        config["scheduler"].step(value)  # type: ignore[call-arg,arg-type]
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.05])


@pytest.mark.parametrize("warmup", [1, 0.25])
def test_a_warm_up_is_a_straight_line_that_the_schedule_is_multiplied_by(warmup: float) -> None:
    line = [min((step + 1) / 10, 1.0) for step in range(STEPS)]
    assert rates(schedulers.constant, warmup=warmup) == pytest.approx(line)
    assert rates(schedulers.multistep, milestones=[0.1, 3], gamma=0.1, warmup=warmup) == pytest.approx(
        [rate * (1.0 if step < 4 else 0.1 if step < 30 else 0.01) for step, rate in enumerate(line)]
    )
    half_cosine = [(1 + math.cos(math.pi * step / (STEPS - 1))) / 2 for step in range(STEPS)]
    assert rates(schedulers.cosine, eta_min=0.0, warmup=warmup) == pytest.approx(
        [a * b for a, b in zip(line, half_cosine, strict=True)], abs=1e-12
    )


def test_a_plateau_schedule_drops_beside_its_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = {"factor": 0.1, "patience": 0, "threshold": 0.0, "min_lr": 0.0}
    warm, drops = schedulers.plateau(optimizer, epochs=4, total_steps=8, monitor="val/loss", warmup=2, **options)  # type: ignore[arg-type]
    seen = []
    for step in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warm["scheduler"].step()
        if step % 2:
            drops["scheduler"].step([1.0, 2.0, 2.0, 2.0][step // 2])  # type: ignore[call-arg,arg-type]
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("warmup", [5, -1, 1.0, 2.5, -0.1, float("nan")])
def test_a_warm_up_that_does_not_fit_is_refused(warmup: float) -> None:
    with pytest.raises(UserError, match=r"scheduler\.warmup=.*whole epochs from 0 to 4"):
        rates(schedulers.constant, warmup=warmup)


def test_which_schedules_stay_at_their_rate() -> None:
    onecycle = {"pct_start": 0.25, "anneal_strategy": "linear", "div_factor": 5.0, "final_div_factor": 1e4}
    plateau = {"monitor": "val/acc", "factor": 0.1, "patience": 2, "threshold": 1e-3, "min_lr": 0.0}
    for expected, schedule in (
        (False, partial(schedulers.onecycle, **onecycle)),  # type: ignore[arg-type]
        (False, partial(schedulers.cosine, eta_min=0.0, warmup=1)),
        (False, partial(schedulers.multistep, milestones=[0.2], gamma=0.1)),
        (True, partial(schedulers.multistep, milestones=[0.5], gamma=0.1, warmup=0.1)),
        (True, partial(schedulers.plateau, warmup=1, **plateau)),  # type: ignore[arg-type]
        (True, schedulers.constant),
    ):
        assert schedulers.stays(schedule, EPOCHS, STEPS) == expected


def test_onecycle_refuses_what_is_not_a_part_of_a_run() -> None:
    options = {"pct_start": 1.5, "anneal_strategy": "cos", "div_factor": 5.0, "final_div_factor": 10.0}
    with pytest.raises(UserError, match=r"^scheduler\.pct_start=1\.5: it must be less than 1"):
        complete(partial(rates, schedulers.onecycle), "scheduler", **options)
