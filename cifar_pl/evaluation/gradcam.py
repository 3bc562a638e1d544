"""Where a network looked: Grad-CAM on a copy, so that the network itself does not change."""

import copy
from collections.abc import Sequence
from typing import Any

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
DRAWS = 8  # places to which the hidden part of an image is moved


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
        layers: Names of submodules with 2-D feature maps, such as `layer4`.
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
        spare = _spare(network).to(device).requires_grad_(True)
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


def last_map(network: nn.Module, image_size: int) -> str:
    """Name of the last layer whose maps have `MIN_SIDE` pixels or more: for 32 pixels, and for 224, ResNet18's layer4.

    Grad-CAM of an earlier layer is sharper and often beside the thing: docs/results.md, "Which heat maps".

    Raises:
        UserError: no layer has maps.
    """
    sizes: dict[str, int] = {}
    with torch.inference_mode():
        spare = _spare(network).cpu()
        for name, module in spare.named_modules():

            def seen(_module: nn.Module, _images: Any, maps: Any, name: str = name) -> None:
                # Images are square, and so are their maps; attention is not: heads of tokens.
                if name and isinstance(maps, torch.Tensor) and maps.dim() == 4 and maps.shape[2] == maps.shape[3]:
                    sizes.pop(name, None)  # so that names are in the order of their last use
                    sizes[name] = min(maps.shape[2:])

            module.register_forward_hook(seen)
        spare(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
    require(sizes, "The network has no layer with maps.")
    return [name for name, size in sizes.items() if size >= min(MIN_SIDE, max(sizes.values()))][-1]


def new_head(network: nn.Module) -> nn.Module:
    """A copy whose last layer has new weights, always the same; neither the network nor the random state changes.

    Maps that look like those of the network itself do not depend on what its last layer learned (Adebayo et al. 2018,
    arXiv 1810.03292).
    """
    with isolate_rng():
        torch.manual_seed(0)
        spare = _spare(network)
        head: Any = [module for module in spare.modules() if hasattr(module, "reset_parameters")][-1]
        head.reset_parameters()
    return spare


def middle(height: int, width: int) -> NDArray[np.float64]:
    """A map (H, W) that is hottest in the middle, where things often are: one that means something beats it."""
    size = np.array((height, width)).reshape(2, 1, 1)
    away: NDArray[np.float64] = ((np.indices((height, width)) - (size - 1) / 2) ** 2).sum(0)
    return -away


def deletion(
    network: nn.Module,
    images: torch.Tensor,
    maps: NDArray[np.floating],
    classes: torch.Tensor,
    fill: Sequence[float],
    device: torch.device | str,
) -> NDArray[np.float32]:
    """How far the probability of a class drops when a quarter of each image is hidden: float32 (N, 3), in [-1, 1].

    First for the hottest quarter of its map (Petsiuk et al. 2018, arXiv 1806.07421, in one step), then for a quarter of
    the same shape at random places, the mean of `DRAWS`: scattered pixels would spoil more of an image than a patch.
    Last for the quarter in the middle of the image. Of equally hot pixels some are taken by chance, always the same.
    Nothing changes, as in `heat_maps`.

    Args:
        network: uint8 (N, 3, H, W) to logits.
        images: uint8 (N, 3, H, W).
        maps: (N, H, W), one per image.
        classes: int64 (N,).
        fill: The colour over what is hidden, three values in [0, 1].
        device: Device of the copy.
    """
    rng, (height, width) = np.random.default_rng(0), maps.shape[1:]
    hot = _hottest(maps, rng)
    places = rng.integers((height, width), size=(DRAWS, 2)).tolist()
    central = _hottest(np.broadcast_to(middle(height, width), maps.shape), rng)
    hidden = [np.zeros_like(hot), hot, central, *(np.roll(hot, place, axis=(2, 3)) for place in places)]
    color = torch.tensor(fill).mul(255).round().to(torch.uint8)[:, None, None]
    p = []
    with torch.inference_mode(), torch.autocast(torch.device(device).type, enabled=False):
        spare = _spare(network).to(device)
        for mask in map(torch.from_numpy, hidden):
            parts = torch.split(torch.where(mask, color, images), BATCH)
            logits = torch.cat([spare(part.to(device)).cpu() for part in parts])
            p.append(logits.softmax(1).gather(1, classes[:, None])[:, 0].numpy())
    return np.stack([p[0] - p[1], p[0] - np.mean(p[3:], axis=0), p[0] - p[2]], axis=1)


def _hottest(maps: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The hottest quarter of each map (N, H, W), of equally hot pixels some by chance: (N, 1, H, W)."""
    n, height, width = maps.shape
    order = np.lexsort((rng.random((n, height * width)), -maps.reshape(n, -1)))
    hot = np.zeros((n, height * width), bool)
    np.put_along_axis(hot, order[:, : height * width // 4], True, axis=1)
    return hot.reshape(n, 1, height, width)


def _spare(network: nn.Module) -> nn.Module:
    """A float32 copy for evaluation; not of tensors that inference mode makes, which have no gradients."""
    with torch.inference_mode(False):
        return copy.deepcopy(network).float().eval()
