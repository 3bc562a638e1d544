"""ResNet18 for small images; its first layer takes uint8 pixels, and may start as a whitening filter."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18
from torchvision.models.resnet import ResNet

from cifar_pl.errors import UserError, checked, require

Place = Literal["stem", "block", "shortcut", "stage"]  # of dropout in a network
Rate = Annotated[float, Field(ge=0, lt=1)]


class Normalize(nn.Module):
    """uint8 (N, 3, H, W) to float32 `(x / 255 - mean) / std`, per channel.

    A layer, so that every checkpoint has its preprocessing. `mean` and `std` are in [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Raises TypeError for anything but uint8: floats would be scaled a second time."""
        if image.dtype != torch.uint8:
            raise TypeError(f"The network takes uint8 images from 0 to 255, got {image.dtype}.")
        return (image / 255 - self.mean) / self.std


class BatchNormDropout(nn.BatchNorm2d):
    """Batch norm, then dropout of entire channels with probability `p` (Tompson et al. 2015, arXiv 1411.4280).

    It equals dropout after the ReLU that follows. A subclass, so that weights have the same names without dropout.
    """

    def __init__(self, num_features: int, p: float) -> None:
        super().__init__(num_features)
        self.p = p

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, D102  # its name in torch
        return F.dropout2d(super().forward(input), self.p, self.training)


@checked
def resnet18(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    zero_init_residual: bool = False,
    init: Literal["he", "torch"] = "he",
    dropout: Mapping[Place, Rate] | None = None,
) -> ResNet:
    """ResNet18 of torchvision with the stem for 32x32 images: 3x3, stride 1, no max-pool.

    He et al. (2016, arXiv 1512.03385), section 4.2, use this stem on CIFAR-10. With 10 classes it has
    11,173,962 parameters. For images of 32 pixels, layer1 to layer4 give 32, 16, 8 and 4 pixels.

    Args:
        num_classes: Length of the logits.
        mean: Mean of each channel of the training images, in [0, 1].
        std: Standard deviation of each channel.
        zero_init_residual: Start each residual branch at zero (Goyal et al. 2017, arXiv 1706.02677, 5.1).
        init: Initial weights of the convolutions: `he`, as in torchvision and the paper, or `torch`, the default of
            torch's layers, which are smaller by a factor of about 2.4.
        dropout: Probability to drop a channel in training, by place: `stem`, `block` (after both batch norms of each
            block, before the sum), `shortcut` (if it is a convolution), `stage` (after each of the four).
    """
    rates = {"stem": 0.0, "block": 0.0, "shortcut": 0.0, "stage": 0.0, **(dropout or {})}
    network = torchvision_resnet18(
        weights=None,
        num_classes=num_classes,
        zero_init_residual=zero_init_residual,
        norm_layer=partial(BatchNormDropout, p=rates["block"]),
    )
    stem = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision inits the others
    network.bn1.p = rates["stem"]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        if stage[0].downsample is not None:
            stage[0].downsample[1].p = rates["shortcut"]
        if rates["stage"]:
            stage.append(nn.Dropout2d(rates["stage"]))
    named = OrderedDict[str, nn.Module](normalize=Normalize(mean, std), conv=stem)
    network.conv1 = nn.Sequential(named)  # inside, so that layer1..4 keep their names
    network.maxpool = nn.Identity()
    if init == "torch":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return network


@torch.no_grad()
def whiten(network: nn.Module, images: torch.Tensor) -> None:
    """Initialise the first convolution to whiten these images: outputs that are uncorrelated, with variance 1.

    Its filters are the eigenvectors of the patches' covariance, divided by the root of the eigenvalues, once with
    each sign, the largest first. The other filters keep their weights, and all are trained. Page (2019, "How to
    train your ResNet" 8) and Jordan (2024, arXiv 2404.00498, 3.1) put such a layer before the network.

    Args:
        network: Its first layers are `Normalize` and a convolution over its three channels.
        images: uint8 (N, 3, H, W), some training images.
    """
    normalize = next((m for m in network.modules() if isinstance(m, Normalize)), None)
    conv = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if normalize is None or conv is None:
        raise UserError("whiten=true: the model has no normalisation or no convolution.")
    patches = F.unfold(normalize(images), conv.kernel_size).transpose(1, 2).flatten(0, 1).double()
    size = patches.shape[1]
    require(
        len(conv.weight) >= 2 * size and conv.weight[0].numel() == size,
        f"whiten=true needs a first convolution over 3 channels with {2 * size} filters or more, and this one is "
        f"{conv}. Take whiten=false.",
    )
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).view(size, *conv.weight.shape[1:])
    conv.weight[: 2 * size] = torch.cat([filters, -filters]).to(conv.weight)
