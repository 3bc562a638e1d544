"""Random changes of a training image: albumentations, seeded per image and epoch.

albumentations' own seeding repeats itself in every worker and, with one seed, draws the same numbers in each
transform. Here one generator per (seed, epoch, image) serves all of them, so that an image's changes do not
depend on workers, processes, order, or an interruption.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from cifar_pl.errors import checked, complete

cv2.setNumThreads(0)  # OpenCV's threads would compete with torch's, and with those of other workers

Transform: TypeAlias = A.BasicTransform | Callable[..., A.BasicTransform]


class Augment:
    """A pipeline of named transforms, in their order; None is skipped.

    A function among them gets `fill`, the colour `mean` of the training images (three numbers in [0, 1]) in
    [0, 255], and returns a transform. In the first `start_epochs` the output is shrunk by `start_scale`, by area.
    """

    def __init__(
        self,
        transforms: Mapping[str, Transform | None],
        mean: Sequence[float],
        seed: int,
        start_scale: float = 1.0,
        start_epochs: int = 0,
    ) -> None:
        fill = [round(255 * value) for value in mean]
        steps = [
            step if isinstance(step, A.BasicTransform) else complete(step, f"aug.{name}", fill=fill)
            for name, step in transforms.items()
            if step is not None
        ]
        self._pipeline = A.Compose(steps, strict=True)
        self._seed, self._start_scale, self._start_epochs = seed, start_scale, start_epochs

    def __call__(self, image: NDArray[np.uint8], epoch: int, index: int) -> NDArray[np.uint8]:
        """The image as (seed, epoch, index) change it: uint8 (H, W, 3) in, uint8 (H', W', 3) out."""
        rng = np.random.default_rng((self._seed, epoch, index))
        self._pipeline.set_random_state(rng, random.Random(int(rng.integers(1 << 62))))  # noqa: S311
        out: NDArray[np.uint8] = self._pipeline(image=image)["image"]
        if epoch < self._start_epochs and self._start_scale < 1:
            height, width = (max(round(side * self._start_scale), 1) for side in out.shape[:2])
            out = cv2.resize(out, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return out


@checked
def cutout(
    hole: PositiveInt = 16,
    number: PositiveInt = 1,
    p: Annotated[float, Field(ge=0, le=1)] = 1.0,
    border: Literal["inside", "clipped", "half_clipped"] = "inside",
    black: bool = False,
    *,
    fill: Sequence[float],
) -> A.BasicTransform:
    """`number` square holes of `hole` pixels a side, which may overlap, filled with `fill` or black.

    `border` is `inside`: every hole is complete, as in albumentations. `clipped`: its centre is any pixel, and what
    lies beyond the border is lost, as in DeVries & Taylor (2017, arXiv 1708.04552). `half_clipped`: like `clipped`,
    but shifted inside at the top and at the left (`Cutout` of albumentations 0.4.5).
    """
    color = (0.0, 0.0, 0.0) if black else tuple(fill)
    if border != "inside":
        return ClippedCutout(hole, number, border == "half_clipped", color, p)
    return A.CoarseDropout(
        num_holes_range=(number, number),
        hole_height_range=(hole, hole),
        hole_width_range=(hole, hole),
        fill=color,
        p=p,
    )


class ClippedCutout(A.ImageOnlyTransform):  # type: ignore[misc]  # it ships no types
    """Square holes around uniformly drawn pixels, clipped at the border; `half` as in `half_clipped` of `cutout`."""

    def __init__(self, hole: int, number: int, half: bool, fill: Sequence[float], p: float) -> None:
        super().__init__(p=p)
        self._hole, self._number, self._half, self._fill = hole, number, half, fill

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The upper left corners, possibly outside of the image."""
        centres = self.random_generator.integers(params["shape"][:2], size=(self._number, 2))
        return {"corners": centres - self._hole // 2}

    def apply(self, img: NDArray[np.uint8], corners: NDArray[np.int64], **_: Any) -> NDArray[np.uint8]:
        """Fill the holes."""
        out = img.copy()
        for corner in corners:
            inside = np.maximum(corner, 0)
            top, left = inside
            bottom, right = (inside if self._half else corner) + self._hole
            out[top:bottom, left:right] = self._fill
        return out
