"""The learning-rate range test (Smith 2017, arXiv 1506.01186): measure with Lightning, choose here.

Lightning's own suggestion differentiates by the rate, not by its logarithm, since 2.5.3, so noise at
the smallest rates decides; nothing here calls it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities.seed import isolate_rng  # restores random state on errors too

from cifar_pl.errors import require

METHODS = ("steepest", "valley", "min_div_10", "minimum")
DIVERGED = 4.0  # times the smallest loss: Lightning stops there
LEAST_POINTS = 10
LEAST_FALL = 0.05  # of the loss at the start
LEAST_SIGMAS = 6.0  # of the noise that the smoothing leaves


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
    def smooth(self) -> NDArray[np.float64]:
        """The loss under a Gaussian of a quarter decade, centred, so that nothing is shifted to larger rates.

        A loss above those of the first tenth counts as the highest of them, lest a divergence, which says
        no more than that, lift the curve before it happens.
        """
        n = len(self.loss)
        reach = min(math.ceil(3 * self.sigma), n - 1)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.sigma) ** 2)
        capped = np.minimum(self.loss, self.loss[: max(n // 10, 1)].max())
        total = np.convolve(capped, kernel, mode="full")[reach : reach + n]
        smooth: NDArray[np.float64] = total / np.convolve(np.ones(n), kernel, mode="full")[reach : reach + n]
        return smooth


@dataclass(frozen=True)
class Choice:
    """What a curve suggests: the rate of each method, or why there is none."""

    suggestions: dict[str, float]
    problem: str | None = None


def measure(
    classifier: LightningModule, loader: Any, trainer: dict[str, Any], num_training: int, min_lr: float, max_lr: float
) -> Curve:
    """Train for `num_training` steps while the rate grows from `min_lr` to `max_lr` on a log scale.

    Runs on a throw-away trainer and changes the classifier: give it one to throw away. Random state
    is restored. Ends early where the smoothed loss is four times its minimum.

    Args:
        classifier: To be trained from its present weights.
        loader: The training batches.
        trainer: Arguments of the throw-away `Trainer`.
        num_training: Steps, 50 or more.
        min_lr: First rate.
        max_lr: Last rate.

    Raises:
        UserError: a number is out of range.
    """
    require(num_training >= 50, f"lr_finder.num_training={num_training}: fewer than 50 steps give no curve.")
    require(0 < min_lr < max_lr, f"lr_finder.min_lr={min_lr}, max_lr={max_lr}: they must be positive and ascending.")
    losses: list[torch.Tensor] = []  # Lightning records a moving average that lags behind
    step = classifier.training_step

    def recorded(*arguments: Any) -> Any:
        loss: Any = step(*arguments)
        losses.append(loss.detach())
        return loss

    classifier.training_step = recorded  # type: ignore[method-assign]
    with isolate_rng():
        throwaway = Trainer(
            **trainer,
            max_epochs=math.ceil(num_training / len(loader)),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        finder = Tuner(throwaway).lr_find(
            classifier,
            train_dataloaders=loader,
            num_training=num_training,
            min_lr=min_lr,
            max_lr=max_lr,
            early_stop_threshold=DIVERGED,
            update_attr=False,
        )
    assert finder is not None  # None only under fast_dev_run
    loss = torch.stack(losses).double().cpu().numpy()
    return Curve(np.array(finder.results["lr"], float), loss)


def choose(curve: Curve) -> Choice:
    """Suggest rates, or say why the curve is hopeless."""
    kept = finite(curve)
    end = len(kept.loss)
    if end < LEAST_POINTS:
        return Choice({}, f"the loss was finite for only {end} steps")
    smooth = kept.smooth
    start = min(float(smooth[0]), float(smooth[: max(end // 10, 1)].mean()))
    # What one point scatters by, from the differences of neighbours, and what is left of it in a smoothed one.
    scatter = float(np.median(np.abs(np.diff(kept.loss)))) / (0.6745 * math.sqrt(2))
    noise = scatter / math.sqrt(2 * math.sqrt(math.pi) * kept.sigma)
    fall, least = start - float(smooth.min()), max(LEAST_FALL * start, LEAST_SIGMAS * noise)
    if fall < least:
        return Choice({}, f"the loss fell by {max(fall, 0):.3f} from {start:.3f}; less than {least:.3f} says nothing")
    return Choice(suggest(kept))


def suggest(curve: Curve) -> dict[str, float]:
    """A rate by each method, on the log scale, out of any curve of finite losses.

    * steepest: where the smoothed loss falls fastest;
    * valley: the middle of the last third of its longest fall (as fastai's `valley`, 2021);
    * minimum: where it is smallest; often too high;
    * min_div_10: a tenth of that.
    """
    lr, smooth = curve.lr, curve.smooth
    lowest = int(np.argmin(smooth))
    slope = np.gradient(smooth, np.log10(lr))
    first, last = _longest_fall(smooth[: lowest + 1])
    return {
        "steepest": float(lr[np.argmin(slope[: lowest + 1])]),
        "valley": float(lr[first + (last - first) * 5 // 6]),
        "min_div_10": float(lr[lowest] / 10),
        "minimum": float(lr[lowest]),
    }


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
