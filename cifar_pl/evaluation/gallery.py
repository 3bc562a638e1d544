"""Images with their predictions and heat maps: `misclassified.npz`, from which a run's page is made."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cifar_pl.evaluation.cases import Case
from cifar_pl.evaluation.gradcam import deletion, heat_maps, new_head

ARRAYS = ("images", "maps", "drops", "control")


class Gallery(NamedTuple):
    """N images of a split, with heat maps of L layers for the predicted class and for the other class of each case."""

    title: str
    split: str
    classes: Sequence[str]
    cases: Sequence[Case]
    images: NDArray[np.uint8]  # (N, H, W, 3)
    method: str  # one of gradcam.METHODS
    layers: Sequence[str]
    maps: NDArray[np.float16]  # (L, N, 2, H, W) in [0, 1]
    drops: NDArray[np.float32]  # (L, N, 3), see `gradcam.deletion`: of the predicted class, by its map
    control: NDArray[np.float16]  # (L, N, H, W) in [0, 1], for the predicted class, of a network with a new head

    @classmethod
    def load(cls, path: Path) -> "Gallery":
        """Read a `misclassified.npz`, which has one array per field."""
        with np.load(path) as file:
            part = {name: file[name] if name in ARRAYS else file[name].tolist() for name in cls._fields}
        part["cases"] = [Case(*map(int, row[:4]), *row[4:]) for row in part["cases"]]
        return cls(**part)

    def deletion(self) -> list[tuple[str, float, float, float, int]]:
        """For each layer the mean drops, and in how many images the hottest quarter mattered more than a random one."""
        return [
            (layer, *drops.mean(0).tolist(), int((drops[:, 0] > drops[:, 1]).sum()))
            for layer, drops in zip(self.layers, self.drops, strict=True)
        ]


def explain(
    network: nn.Module,
    split: str,
    cases: Sequence[Case],
    images: NDArray[np.uint8],
    classes: Sequence[str],
    title: str,
    layers: Sequence[str],
    method: str = "gradcam",
    device: torch.device | str = "cpu",
    fill: Sequence[float] = (0.5, 0.5, 0.5),
) -> Gallery:
    """Put together a gallery of `cases`, whose `images` are uint8 (N, H, W, 3); see `gradcam`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    explained = torch.tensor([(case.predicted, case.other) for case in cases])
    predicted = explained[:, 0]
    maps = heat_maps(network, layers, pixels.repeat_interleave(2, dim=0), explained.flatten(), device, method)
    maps = maps.reshape(len(layers), len(cases), 2, *maps.shape[2:])
    drops = np.stack([deletion(network, pixels, one[:, 0], predicted, fill, device) for one in maps])
    control = heat_maps(new_head(network), layers, pixels, predicted, device, method)
    half = maps.astype(np.float16), drops, control.astype(np.float16)
    return Gallery(title, split, classes, cases, images, method, layers, *half)
