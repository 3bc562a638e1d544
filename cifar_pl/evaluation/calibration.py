"""Whether probabilities can be taken at their word: reliability, expected calibration error, temperature."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cifar_pl.evaluation.predictions import Predictions, at

BINS = 15


def reliability(predictions: Predictions, temperature: float = 1.0) -> NDArray[np.float64]:
    """Of each of 15 bins of confidence: images, mean confidence, accuracy; float64 (15, 3).

    The bins are equally wide over [0, 1], open below and closed above; an empty one has zeros.
    """
    p = (predictions.logits / temperature).softmax(1)
    confidence, said = p.max(1)
    right = (said == predictions.label).double()
    place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1)[1:-1])
    weights = (torch.ones_like(right), confidence.double(), right)
    images, total, hits = (torch.bincount(place, weight, BINS) for weight in weights)
    some = images.clamp(min=1)
    return torch.stack([images, total / some, hits / some], dim=1).numpy()


def error(bins: NDArray[np.float64]) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean gap of confidence and accuracy, over the images."""
    return float((bins[:, 0] * np.abs(bins[:, 1] - bins[:, 2])).sum() / bins[:, 0].sum())


def nll(predictions: Predictions, temperature: float = 1.0) -> float:
    """The mean negative log-likelihood of the labels, logits divided by `temperature`."""
    return float(F.cross_entropy(predictions.logits.double() / temperature, predictions.label))


def temperature(predictions: Predictions) -> float:
    """What to divide the logits by for the smallest `nll` (Guo et al. 2017, arXiv 1706.04599); in [0.05, 20].

    The derivative by the inverse temperature is the mean of expected less true logit, and rises with it.
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
    """Calibration of the test as it is, and with the temperature of the validation, where there is one."""
    test = predictions["test"]
    found: dict[str, Any] = {"test_ece": error(reliability(test)), "test_nll": nll(test)}
    if "val" in predictions:
        t = temperature(predictions["val"])
        found |= {
            "temperature": t,
            "val_nll": nll(predictions["val"]),
            "val_nll_scaled": nll(predictions["val"], t),
            "test_ece_scaled": error(reliability(test, t)),
            "test_nll_scaled": nll(test, t),
        }
    return found
