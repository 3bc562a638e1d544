"""Where a network looked: Grad-CAM, on a copy, so that the network does not notice."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.seed import isolate_rng  # restores random state on errors too
from torch import nn

from cifar_pl.errors import require
from cifar_pl.machine import hardware

BATCH = 64
# Selvaraju et al. 2017 (arXiv 1610.02391), Chattopadhay et al. 2018 (1710.11063), Draelos and Carin 2020 (2011.08891)
METHODS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM"}
LEAST = 4  # pixels; a smaller layer gives no map that a person could read


def heat_maps(
    network: nn.Module,
    layers: Sequence[str],
    images: torch.Tensor,
    classes: torch.Tensor,
    device: torch.device | str,
    method: str = "gradcam",
) -> NDArray[np.float32]:
    """Grad-CAM, or a method after it, of one class per image, through pytorch-grad-cam.

    The network stays as it is (weights, mode, gradients, buffers), and so does the random state. It
    works under autocast, in inference mode, and for frozen or compiled networks: a float32 copy is used.

    Args:
        network: uint8 (N, 3, H, W) to logits.
        layers: Names of submodules with 2-D feature maps, such as `layer3`.
        images: uint8 (N, 3, H, W).
        classes: int64 (N,), the class that each image's maps explain.
        device: Where the copy runs.
        method: `gradcam`, `gradcam++` or `hirescam`.

    Returns:
        float32 (len(layers), N, H, W) in [0, 1]; each map is scaled to its own minimum and maximum.

    Raises:
        UserError: there is no such method or layer, or its feature maps are smaller than 4x4.
    """
    import pytorch_grad_cam  # 2 s of scikit-learn, scipy and matplotlib
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    require(method in METHODS, f"method={method}: one of {', '.join(METHODS)}.")
    known = [name for name, _ in network.named_modules() if name]
    for name in layers:
        top = ", ".join(n for n in known if "." not in n)
        require(name in known, f"layers={list(layers)}: the network has no layer {name!r}. It has {top}.")
    require(len(images) == len(classes), f"{len(images)} images and {len(classes)} classes: there must be one each.")
    maps = np.zeros((len(layers), len(images), *images.shape[2:]), np.float32)
    with (
        isolate_rng(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(torch.device(device).type, enabled=False),
    ):
        lies = hardware.memory_format(torch.device(device).type)
        spy = copy.deepcopy(network).float().to(device).eval().requires_grad_(True)
        for row, name in enumerate(layers):
            with getattr(pytorch_grad_cam, METHODS[method])(spy, [spy.get_submodule(name)]) as cam:
                for start in range(0, len(images), BATCH):
                    part = slice(start, start + BATCH)
                    targets = [ClassifierOutputTarget(c) for c in classes[part].tolist()]
                    maps[row, part] = cam(images[part].clone().to(device, memory_format=lies), targets)
                size = cam.activations_and_grads.activations[0].shape[2:]
            require(
                len(size) == 2 and min(size) >= LEAST,
                f"layer {name} gives {'x'.join(map(str, size)) or 'no'} pixels: too few to show where the network "
                "looked. Take an earlier layer.",
            )
    return maps
