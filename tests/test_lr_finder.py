import math
import re
from collections.abc import Callable
from functools import partial

import albumentations as A
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from cifar_pl.config.build import build
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.images import Source
from cifar_pl.errors import UserError
from cifar_pl.training import lr_finder, range_test, schedulers
from cifar_pl.training.classifier import Classifier
from cifar_pl.training.lr_finder import Curve, choose
from cifar_pl.training.range_test import measure


def curve(noise: float = 0.0, centre: float = -2.0, n: int = 100, seed: int = 0, low: float = -5.0) -> Curve:
    """A loss that falls from ln 10 by 0.8, as a logistic around 10**centre, and blows up from 10**(centre + 1.5) on."""
    x = np.linspace(low, 0, n)
    loss = math.log(10) - 0.8 / (1 + np.exp(-4 * (x - centre))) + np.exp(np.minimum(12 * (x - centre - 1.5), 30))
    return Curve(10**x, loss + np.random.default_rng(seed).normal(0, noise, n))


def found(curve: Curve, classes: int = 10, stays: bool = True) -> dict[str, float]:
    return choose(curve, classes, stays).suggestions


@pytest.mark.parametrize("centre", [-3.0, -2.5, -2.0])
def test_steepest_is_where_the_logistic_is_steepest(centre: float) -> None:
    assert np.log10(found(curve(centre=centre))["steepest"]) == pytest.approx(centre, abs=0.1)


@pytest.mark.parametrize("low", [-8.0, -6.0, -4.0])
def test_noise_at_the_smallest_rates_decides_nothing(low: float) -> None:
    rates = [found(curve(noise=0.1, low=low, seed=s))["steepest"] for s in range(20)]
    assert np.abs(np.log10(rates) + 2).max() < 0.7


def test_min_div_10_is_a_tenth_of_the_lowest() -> None:
    lowest = curve().lr[np.argmin(curve().smooth)]
    assert found(curve())["min_div_10"] == pytest.approx(lowest / 10)


def test_valley_lies_in_the_last_third_of_the_fall() -> None:
    x = np.linspace(-5, 0, 101)
    v_shape = Curve(10**x, np.where(x < -1, 3 - 0.5 * (x + 5), 1 + 3 * (x + 1)))  # falls from 1e-5 to 1e-1
    assert np.log10(found(v_shape, classes=20)["valley"]) == pytest.approx(-5 + 4 * 5 / 6, abs=0.3)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_fall_to_the_loss_of_guessing_is_no_learning(classes: int) -> None:
    """A random head is un-learnt at small rates: the steepest fall of all, which suggests nothing."""
    x = np.linspace(-4, 0, 160)
    un_learns = math.log(classes) * (1 + 0.3 / (1 + np.exp(12 * (x + 3.3))))
    assert not found(Curve(10**x, un_learns), classes)
    learns = un_learns - 0.3 * math.log(classes) / (1 + np.exp(-8 * (x + 1.5)))
    suggested = found(Curve(10**x, learns), classes)
    assert np.log10(suggested["steepest"]) == pytest.approx(-1.5, abs=0.1)


def walled(depth_behind: float) -> Curve:
    """A fall that ends at 0.02, a wall at 0.05, behind it a second fall to `depth_behind` below guessing, at 0.5."""
    x = np.linspace(-3, 0, 160)
    ends, top = math.log10(0.02), math.log10(0.05)
    knots = [-3, -2.7, ends, top, math.log10(0.12), math.log10(0.5), 0]
    below = [0, 0, 0.3, -1, -0.2, depth_behind, depth_behind - 0.2]
    return Curve(10**x, math.log(10) - np.interp(x, knots, below))


@pytest.mark.parametrize("depth_behind", [0.1, 0.29, 0.6])
def test_auto_depends_on_where_the_first_fall_ends_and_not_on_what_comes_behind_the_wall(depth_behind: float) -> None:
    choice = choose(walled(depth_behind), 10, stays=True)
    assert choice.band is not None
    assert 0.01 <= choice.band[1] <= 0.02  # smoothing a sharp wall shifts it down
    assert choice.suggestions["auto"] == pytest.approx(lr_finder.STAYS * choice.band[1])
    passes = choose(walled(depth_behind), 10, stays=False)
    assert passes.suggestions["auto"] == pytest.approx(lr_finder.PASSES * choice.band[1])
    assert (choice.suggestions["minimum"] > 0.3) == (depth_behind > 0.3)


def test_a_narrow_wall_that_the_smoothing_hides_is_one_too() -> None:
    """As CIFAR-10 at full size with cutout: the losses rise above where they began, their smoothed curve does not."""
    x = np.linspace(-3, 0, 169)
    knots = [-3, -2.7, math.log10(0.018), math.log10(0.05), math.log10(0.06), math.log10(0.07), math.log10(0.4), 0]
    below = [-0.1, 0, 0.25, 0.2, -0.7, 0.3, 0.35, 0.3]
    curve = Curve(10**x, math.log(10) - np.interp(x, knots, below))
    choice = choose(curve, 10, stays=True)
    assert choice.band is not None
    behind = math.log(10) - curve.smooth[curve.lr > 0.018]
    assert behind.min() > 0.13  # more than half of the first fall stays
    assert 0.01 <= choice.band[1] <= 0.025


def test_noise_alone_gives_no_rate() -> None:
    lr = np.logspace(-5, 0, 100)
    for scatter in (0.02, 0.2):
        flat = [Curve(lr, math.log(10) + np.random.default_rng(s).normal(0, scatter, 100)) for s in range(50)]
        assert sum(bool(found(c)) for c in flat) <= 1


