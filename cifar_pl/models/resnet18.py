"""ResNet18 for small images; its first layer takes uint8 pixels, and may start as a whitening filter."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18
from torchvision.models.resnet import ResNet

from cifar_pl.errors import require


class Normalize(nn.Module):
    """uint8 (N, 3, H, W) to float32 `(x / 255 - mean) / std`, per channel.

    As a layer, it puts the preprocessing into every checkpoint, and pixels stay displayable until here.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the channels' mean and standard deviation, in [0, 1]."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalise. Raises TypeError for anything but uint8: floats would be scaled a second time."""
        if image.dtype != torch.uint8:
            raise TypeError(f"The network takes uint8 images from 0 to 255, got {image.dtype}.")
        return (image / 255 - self.mean) / self.std


class BatchNormDropout(nn.BatchNorm2d):
    """Batch norm, and then whole channels set to zero (Tompson et al. 2015, arXiv 1411.4280).

    A ReLU behind it changes nothing: dropout after the ReLU would give the same. A subclass, so that
    weights have the same names with and without dropout.
    """

    def __init__(self, num_features: int, p: float) -> None:
        """Drop each channel with probability `p`."""
        super().__init__(num_features)
        self.p = p

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # its name in torch
        """Normalise and, in training, drop."""
        return F.dropout2d(super().forward(input), self.p, self.training)


def resnet18(
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    zero_init_residual: bool = False,
    init: str = "he",
    dropout: Mapping[str, float] | None = None,
) -> ResNet:
    """ResNet18 of torchvision with the stem for 32x32 images: 3x3, stride 1, no max-pool.

    He et al. (2016, arXiv 1512.03385), section 4.2, use this stem on CIFAR-10. With 10 classes it has
    11,173,962 parameters. For images of 32 pixels, layer1 to layer4 give 32, 16, 8 and 4 pixels.

    Args:
        num_classes: Length of the logits.
        mean: Of each channel of the training images, in [0, 1].
        std: The same, standard deviation.
        zero_init_residual: Start each residual branch at zero (Goyal et al. 2017, arXiv 1706.02677, 5.1).
        init: Of the convolutions: `he`, as torchvision and the paper have it, or `torch`, the default of
            torch's layers, whose weights are smaller by a factor of about 2.4.
        dropout: Probability to drop a channel in training, by place: `stem`, `block` (after both batch norms
            of each block, before the sum), `shortcut` (where it is a convolution), `stage` (after each of the
            four). A place that is not named has none.

    Raises:
        UserError: `init` or a place does not exist, or a probability is none.
    """
    require(init in ("he", "torch"), f"model.init={init}: he or torch.")
    rates = {"stem": 0.0, "block": 0.0, "shortcut": 0.0, "stage": 0.0, **(dropout or {})}
    require(
        len(rates) == 4 and all(0 <= p < 1 for p in rates.values()),
        f"model.dropout={dict(dropout or {})}: probabilities, from 0 to below 1, of stem, block, shortcut and stage.",
    )
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
    """Let the first convolution start with filters whose outputs are uncorrelated, of variance 1, on these images.

    They are the eigenvectors of the patches' covariance, over the root of its eigenvalues, once with each
    sign, the largest first; filters beyond those keep their weights, and all of them train on. Page (2019,
    "How to train your ResNet" 8) and Jordan (2024, arXiv 2404.00498, 3.1) put such a layer before the network.

    Args:
        network: Its first layers are `Normalize` and a convolution over its three channels.
        images: uint8 (N, 3, H, W), some training images.

    Raises:
        UserError: the convolution has too few filters, or there is none.
    """
    normalize = next((m for m in network.modules() if isinstance(m, Normalize)), None)
    conv = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    require(
        normalize is not None and conv is not None, "whiten=true: the model has no normalisation or no convolution."
    )
    assert normalize is not None
    assert conv is not None
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
