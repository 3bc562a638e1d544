"""What a step counts. Nothing here waits for the device."""

import torch
from torchmetrics import Metric


class Mean(Metric):
    """A sum over images divided by their number, over all processes.

    The update of torchmetrics' `MulticlassAccuracy` waits for the device, to look at the labels.
    """

    total: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: torch.Tensor, count: int) -> None:
        """Add the sum over `count` images."""
        self.total += total
        self.count += count

    def compute(self) -> torch.Tensor:
        """The mean: float32 ()."""
        return self.total / self.count


def correct(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """How many images the logits (B, classes) classify correctly: int64 ()."""
    return (logits.argmax(1) == label).sum()
