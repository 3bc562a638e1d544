"""What may be monitored, and whether more or less of it is better; the test set selects nothing."""

from collections.abc import Mapping
from typing import Literal

Direction = Literal["min", "max"]
MONITORS: Mapping[str, Direction] = {"val/acc": "max", "val/loss": "min"}
FOLLOWED: Mapping[str, Direction] = {**MONITORS, "train/last_loss": "min"}  # by scheduler=plateau
TEST_SELECTED = "test-selected"  # marks every result that the test images selected (protocol=published)
