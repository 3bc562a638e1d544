import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from cifar_pl.evaluation import calibration
from cifar_pl.evaluation.predictions import Predictions


def drawn(scale: float, n: int = 4000, seed: int = 0) -> Predictions:
    """Labels drawn from the softmax of random logits, which are handed out `scale` times too large."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 5, generator=rng)
    label = torch.multinomial(logits.softmax(1), 1, generator=rng).flatten()
    return Predictions(scale * logits, label, torch.arange(n))


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_error_equals_torchmetrics(scale: float) -> None:
    p = drawn(scale)
    theirs = multiclass_calibration_error(p.logits.softmax(1), p.label, 5, n_bins=calibration.BINS, norm="l1")
    assert calibration.error(calibration.reliability(p)) == pytest.approx(float(theirs), abs=1e-6)


def test_the_bins_hold_every_image_once() -> None:
    p = drawn(3.0)
    images, confidence, accuracy = calibration.reliability(p).T
    assert images.sum() == len(p.label)
    assert (images * accuracy).sum() / images.sum() == pytest.approx(p.accuracy())
    edges = np.linspace(0, 1, calibration.BINS + 1)
    some = images > 0
    assert np.all((edges[:-1][some] < confidence[some]) & (confidence[some] <= edges[1:][some] + 1e-6))


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_temperature_finds_the_scale_and_lowers_loss_and_error(scale: float) -> None:
    p, fresh = drawn(scale), drawn(scale, seed=1)
    t = calibration.temperature(p)
    assert t == pytest.approx(scale, rel=0.1)
    around = [calibration.nll(p, t * factor) for factor in (0.98, 1.0, 1.02)]
    assert min(around) == around[1] <= calibration.nll(p)
    summary = calibration.summary({"val": p, "test": fresh})
    assert summary["val_nll_scaled"] <= summary["val_nll"]
    if scale != 1:
        assert summary["test_ece_scaled"] < summary["test_ece"] / 3
        assert summary["test_nll_scaled"] < summary["test_nll"]


def test_the_temperature_stays_finite_where_everything_is_right_or_nothing_is_known() -> None:
    right = Predictions(torch.eye(3), torch.arange(3), torch.arange(3))
    assert calibration.temperature(right) == pytest.approx(0.05)
    unknown = Predictions(torch.full((3, 3), torch.nan), torch.arange(3), torch.arange(3))
    assert 0.05 <= calibration.temperature(unknown) <= 20.01
