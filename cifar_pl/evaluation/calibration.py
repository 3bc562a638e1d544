"""How far probabilities can be trusted: reliability, expected calibration error, temperature."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cifar_pl.evaluation.cases import at
from cifar_pl.evaluation.predictions import Predictions

BINS = 15


def reliability(predictions: Predictions, temperature: float = 1.0) -> NDArray[np.float64]:
    """Images, mean confidence and accuracy in each of 15 bins of confidence: float64 (15, 3).

    The bins are equally wide over [0, 1], open below and closed above; an empty one has zeros.
    """
    confidence, place = binned(predictions, temperature)
    right = (predictions.predicted == predictions.label).double()
    weights = (torch.ones_like(right), confidence.double(), right)
    images, total, hits = (torch.bincount(place, weight, BINS) for weight in weights)
    divisor = images.clamp(min=1)
    return torch.stack([images, total / divisor, hits / divisor], dim=1).numpy()


def binned(predictions: Predictions, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The confidence of each prediction, float32 (N,), and its bin in `reliability`: int64 (N,), from 0."""
    confidence = (predictions.logits / temperature).softmax(1).amax(1)
    return confidence, torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1)[1:-1])


def error(bins: NDArray[np.float64]) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean gap between confidence and accuracy, over images."""
    return float((bins[:, 0] * np.abs(bins[:, 1] - bins[:, 2])).sum() / bins[:, 0].sum())


def nll(predictions: Predictions, temperature: float = 1.0) -> float:
    """The mean negative log-likelihood of the labels, with logits divided by `temperature`."""
    return float(F.cross_entropy(predictions.logits.double() / temperature, predictions.label))


def temperature(predictions: Predictions) -> float:
    """The divisor of the logits that gives the smallest `nll` (Guo et al. 2017, arXiv 1706.04599), in [0.05, 20].

    The derivative by the inverse temperature is the mean of expected minus true logit, and increases with it.
    """
    logits = predictions.logits.double()
    true = at(logits, predictions.label)
    low, high = 1 / 20, 20.0
    for _ in range(60):
        inverse = (low * high) ** 0.5
        expected = ((logits * inverse).softmax(1) * logits).sum(1)
        low, high = (inverse, high) if (expected - true).mean() < 0 else (low, inverse)
    return 1 / high


def summary(predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    """Calibration of the test predictions, also with the temperature of the validation, if there is one."""
    test, val = predictions["test"], predictions.get("val")
    measured = {"test_ece": error(reliability(test)), "test_nll": nll(test)}
    if val is not None:
        t = temperature(val)
        measured |= {
            "temperature": t,
            "val_nll": nll(val),
            "val_nll_scaled": nll(val, t),
            "test_ece_scaled": error(reliability(test, t)),
            "test_nll_scaled": nll(test, t),
        }
    return measured