@pytest.mark.parametrize(
    ("loss", "safe"),
    [
        (np.linspace(2.3, 20, 100), 10**-3.6),  # rises from the first rate on: the first tenth is the measure
        (np.where(np.arange(100) < 5, 2.3, np.nan), 10 ** (-4 + 4 * 4 / 99)),  # five losses, then none
        (2.3 + np.maximum(np.linspace(-4, 0, 100) + 2, 0), 1e-2),  # nothing is learnt; it rises from 0.01 on
    ],
)
def test_a_hopeless_curve_gives_a_reason_and_the_largest_rate_that_did_no_harm(
    loss: NDArray[np.float64], safe: float
) -> None:
    choice = choose(Curve(np.logspace(-4, 0, 100), loss), 10, stays=True)
    assert not choice.suggestions
    assert "the loss" in choice.told
    assert safe / 2 < choice.safe < 2 * safe


def test_the_curve_ends_at_the_first_loss_that_is_not_finite() -> None:
    whole = curve()
    broken = Curve(whole.lr, np.where(whole.lr > 0.1, np.inf, whole.loss))
    assert np.log10(found(broken)["steepest"]) == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize(("total", "expected"), [(5616, 168), (234, 40), (11_248, 300), (100_000, 300)])
def test_the_range_test_costs_three_percent_of_the_run(total: int, expected: int) -> None:
    assert range_test.steps(total) == expected


@pytest.fixture
def data(tiny_source: Source) -> DataModule:
    module = DataModule(lambda: tiny_source, {"flip": A.HorizontalFlip(p=0.5)}, val_size=15, batch_size=8)
    module.load()
    return module


def spare(network: nn.Module) -> Classifier:
    sgd = partial(torch.optim.SGD, momentum=0.9)
    return Classifier(network, sgd, schedulers.constant, ("a", "b", "c"), lr=0.1)


TRAINER = {"accelerator": "cpu", "devices": 1}


def test_it_measures_the_losses_that_training_has(tiny_network: nn.Module, data: DataModule, tmp_path) -> None:  # type: ignore[no-untyped-def]
    before = {k: v.clone() for k, v in tiny_network.state_dict().items()}
    measured = measure(
        spare(tiny_network), data.train_dataloader(), {**TRAINER, "default_root_dir": tmp_path}, 50, 1e-4, 1.0
    )
    assert (measured.lr[0], measured.lr[-1]) == pytest.approx((1e-4, 1.0))
    np.testing.assert_allclose(np.diff(np.log10(measured.lr[1:])), 4 / 50, rtol=1e-6)  # evenly on a log scale
    # The same by hand: SGD over the same batches with these rates.
    tiny_network.load_state_dict(before)
    tiny_network.train()
    optimizer = torch.optim.SGD(tiny_network.parameters(), lr=0.1, momentum=0.9)
    loader = data.train_dataloader()
    losses, step = [], 0
    for epoch in range(6):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            if step == len(measured.lr):
                break
            optimizer.param_groups[0]["lr"] = measured.lr[step]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(tiny_network(batch.image), batch.label)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
    np.testing.assert_allclose(measured.loss, losses, rtol=1e-3)
    assert not list(tmp_path.glob(".lr_find*"))


def test_random_state_is_restored(tiny_network: nn.Module, data: DataModule, tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    measure(spare(tiny_network), data.train_dataloader(), {**TRAINER, "default_root_dir": tmp_path}, 50, 1e-4, 1.0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("method=best", "lr_finder.method=best: it must be 'auto', 'steepest'"),
        ("num_training=39", "lr_finder.num_training=39: it must be greater than or equal to 40"),
        ("num_training=many", "lr_finder.num_training=many: it must be a valid integer or it must be 'auto'"),
        ("min_lr=0", "lr_finder.min_lr=0: it must be greater than 0"),
        ("min_lr=2", "lr_finder.min_lr=2.0 must be below max_lr=1.0"),
    ],
)
def test_impossible_options_are_refused(config: Callable[..., DictConfig], option: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build(config("lr_finder=range_test", f"lr_finder.{option}").lr_finder)


def test_a_first_loss_that_is_not_finite_is_refused(data: DataModule, tmp_path) -> None:  # type: ignore[no-untyped-def]
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(math.nan))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.weight * image.float().mean((2, 3))

    with pytest.raises(UserError, match="first loss is nan, before any step: no rate can help"):
        measure(spare(Broken()), data.train_dataloader(), {**TRAINER, "default_root_dir": tmp_path}, 50, 1e-4, 1.0)


def test_it_ends_at_a_loss_that_is_not_finite_and_not_before(
    tiny_network: nn.Module,
    data: DataModule,
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    trainer = {**TRAINER, "default_root_dir": tmp_path}
    measured = measure(spare(tiny_network), data.train_dataloader(), trainer, 60, 1e-4, 1e30)
    assert 10 < len(measured.loss) == len(measured.lr) < 60
    assert np.isfinite(measured.loss[:-1]).all()
    assert not np.isfinite(measured.loss[-1])


def test_the_methods_are_the_ones_that_choose_offers() -> None:
    assert set(found(curve())) == set(lr_finder.METHODS)


def test_a_wall_at_the_first_rate_leaves_nothing_to_choose() -> None:
    loss = np.array([-0.0, 6.1e-05, 0.0, 1e-38, 5.88, 1e-38, 0.0, -0.0, 3.99, 3.46])  # found by test_fuzz.py
    assert not choose(Curve(np.geomspace(0.4, 0.8, 10), loss), 195, stays=False).suggestions
