"""The learning-rate range test (Smith 2017, arXiv 1506.01186): measure with Lightning, choose here.

Lightning's own suggestion differentiates by the rate, not by its logarithm, since 2.5.3, so noise at
the smallest rates decides; nothing here calls it.

The curve of a network that has just begun has a wall: at some rate it is thrown off, though it would bear that
rate after a few dozen steps of a warm-up. Behind the wall the curve depends on the seed, before it hardly. So `auto`
takes the end of the first fall, before the wall, times a factor that a grid of real runs gave.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities.seed import isolate_rng  # restores random state on errors too

from cifar_pl.errors import require

METHODS = ("auto", "steepest", "valley", "min_div_10", "minimum")
LEAST_STEPS, MOST_STEPS = 40, 300
SHARE = 0.03  # of the run's steps
LEAST_POINTS = 10
LEAST_FALL = 0.03  # of the loss of guessing
LEAST_SIGMAS = 6.0  # of the noise that the smoothing leaves
ABOVE_ZERO = 1e-300  # a fall has a depth, even among losses that are all zero
WALL = 1.1  # times the highest loss of the first tenth; where there is one behind it, half the fall is enough
# The best rate of a grid of real runs over the end of the first fall (benchmarks/rates.py): under a schedule that
# stays at its rate, and under one that only passes it.
STAYS, PASSES = 2.0, 4.0


def steps(total: int) -> int:
    """How many steps the range test of a run of `total` steps has: 3 %, but from 40 to 300."""
    return min(max(int(SHARE * total), LEAST_STEPS), MOST_STEPS)


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
        """What one point of the smoothed loss scatters by, from the differences of neighbours that do not diverge."""
        calm = self.loss <= self.top
        steps = np.abs(np.diff(self.loss))[calm[1:] & calm[:-1]]
        scatter = float(np.median(steps)) / (0.6745 * math.sqrt(2)) if len(steps) else math.inf
        return scatter / math.sqrt(2 * math.sqrt(math.pi) * self.sigma)

    @cached_property
    def smooth(self) -> NDArray[np.float64]:
        """The loss under a Gaussian of a quarter decade, centred, so that nothing is shifted to larger rates.

        A loss above those of the first tenth counts as the highest of them, lest a divergence, which says
        no more than that, lift the curve before it happens.
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
        suggestions: The rate of each method; empty where there is none.
        guessing: The loss of guessing, ln of the number of classes.
        told: In one line, what was found and how sure it is, or why nothing was.
        safe: The largest rate that did no harm.
        band: Where the first fall begins and ends.
    """

    suggestions: dict[str, float]
    guessing: float
    told: str
    safe: float
    band: tuple[float, float] | None = None


def measure(
    classifier: LightningModule, loader: Any, trainer: dict[str, Any], num_training: int, min_lr: float, max_lr: float
) -> Curve:
    """Train for `num_training` steps while the rate grows from `min_lr` to `max_lr` on a log scale.

    Runs on a throw-away trainer and changes the classifier: give it one to throw away. Random state
    is restored. Ends early at a loss that is not finite, and nowhere else: a network that a rate has thrown off
    often learns again at a higher one.

    Args:
        classifier: To be trained from its present weights.
        loader: The training batches.
        trainer: Arguments of the throw-away `Trainer`.
        num_training: Steps, 40 or more.
        min_lr: First rate.
        max_lr: Last rate.

    Raises:
        UserError: a number is out of range, or the very first loss is not finite.
    """
    require(
        isinstance(num_training, int) and num_training >= LEAST_STEPS,
        f"lr_finder.num_training={num_training}: give a whole number, {LEAST_STEPS} or more, or auto.",
    )
    require(0 < min_lr < max_lr, f"lr_finder.min_lr={min_lr}, max_lr={max_lr}: they must be positive and ascending.")
    losses: list[torch.Tensor] = []  # Lightning records a moving average that lags behind
    step = classifier.training_step
    with isolate_rng():
        throwaway = Trainer(
            **trainer,
            max_epochs=math.ceil(num_training / len(loader)),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

        def recorded(*arguments: Any) -> Any:
            loss: Any = step(*arguments)
            losses.append(loss.detach())
            if not torch.isfinite(loss):
                throwaway.should_stop = True
            return loss

        classifier.training_step = recorded  # type: ignore[method-assign]
        finder = Tuner(throwaway).lr_find(
            classifier,
            train_dataloaders=loader,
            num_training=num_training,
            min_lr=min_lr,
            max_lr=max_lr,
            early_stop_threshold=None,
            update_attr=False,
        )
    assert finder is not None  # None only under fast_dev_run
    loss = torch.stack(losses).cpu().double().numpy()  # in this order: Apple's GPUs have no float64
    require(
        bool(np.isfinite(loss[0])),
        f"The range test's first loss is {loss[0]}, before any step: no rate can help. Look at data.mean and data.std, "
        "the images, and the network.",
    )
    return Curve(np.array(finder.results["lr"], float)[: len(loss)], loss)


def choose(curve: Curve, classes: int, stays: bool) -> Choice:
    """Suggest rates, or say why the curve is hopeless.

    Only what falls below the loss of guessing, ln(classes), counts, and below where the curve begins: the fall before,
    often the steepest, un-learns the random outputs that a network begins with.

    Args:
        curve: As measured.
        classes: How many there are.
        stays: Whether the schedule stays at its rate for long, see `schedulers.stays`.
    """
    kept, guessing = finite(curve), math.log(classes)
    safe = _safe(kept)
    if len(kept.loss) < LEAST_POINTS:
        return Choice({}, guessing, f"the loss was finite for only {len(kept.loss)} steps", safe)
    smooth = kept.smooth
    start = min(guessing, float(smooth[0]))
    noise = kept.noise
    least = max(LEAST_FALL * start, LEAST_SIGMAS * noise, ABOVE_ZERO) / (
        2 if _means(kept).max() > WALL * kept.top else 1
    )
    begin, end = _first_fall(kept, start, least)
    fall, below = start - float(smooth[end]), f"below {'guessing' if start == guessing else 'its start'} ({start:.3f})"
    if fall < least:
        told = f"the loss fell by {max(fall, 0):.3f} {below}; less than {least:.3f} says nothing"
        return Choice({}, guessing, told, safe)
    band = float(kept.lr[begin]), float(kept.lr[end])
    sure = f"{fall / noise:.0f} times its noise" if noise else "without noise"
    told = f"the loss falls from {band[0]:.2g} to {band[1]:.2g}, by {fall:.2f} {below}, {sure}"
    suggestions = {"auto": min((STAYS if stays else PASSES) * band[1], float(kept.lr[-1])), **suggest(kept, start)}
    return Choice(suggestions, guessing, told, safe, band)


def suggest(curve: Curve, start: float) -> dict[str, float]:
    """A rate by each of the usual methods, on the log scale, out of any curve of finite losses.

    * steepest: where the smoothed loss falls fastest;
    * valley: the middle of the last third of its longest fall (as fastai's `valley`, 2021);
    * minimum: where it is smallest, behind a wall too; often too high;
    * min_div_10: a tenth of that.

    All of them look at what lies below `start` only.
    """
    lr, smooth = curve.lr, np.minimum(curve.smooth, start)
    lowest = int(np.argmin(smooth))
    slope = np.gradient(smooth, np.log10(lr))
    first, last = _longest_fall(smooth[: lowest + 1])
    return {
        "steepest": float(lr[np.argmin(slope[: lowest + 1])]),
        "valley": float(lr[first + (last - first) * 5 // 6]),
        "min_div_10": float(lr[lowest] / 10),
        "minimum": float(lr[lowest]),
    }


def _first_fall(curve: Curve, start: float, least: float) -> tuple[int, int]:
    """Where the first fall below `start` that is deeper than `least` has a tenth of its depth, and where it ends.

    It ends at the lowest point before the wall: before the smoothed loss is halfway back to `start`, or the losses
    are above where they began. If there is no wall, it ends at the lowest point of all.
    """
    smooth = curve.smooth
    depth = np.maximum.accumulate(start - smooth)
    wall = ((start - smooth < depth / 2) | (_means(curve) > curve.top)) & (depth >= least)
    end = int(np.argmin(smooth[: int(np.argmax(wall))] if wall.any() else smooth))
    begun = start - smooth[: end + 1] >= 0.1 * (start - smooth[end])
    return int(np.argmax(begun)), end


def _safe(curve: Curve) -> float:
    """The largest rate before the mean of three losses is above each of the first tenth."""
    above = _means(curve) > curve.top
    return float(curve.lr[max(int(np.argmax(above)) - 2, 0) if above.any() else -1])


def _means(curve: Curve) -> NDArray[np.float64]:
    """The mean of each loss and its two neighbours; the first and the last loss count twice."""
    padded = np.pad(curve.loss, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def finite(curve: Curve) -> Curve:
    """The curve up to the first loss that is not finite."""
    whole = np.isfinite(curve.loss)
    end = len(whole) if whole.all() else int(np.argmin(whole))
    return Curve(curve.lr[:end], curve.loss[:end])


def _longest_fall(loss: NDArray[np.float64]) -> tuple[int, int]:
    """First and last position of the longest run of falling values."""
    best, begin = (0, 0), 0
    for i in range(1, len(loss)):
        if loss[i] >= loss[i - 1]:
            begin = i
        best = max(best, (begin, i), key=lambda span: span[1] - span[0])
    return best
