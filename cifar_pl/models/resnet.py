"""ResNets for uint8 pixels, of small images too; the first convolution may start as a whitening filter."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cifar_pl.errors import UserError, checked, require

Place = Literal["stem", "block", "shortcut", "stage"]  # of dropout in a network
Rate = Annotated[float, Field(ge=0, lt=1)]

DEPTHS = {18: (BasicBlock, [2, 2, 2, 2]), 34: (BasicBlock, [3, 4, 6, 3]), 50: (Bottleneck, [3, 4, 6, 3])}
LARGE = 64  # pixels: from there on the stem of torchvision, which shrinks images to a quarter
OLD = {  # names in older checkpoints
    "conv1.conv.weight": "conv1.weight",
    "conv1.normalize.mean": "normalize.mean",
    "conv1.normalize.std": "normalize.std",
}


class Normalize(nn.Module):
    """uint8 (N, 3, H, W) to float32 `(x / 255 - mean) / std`, per channel; `mean` and `std` are in [0, 1].

    A layer, so that nothing else has to know it; not among the weights, so that these fit the network without it.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Raises TypeError for anything but uint8: floats would be scaled a second time."""
        if image.dtype != torch.uint8:
            raise TypeError(f"The network takes uint8 images from 0 to 255, got {image.dtype}.")
        return (image / 255 - self.mean) / self.std

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *others: Any) -> None:
        for name in ("mean", "std"):  # among the weights of older runs
            if (value := state_dict.pop(f"{prefix}{name}", None)) is not None:
                getattr(self, name).copy_(value)


class BatchNormDropout(nn.BatchNorm2d):
    """Batch norm, then dropout of entire channels with probability `p` (Tompson et al. 2015, arXiv 1411.4280).

    It equals dropout after the ReLU that follows. A subclass, so that weights have the same names without dropout.
    """

    def __init__(self, num_features: int, p: float) -> None:
        super().__init__(num_features)
        self.p = p

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, D102  # its name in torch
        return F.dropout2d(super().forward(input), self.p, self.training)


class Network(ResNet):  # type: ignore[misc]  # torchvision ships no types
    """The ResNet of torchvision, with the same names of weights, on uint8 images (N, 3, H, W)."""

    normalize: nn.Module

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # noqa: D102
        logits: torch.Tensor = super().forward(self.normalize(image))
        return logits

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *others: Any) -> None:
        for old, new in OLD.items():
            if prefix + old in state_dict:
                state_dict[prefix + new] = state_dict.pop(prefix + old)
        super()._load_from_state_dict(state_dict, prefix, *others)


@checked
def resnet(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    depth: Literal[18, 34, 50] = 18,
    image_size: int = 32,
    zero_init_residual: bool = False,
    init: Literal["he", "torch"] = "he",
    dropout: Mapping[Place, Rate] | None = None,
) -> Network:
    """ResNet of torchvision; for images below 64 pixels with a stem of its own: 3x3, stride 1, no max-pool.

    He et al. (2016, arXiv 1512.03385), section 4.2, use this stem on CIFAR-10. ResNet18 with it has 11,173,962
    parameters for 10 classes. For images of 32 pixels, layer1 to layer4 give 32, 16, 8 and 4 pixels.

    Args:
        num_classes: Length of the logits.
        mean: Mean of each channel of the training images, in [0, 1].
        std: Standard deviation of each channel.
        depth: Number of layers.
        image_size: Side of the images, which decides the stem.
        zero_init_residual: Start each residual branch at zero (Goyal et al. 2017, arXiv 1706.02677, 5.1).
        init: Initial weights of the convolutions: `he`, as in torchvision and the paper, or `torch`, the default of
            torch's layers, which are smaller by a factor of about 2.4.
        dropout: Probability to drop a channel in training, by place: `stem`, `block` (after each batch norm of each
            block, before the sum), `shortcut` (if it is a convolution), `stage` (after each of the four).
    """
    rates = {"stem": 0.0, "block": 0.0, "shortcut": 0.0, "stage": 0.0, **(dropout or {})}
    block, layers = DEPTHS[depth]
    norm = partial(BatchNormDropout, p=rates["block"])
    network = Network(block, layers, num_classes, zero_init_residual, norm_layer=norm)
    if image_size < LARGE:
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
        network.maxpool = nn.Identity()
    network.bn1.p = rates["stem"]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        if stage[0].downsample is not None:
            stage[0].downsample[1].p = rates["shortcut"]
        if rates["stage"]:
            stage.append(nn.Dropout2d(rates["stage"]))
    network.normalize = Normalize(mean, std)
    if init == "torch":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return network


@torch.no_grad()
def whiten(network: nn.Module, images: torch.Tensor) -> None:
    """Initialise the first convolution to whiten these images: outputs that are uncorrelated, with variance 1.

    Its filters are the eigenvectors of the patches' covariance, divided by the root of the eigenvalues, once with
    each sign, the largest first, as many as there is room for. The other filters keep their weights, and all are
    trained. Page (2019, "How to train your ResNet" 8) and Jordan (2024, arXiv 2404.00498, 3.1) put such a layer before
    the network.

    Args:
        network: It has a `Normalize` and begins with a convolution over its three channels.
        images: uint8 (N, 3, H, W), some training images.
    """
    normalize = next((m for m in network.modules() if isinstance(m, Normalize)), None)
    conv = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if normalize is None or conv is None:
        raise UserError("whiten=true: the model has no normalisation or no convolution.")
    step = max(1, images.shape[-1] // 32)  # of larger images not every patch: they would need tens of gigabytes
    patches = F.unfold(normalize(images), conv.kernel_size, stride=step).transpose(1, 2).flatten(0, 1).double()
    size = patches.shape[1]
    require(
        conv.weight[0].numel() == size,
        f"whiten=true needs a first convolution over 3 channels, and this one is {conv}. Take whiten=false.",
    )
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).view(size, *conv.weight.shape[1:])[: len(conv.weight) // 2]
    conv.weight[: 2 * len(filters)] = torch.cat([filters, -filters]).to(conv.weight)
