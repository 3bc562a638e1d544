"""How long a run of so many epochs takes, and how many fit into a time."""

from bisect import bisect_right
from typing import Literal, NamedTuple

from cifar_pl.runs.overrides import share
from cifar_pl.training import range_test
from cifar_pl.training.callbacks.explore import compared

MAX_EPOCHS = 1_000_000


class Costs(NamedTuple):
    """What a run takes: steps of an epoch, and seconds."""

    steps: int
    small: float  # of a step with small images
    full: float  # of a step at full size
    epoch: float  # of an epoch besides its steps: validation
    once: float  # of everything else
    start_share: float  # of the epochs, rounded down, has small images
    finder: int | Literal["auto"] = 0  # steps of the range test
    image: float = 0.0  # of a forward pass, after the test
    passes: tuple[int, int] = (0, 0)  # the images, of training and others, of which `explore` makes them

    def total(self, epochs: int) -> float:
        """Seconds of a run of so many epochs."""
        tested = range_test.steps(epochs * self.steps) if self.finder == "auto" else self.finder
        passes = compared(*self.passes, epochs) + self.passes[1]
        return self.training(epochs, epochs) + tested * self.full + passes * self.image + self.once

    def training(self, epoch: int, epochs: int) -> float:
        """Seconds from the first step of a run of `epochs` to the end of this epoch, counted from 1."""
        small = min(epoch, share(self.start_share, epochs))
        return self.steps * (small * self.small + (epoch - small) * self.full) + epoch * self.epoch

    def epochs(self, seconds: float) -> int:
        """The largest number of epochs whose `total` is within `seconds`; 0 if there is none."""
        return bisect_right(range(1, MAX_EPOCHS), seconds, key=self.total)
