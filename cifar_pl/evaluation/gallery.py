"""Images with what the network said of them and where it looked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cifar_pl.evaluation.gradcam import heat_maps
from cifar_pl.evaluation.predictions import Case

COLUMNS = ("index", "true", "predicted", "p_true", "p_predicted", "loss")


class Gallery(NamedTuple):
    """Some images of one split, explained.

    Attributes:
        split: `val` or `test`.
        title: What they are.
        classes: Names of the classes.
        cases: N of them.
        images: uint8 (N, H, W, 3).
        method: Of the heat maps, as in `gradcam.METHODS`.
        layers: L names.
        predicted: Heat maps for the predicted class, float32 (L, N, H, W) in [0, 1].
        other: The same for each case's other class.
    """

    split: str
    title: str
    classes: Sequence[str]
    cases: Sequence[Case]
    images: NDArray[np.uint8]
    method: str
    layers: Sequence[str]
    predicted: NDArray[np.float32]
    other: NDArray[np.float32]


def explain(
    network: nn.Module,
    split: str,
    cases: Sequence[Case],
    images: NDArray[np.uint8],
    classes: Sequence[str],
    title: str,
    layers: Sequence[str] = ("layer3",),
    method: str = "gradcam",
    device: torch.device | str = "cpu",
) -> Gallery:
    """A gallery of `cases`, whose `images` are uint8 (N, H, W, 3); see `gradcam.heat_maps`.

    Raises:
        UserError: there is no such layer or method.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    predicted, other = (
        heat_maps(network, layers, pixels, torch.tensor(of), device, method)
        for of in ([case.predicted for case in cases], [case.other for case in cases])
    )
    return Gallery(split, title, classes, cases, images, method, layers, predicted, other)


def as_rows(cases: Sequence[Case], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The cases with the names of their classes, for a table with `COLUMNS`."""
    return [{**case._asdict(), "true": classes[case.true], "predicted": classes[case.predicted]} for case in cases]
