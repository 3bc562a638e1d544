import random

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from cifar_pl.errors import UserError
from cifar_pl.evaluation.gradcam import METHODS, heat_maps
from cifar_pl.models.resnet18 import resnet18

IMAGES = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 1, 2, 1, 0])


def scaled(raw: torch.Tensor) -> np.ndarray:
    """ReLU, then each map to [0, 1], as pytorch-grad-cam does."""
    maps = raw.clamp(min=0).numpy()
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    return maps / (1e-7 + maps.max(axis=(1, 2), keepdims=True))


def test_closed_form_for_average_pool_and_linear_head(tiny_network: nn.Sequential) -> None:
    """There the weight of map k for class c is the head's w[c, k], but for a factor."""
    tiny_network.eval()
    with torch.no_grad():
        features = tiny_network[:4](IMAGES)  # (5, 8, 8, 8)
        raw = torch.einsum("nk,nkij->nij", tiny_network[6].weight[CLASSES], features)
    maps = heat_maps(tiny_network, ["3"], IMAGES, CLASSES, "cpu")
    assert maps.shape == (1, 5, 8, 8)
    np.testing.assert_allclose(maps[0], scaled(raw), atol=1e-5)
    assert maps.max() > 0.9


@pytest.fixture(scope="module")
def small_resnet() -> nn.Module:
    """ResNet18 whose batch norms have seen images, so that layer4 is not flat."""
    torch.manual_seed(0)
    network = resnet18(10, [0.5] * 3, [0.25] * 3)
    with torch.no_grad():
        network(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
    return network.eval()


def test_closed_form_for_layer4(small_resnet: nn.Module) -> None:
    """Average pooling and the linear head follow it, so the weight of map k for class c is the head's w[c, k]."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    classes = torch.tensor([3, 1, 4])
    features: list[torch.Tensor] = []
    handle = small_resnet.layer4.register_forward_hook(lambda *given: features.append(given[2].detach()))
    with torch.no_grad():
        small_resnet(images)
    handle.remove()
    raw = torch.einsum("nk,nkij->nij", small_resnet.fc.weight[classes].detach(), features[0]).clamp(min=0).numpy()
    # pytorch-grad-cam enlarges first, and scales the enlarged map
    large = np.stack([cv2.resize(one, (32, 32)) for one in scaled(torch.from_numpy(raw))])
    maps = heat_maps(small_resnet, ["layer4"], images, classes, "cpu")[0]
    np.testing.assert_allclose(maps, scaled(torch.from_numpy(large)), atol=1e-5)
    assert maps.max() > 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_maps_equal_those_of_pytorch_grad_cam(small_resnet: nn.Module, method: str, layer: str) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    theirs = getattr(pytorch_grad_cam, METHODS[method][1])(small_resnet, [getattr(small_resnet, layer)])
    expected = theirs(images, [ClassifierOutputTarget(c) for c in (2, 5, 7)])
    ours = heat_maps(small_resnet, [layer], images, torch.tensor([2, 5, 7]), "cpu", method)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert ours.std() > 0.05


def test_a_map_explains_the_class_that_was_asked_for(tiny_network: nn.Module) -> None:
    one, other = (heat_maps(tiny_network, ["3"], IMAGES, c, "cpu") for c in (CLASSES, (CLASSES + 1) % 3))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_no_trace(tiny_network: nn.Module, training: bool) -> None:
    tiny_network.train(training)
    tiny_network[6].requires_grad_(False)  # type: ignore[index]
    tiny_network(IMAGES).sum().backward()
    state = {k: v.clone() for k, v in tiny_network.state_dict().items()}
    grads = {k: None if p.grad is None else p.grad.clone() for k, p in tiny_network.named_parameters()}
    frozen = [p.requires_grad for p in tiny_network.parameters()]
    torch.manual_seed(7), np.random.seed(7), random.seed(7)  # noqa: NPY002
    heat_maps(tiny_network, ["1", "3"], IMAGES, CLASSES, "cpu")
    after = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(7), np.random.seed(7), random.seed(7)  # noqa: NPY002
    assert after == (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002
    assert all(module.training == training for module in tiny_network.modules())
    assert all(torch.equal(state[k], v) for k, v in tiny_network.state_dict().items())
    assert frozen == [p.requires_grad for p in tiny_network.parameters()]
    for name, parameter in tiny_network.named_parameters():
        before = grads[name]
        assert parameter.grad is None if before is None else torch.equal(before, parameter.grad)
    assert not any(m._forward_hooks or m._backward_hooks for m in tiny_network.modules())


def test_it_works_under_autocast_in_inference_mode_and_for_a_compiled_network(tiny_network: nn.Module) -> None:
    tiny_network.eval()
    plain = heat_maps(tiny_network, ["3"], IMAGES, CLASSES, "cpu")
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        np.testing.assert_array_equal(heat_maps(tiny_network, ["3"], IMAGES, CLASSES, "cpu"), plain)
    tiny_network.compile(backend="eager")
    tiny_network(IMAGES)
    np.testing.assert_array_equal(heat_maps(tiny_network, ["3"], IMAGES, CLASSES, "cpu"), plain)


def test_batches_do_not_show(tiny_network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = heat_maps(tiny_network, ["3"], IMAGES, CLASSES, "cpu")
    monkeypatch.setattr("cifar_pl.evaluation.gradcam.BATCH", 2)
    np.testing.assert_allclose(heat_maps(tiny_network, ["3"], IMAGES, CLASSES, "cpu"), whole, atol=1e-5)


def test_resnet18s_layers_by_name() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    network = resnet18(10, [0.5] * 3, [0.25] * 3)
    maps = heat_maps(network, ["layer3", "layer4"], images, torch.tensor([1, 2]), "cpu")
    assert maps.shape == (2, 2, 32, 32)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_unknown_and_too_small_layers_are_refused() -> None:
    network = resnet18(10, [0.5] * 3, [0.25] * 3)
    with pytest.raises(UserError, match=r"no layer 'layer9'.*layer1, layer2"):
        heat_maps(network, ["layer9"], IMAGES, CLASSES, "cpu")
    with pytest.raises(UserError, match=r"layer4 gives 1x1"):
        heat_maps(network, ["layer4"], IMAGES, CLASSES, "cpu")
    with pytest.raises(UserError, match=r"method=cam: one of gradcam, gradcam\+\+, hirescam"):
        heat_maps(network, ["layer3"], IMAGES, CLASSES, "cpu", "cam")
