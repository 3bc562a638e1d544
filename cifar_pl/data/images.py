"""Where images come from. A source is a function that returns a `Source`: uint8 arrays in memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_pl.errors import require


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8 (N, H, W, 3), RGB, 0 to 255.
        labels: int64 (N,), from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse arrays that break the contract."""
        shape, dtype = self.pixels.shape, self.pixels.dtype
        require(
            dtype == np.uint8 and len(shape) == 4 and shape[3] == 3,
            f"Images must be uint8 (N, H, W, 3), got {dtype} {shape}.",
        )
        require(
            self.labels.dtype == np.int64 and self.labels.shape == shape[:1],
            f"Labels must be int64 ({shape[0]},), got {self.labels.dtype} {self.labels.shape}.",
        )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set: training part (the validation images are split from it), test part, class names."""

    train: Images
    test: Images
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse labels that name no class."""
        for name, part in (("training", self.train), ("test", self.test)):
            require(len(part), f"The {name} part holds no images.")
            require(
                part.labels.min() >= 0 and part.labels.max() < len(self.classes),
                f"The {name} labels run from {part.labels.min()} to {part.labels.max()}, "
                f"but there are {len(self.classes)} classes.",
            )
