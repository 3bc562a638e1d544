"""Chooses a learning rate from the curve of a range test.

The curve of an untrained network has a wall: at some rate training diverges, although the network would bear that rate
after a few dozen steps of a warm-up. Behind the wall the curve depends on the seed, before it hardly. So `auto` takes
the end of the first fall, before the wall, times a factor that a grid of real runs gave.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["auto", "steepest", "valley", "min_div_10", "minimum"]
METHODS: tuple[Method, ...] = get_args(Method)
MIN_POINTS = 10
MIN_FALL = 0.03  # of the loss of guessing
MIN_SIGMAS = 6.0  # of the noise that the smoothing leaves
ABOVE_ZERO = 1e-300  # a fall has a depth, even among losses that are all zero
WALL = 1.1  # times the highest loss of the first tenth; if there is one behind it, half the fall is enough
# The best rate of a grid of real runs over the end of the first fall (benchmarks/rates/): under a schedule that
# stays at its rate, and under one that only passes it.
STAYS, PASSES = 2.0, 4.0


@dataclass(frozen=True)
class Curve:
    """A measured range test: rates, ascending, and the training loss of one batch at each; float64 (n,)."""

    lr: NDArray[np.float64]
    loss: NDArray[np.float64]

    @property
    def sigma(self) -> float:
        """Width of the smoothing, in points: a quarter of a decade."""
        return max(0.25 * (len(self.lr) - 1) / math.log10(self.lr[-1] / self.lr[0]), 1.0)

    @property
    def top(self) -> float:
        """The highest loss of the first tenth; above it begins divergence."""
        return float(self.loss[: max(len(self.loss) // 10, 1)].max())

    @property
    def noise(self) -> float:
        """Standard deviation of a smoothed loss, from the differences of neighbours that do not diverge."""
        calm = self.loss <= self.top
        steps = np.abs(np.diff(self.loss))[calm[1:] & calm[:-1]]
        scatter = float(np.median(steps)) / (0.6745 * math.sqrt(2)) if len(steps) else math.inf
        return scatter / math.sqrt(2 * math.sqrt(math.pi) * self.sigma)

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean of each loss and its two neighbours; the first and the last loss count twice."""
        padded = np.pad(self.loss, 1, mode="edge")
        return (padded[:-2] + padded[1:-1] + padded[2:]) / 3

    @cached_property
    def smooth(self) -> NDArray[np.float64]:
        """The loss under a Gaussian of a quarter decade, centred, so that nothing is shifted to larger rates.

        A loss above `top` counts as `top`, so that a divergence does not lift the curve before it.
        """
        n = len(self.loss)
        reach = min(math.ceil(3 * self.sigma), n - 1)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.sigma) ** 2)
        capped = np.minimum(self.loss, self.top)
        total = np.convolve(capped, kernel, mode="full")[reach : reach + n]
        smooth: NDArray[np.float64] = total / np.convolve(np.ones(n), kernel, mode="full")[reach : reach + n]
        return smooth


@dataclass(frozen=True)
class Choice:
    """What a curve suggests.

    Attributes:
        suggestions: The rate of each method; empty if the curve gives none.
        guessing: The loss of guessing, ln of the number of classes.
        told: One line for people: what was found and how sure it is, or why nothing was.
        safe: The largest rate that did no harm.
        band: The rates at which the first fall begins and ends.
    """

    suggestions: dict[str, float]
    guessing: float
    told: str
    safe: float
    band: tuple[float, float] | None = None


def choose(curve: Curve, classes: int, stays: bool) -> Choice:
    """Suggest rates, or say why the curve is hopeless.

    Only a fall below the loss of guessing, ln(`classes`), counts, and below the curve's first loss: the fall before,
    often the steepest, un-learns the random outputs of the initial weights. `stays`: see `schedulers.stays`.
    """
    curve, guessing = finite(curve), math.log(classes)
    above = curve.means > curve.top
    safe = float(curve.lr[max(int(np.argmax(above)) - 2, 0) if above.any() else -1])
    if len(curve.loss) < MIN_POINTS:
        return Choice({}, guessing, f"the loss was finite for only {len(curve.loss)} steps", safe)
    start, noise = min(guessing, float(curve.smooth[0])), curve.noise
    wall = curve.means.max() > WALL * curve.top
    least = max(MIN_FALL * start, MIN_SIGMAS * noise, ABOVE_ZERO) / (2 if wall else 1)
    begin, end = _first_fall(curve, start, least)
    fall = start - float(curve.smooth[end])
    below = f"below {'guessing' if start == guessing else 'its start'} ({start:.3f})"
    if fall < least:
        told = f"the loss fell by {max(fall, 0):.3f} {below}; less than {least:.3f} says nothing"
        return Choice({}, guessing, told, safe)
    band = float(curve.lr[begin]), float(curve.lr[end])
    sure = f"{fall / noise:.0f} times its noise" if noise else "without noise"
    told = f"the loss falls from {band[0]:.2g} to {band[1]:.2g}, by {fall:.2f} {below}, {sure}"
    auto = min((STAYS if stays else PASSES) * band[1], float(curve.lr[-1]))
    return Choice({"auto": auto, **suggest(curve, start)}, guessing, told, safe, band)


def suggest(curve: Curve, start: float) -> dict[str, float]:
    """A rate by each of the usual methods, on the log scale, from any curve of finite losses.

    * steepest: the smoothed loss falls fastest there;
    * valley: the middle of the last third of its longest fall (as fastai's `valley`, 2021);
    * minimum: its lowest point, even behind a wall; often too high;
    * min_div_10: a tenth of that.

    All of them ignore what is above `start`.
    """
    lr, smooth = curve.lr, np.minimum(curve.smooth, start)
    lowest = int(np.argmin(smooth))
    slope = np.gradient(smooth, np.log10(lr))
    first = last = begin = 0  # of the longest fall
    for i in range(1, lowest + 1):
        begin = i if smooth[i] >= smooth[i - 1] else begin
        first, last = (begin, i) if i - begin > last - first else (first, last)
    return {
        "steepest": float(lr[np.argmin(slope[: lowest + 1])]),
        "valley": float(lr[first + (last - first) * 5 // 6]),
        "min_div_10": float(lr[lowest] / 10),
        "minimum": float(lr[lowest]),
    }


def finite(curve: Curve) -> Curve:
    """The curve up to the first loss that is not finite."""
    good = np.isfinite(curve.loss)
    end = len(good) if good.all() else int(np.argmin(good))
    return Curve(curve.lr[:end], curve.loss[:end])


def _first_fall(curve: Curve, start: float, least: float) -> tuple[int, int]:
    """The first fall below `start` that is deeper than `least`: the points of a tenth of its depth and of its end.

    It ends at the lowest point before the wall: before the smoothed loss is halfway back to `start`, or the losses
    are above `top`. If there is no wall, it ends at the lowest point of all.
    """
    smooth = curve.smooth
    depth = np.maximum.accumulate(start - smooth)
    wall = ((start - smooth < depth / 2) | (curve.means > curve.top)) & (depth >= least)
    end = int(np.argmin(smooth[: int(np.argmax(wall))] if wall.any() else smooth))
    deep = start - smooth[: end + 1] >= 0.1 * (start - smooth[end])
    return int(np.argmax(deep)), end
