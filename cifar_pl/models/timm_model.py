"""A network of timm, the optional library of image models, by its name."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from cifar_pl.errors import UserError, install
from cifar_pl.models.resnet import Normalize


def timm_model(
    num_classes: int, mean: Sequence[float], std: Sequence[float], name: str, drop_rate: float = 0.0
) -> nn.Module:
    """The network that timm calls `name`, with fresh weights.

    Args:
        num_classes: Length of the logits.
        mean: Mean of each channel of the training images, in [0, 1].
        std: Standard deviation of each channel.
        name: One of `timm.list_models()`.
        drop_rate: Probability of dropout before the last layer.

    Raises:
        UserError: timm is not installed, or knows no such network.
    """
    try:
        import timm  # an optional extra
    except ModuleNotFoundError as error:
        raise UserError(f"{error}. Install it: {install('timm')}") from error
    if not timm.is_model(name):
        raise UserError(f"model.name={name}: timm has no such network. See timm.list_models().")
    network = timm.create_model(name, num_classes=num_classes, drop_rate=drop_rate)
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=network))
