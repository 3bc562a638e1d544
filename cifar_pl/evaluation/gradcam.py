"""Where a network looked: Grad-CAM on a copy, so that the network itself does not change."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.seed import isolate_rng  # restores random state on errors too
from torch import nn

from cifar_pl.errors import require
from cifar_pl.machine import hardware

BATCH = 32
# Title, and class of pytorch-grad-cam
METHODS = {
    "gradcam": ("Grad-CAM", "GradCAM"),  # Selvaraju et al. 2017, arXiv 1610.02391
    "gradcam++": ("Grad-CAM++", "GradCAMPlusPlus"),  # Chattopadhay et al. 2018, arXiv 1710.11063
    "hirescam": ("HiResCAM", "HiResCAM"),  # Draelos and Carin 2020, arXiv 2011.08891
}
MIN_SIDE = 4  # pixels; the map of a smaller layer would show nothing


def heat_maps(
    network: nn.Module,
    layers: Sequence[str],
    images: torch.Tensor,
    classes: torch.Tensor,
    device: torch.device | str,
    method: str = "gradcam",
) -> NDArray[np.float32]:
    """Heat maps of one class per image, through pytorch-grad-cam: float32 (len(layers), N, H, W).

    Each map is scaled to [0, 1]. The network keeps its weights, mode, gradients and buffers, and the random state does
    not change. It works under autocast, in inference mode, and for frozen or compiled networks: a float32 copy is used.

    Args:
        network: uint8 (N, 3, H, W) to logits.
        layers: Names of submodules with 2-D feature maps, such as `layer3`.
        images: uint8 (N, 3, H, W).
        classes: int64 (N,), the class to explain in each image.
        device: Device of the copy.
        method: One of `METHODS`.
    """
    import pytorch_grad_cam  # 2 s of scikit-learn, scipy and matplotlib
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    require(method in METHODS, f"method={method}: one of {', '.join(METHODS)}.")
    names = [name for name, _ in network.named_modules() if name]
    for layer in layers:
        top = ", ".join(name for name in names if "." not in name)
        require(layer in names, f"layers={list(layers)}: the network has no layer {layer!r}. It has {top}.")
    maps = np.zeros((len(layers), len(images), *images.shape[2:]), np.float32)
    kind = torch.device(device).type
    with isolate_rng(), torch.inference_mode(False), torch.enable_grad(), torch.autocast(kind, enabled=False):
        spare = copy.deepcopy(network).float().to(device).eval().requires_grad_(True)
        for row, layer in enumerate(layers):
            with getattr(pytorch_grad_cam, METHODS[method][1])(spare, [spare.get_submodule(layer)]) as cam:
                for start in range(0, len(images), BATCH):
                    part = slice(start, start + BATCH)
                    batch = images[part].clone().to(device, memory_format=hardware.memory_format(kind))
                    maps[row, part] = cam(batch, [ClassifierOutputTarget(c) for c in classes[part].tolist()])
                size = cam.activations_and_grads.activations[0].shape[2:]
            require(
                len(size) == 2 and min(size) >= MIN_SIDE,
                f"layer {layer} gives {'x'.join(map(str, size)) or 'no'} pixels: too few to show where the network "
                "looked. Take an earlier layer.",
            )
    return maps
