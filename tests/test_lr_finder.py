from functools import partial

import albumentations as A
import numpy as np
import pytest
import torch
from torch import nn

from cifar_pl import lr_finder, schedulers
from cifar_pl.classifier import Classifier
from cifar_pl.datamodule import DataModule
from cifar_pl.errors import UserError
from cifar_pl.lr_finder import Curve, choose, measure
from cifar_pl.sources import Source


def curve(noise: float = 0.0, centre: float = -2.0, n: int = 100, seed: int = 0, low: float = -5.0) -> Curve:
    """A loss that falls from 2.3 by 0.8 like a logistic around 10**centre, and blows up from 10**(centre + 1.5) on."""
    x = np.linspace(low, 0, n)
    loss = 2.3 - 0.8 / (1 + np.exp(-4 * (x - centre))) + np.exp(np.minimum(12 * (x - centre - 1.5), 30))
    return Curve(10**x, loss + np.random.default_rng(seed).normal(0, noise, n))


@pytest.mark.parametrize("centre", [-3.0, -2.5, -2.0])
def test_steepest_is_where_the_logistic_is_steepest(centre: float) -> None:
    assert np.log10(choose(curve(centre=centre)).suggestions["steepest"]) == pytest.approx(centre, abs=0.1)


@pytest.mark.parametrize("low", [-8.0, -6.0, -4.0])
def test_noise_at_the_smallest_rates_decides_nothing(low: float) -> None:
    found = [choose(curve(noise=0.1, low=low, seed=s)).suggestions["steepest"] for s in range(20)]
    assert np.abs(np.log10(found) + 2).max() < 0.7


def test_min_div_10_is_a_tenth_of_the_lowest() -> None:
    lowest = curve().lr[np.argmin(curve().smooth)]
    assert choose(curve()).suggestions["min_div_10"] == pytest.approx(lowest / 10)


def test_valley_lies_in_the_last_third_of_the_fall() -> None:
    x = np.linspace(-5, 0, 101)
    v_shape = Curve(10**x, np.where(x < -1, 3 - 0.5 * (x + 5), 1 + 3 * (x + 1)))  # falls from 1e-5 to 1e-1
    assert np.log10(choose(v_shape).suggestions["valley"]) == pytest.approx(-5 + 4 * 5 / 6, abs=0.3)


def test_noise_alone_gives_no_rate() -> None:
    lr = np.logspace(-5, 0, 100)
    for scatter in (0.02, 0.2):
        flat = [Curve(lr, 2.3 + np.random.default_rng(seed).normal(0, scatter, 100)) for seed in range(50)]
        assert sum(bool(choose(c).suggestions) for c in flat) <= 1


@pytest.mark.parametrize("hopeless", ["rising", "nan at once"])
def test_a_hopeless_curve_gives_a_reason_and_no_rate(hopeless: str) -> None:
    lr = np.logspace(-5, 0, 100)
    loss = {
        "rising": np.linspace(2.3, 20, 100),
        "nan at once": np.where(np.arange(100) < 5, 2.3, np.nan),
    }[hopeless]
    choice = choose(Curve(lr, loss))
    assert not choice.suggestions
    assert choice.problem


def test_the_curve_ends_at_the_first_loss_that_is_not_finite() -> None:
    whole = curve()
    broken = Curve(whole.lr, np.where(whole.lr > 0.1, np.inf, whole.loss))
    assert np.log10(choose(broken).suggestions["steepest"]) == pytest.approx(-2, abs=0.1)


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


@pytest.mark.parametrize(("steps", "low", "high"), [(49, 1e-5, 1.0), (100, 0.0, 1.0), (100, 1.0, 1e-5)])
def test_impossible_ranges_are_refused(
    tiny_network: nn.Module, data: DataModule, steps: int, low: float, high: float
) -> None:
    with pytest.raises(UserError, match=r"lr_finder\."):
        measure(spare(tiny_network), data.train_dataloader(), TRAINER, steps, low, high)


def test_the_methods_are_the_ones_that_choose_offers() -> None:
    assert set(choose(curve()).suggestions) == set(lr_finder.METHODS)
