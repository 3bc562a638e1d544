"""What may be watched, and in which direction it is better; the test set selects nothing."""

from collections.abc import Mapping
from typing import Literal

Direction = Literal["min", "max"]
MONITORS: Mapping[str, Direction] = {"val/acc": "max", "val/loss": "min"}
FOLLOWED: Mapping[str, Direction] = {**MONITORS, "train/last_loss": "min"}  # by scheduler=plateau
