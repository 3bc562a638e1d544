"""Eight usual corruptions of images at three strengths, and the accuracy under each.

The idea and the names are those of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261). The strengths are our
own, for images of 32 pixels, and grow with larger ones: figures are not those of CIFAR-10-C.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_pl.evaluation.slices import Slice

Pixels = NDArray[np.uint8]  # (N, H, W, 3)
STRENGTHS = (1, 2, 3)
CLEAN = "none"
COLUMNS = ("corruption", "strength", "n", "right", "accuracy", "low", "high")
PART = 250 * 32 * 32  # pixels that are corrupted and classified at once
FEWEST_CLOUDS = 4  # random values along each side of the fog


def noise(images: Pixels, rng: np.random.Generator, deviation: float) -> Pixels:
    """Gaussian noise on each value; `deviation` is a share of 255."""
    return _bytes(images + 255 * deviation * rng.standard_normal(images.shape, np.float32))


def blur(images: Pixels, rng: np.random.Generator, deviation: float) -> Pixels:
    """A Gaussian blur; `deviation` is a share of the image's height."""
    return np.stack([cv2.GaussianBlur(one, (0, 0), deviation * len(one)) for one in images])


def fog(images: Pixels, rng: np.random.Generator, density: float) -> Pixels:
    """Clouds of light grey over the image, of the same density on average."""
    clouds = rng.uniform(0.6, 1, (len(images), FEWEST_CLOUDS, FEWEST_CLOUDS)).astype(np.float32)
    size = images.shape[2], images.shape[1]
    large = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in clouds])[..., None]
    return _bytes(np.float32(1 - density) * images + np.float32(255 * density) * large)


def jpeg(images: Pixels, rng: np.random.Generator, quality: int) -> Pixels:
    """Each image compressed with this quality of JPEG, of 1 to 95."""

    def compressed(one: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(one).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return np.stack([compressed(one) for one in images])


def brightness(images: Pixels, rng: np.random.Generator, share: float) -> Pixels:
    """Brighter by a share of 255."""
    return _bytes(images + np.float32(255 * share))


def contrast(images: Pixels, rng: np.random.Generator, share: float) -> Pixels:
    """This share of each image's distance from its mean."""
    mean = images.mean((1, 2, 3), dtype=np.float32, keepdims=True)
    return _bytes(mean + share * (images - mean))


def pixelation(images: Pixels, rng: np.random.Generator, side: int) -> Pixels:
    """As if there were `side` pixels along each side."""
    size = images.shape[2], images.shape[1]
    small = (cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in images)
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_NEAREST_EXACT) for one in small])


def shift(images: Pixels, rng: np.random.Generator, share: float) -> Pixels:
    """Moved by this share of both sides in one of four directions; what leaves comes in again at the other side."""
    steps = rng.choice([-1, 1], (len(images), 2)) * [round(share * side) for side in images.shape[1:3]]
    return np.stack([np.roll(one, step, axis=(0, 1)) for one, step in zip(images, steps.tolist(), strict=True)])


CORRUPTIONS: Mapping[str, tuple[Callable[..., Pixels], tuple[float, float, float]]] = {
    "noise": (noise, (0.02, 0.04, 0.08)),
    "blur": (blur, (0.015, 0.02, 0.03)),
    "fog": (fog, (0.25, 0.45, 0.65)),
    "JPEG": (jpeg, (80, 50, 20)),
    "brightness": (brightness, (0.1, 0.2, 0.4)),
    "contrast": (contrast, (0.7, 0.45, 0.25)),
    "pixelation": (pixelation, (28, 20, 12)),
    "shift": (shift, (1 / 16, 1 / 8, 1 / 4)),
}


def corrupt(images: Pixels, name: str, strength: int, seed: int | tuple[int, int] = 0) -> Pixels:
    """The images under one of `CORRUPTIONS`, of strength 1, 2 or 3; the same for the same seed."""
    function, strengths = CORRUPTIONS[name]
    return function(images, np.random.default_rng(seed), strengths[STRENGTHS.index(strength)])


def measure(
    predict: Callable[[Pixels], NDArray[np.int64]], images: Pixels, labels: NDArray[np.int64], seed: int = 0
) -> Iterator[Slice]:
    """The accuracy as the images are, then under each corruption and strength; `predict` gives their classes.

    `predict` gets a part of the images at a time. A part has the seed `seed` and its number.
    """
    n, size = len(labels), max(1, PART // (images.shape[1] * images.shape[2]))
    for name, strength in ((CLEAN, 0), *((name, strength) for name in CORRUPTIONS for strength in STRENGTHS)):
        right = 0
        for start in range(0, n, size):
            part = images[start : start + size]
            if name != CLEAN:
                part = corrupt(part, name, strength, (seed, start // size))
            right += int((predict(part) == labels[start : start + size]).sum())
        yield Slice(name, str(strength), n, right)


def row(one: Slice) -> dict[str, Any]:
    """A row of a table with `COLUMNS`."""
    low, high = one.interval
    values = (one.what, one.part, one.n, one.right, one.accuracy, low, high)
    return dict(zip(COLUMNS, values, strict=True))


def _bytes(values: NDArray[np.floating]) -> Pixels:
    made: Pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return made
