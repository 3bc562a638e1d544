import random

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from cifar_pl.errors import UserError
from cifar_pl.evaluation import gallery
from cifar_pl.evaluation.cases import Case
from cifar_pl.evaluation.gradcam import METHODS, deletion, heat_maps, new_head
from cifar_pl.models.resnet import resnet

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
    network = resnet(10, [0.5] * 3, [0.25] * 3)
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
    network = resnet(10, [0.5] * 3, [0.25] * 3)
    maps = heat_maps(network, ["layer3", "layer4"], images, torch.tensor([1, 2]), "cpu")
    assert maps.shape == (2, 2, 32, 32)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_unknown_and_too_small_layers_are_refused() -> None:
    network = resnet(10, [0.5] * 3, [0.25] * 3)
    with pytest.raises(UserError, match=r"no layer 'layer9'.*layer1, layer2"):
        heat_maps(network, ["layer9"], IMAGES, CLASSES, "cpu")
    with pytest.raises(UserError, match=r"layer4 gives 1x1"):
        heat_maps(network, ["layer4"], IMAGES, CLASSES, "cpu")
    with pytest.raises(UserError, match=r"method=cam: one of gradcam, gradcam\+\+, hirescam"):
        heat_maps(network, ["layer3"], IMAGES, CLASSES, "cpu", "cam")


class Corner(nn.Module):
    """The more blue its upper left quarter, the more likely is class 1; nothing else counts."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        blue = images[:, 2, :4, :4].float().mean((1, 2)) / 255
        return torch.stack([torch.zeros_like(blue), 8 * blue - 4], dim=1)


def test_hiding_what_counts_makes_the_class_unlikely() -> None:
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    images[:, 2] = 255
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, :4, :4] = 1  # the quarter that counts
    maps[1, 4:, 4:] = 1  # another
    drops = deletion(Corner(), images, maps, torch.ones(3, dtype=torch.long), (0.0, 0.0, 0.0), "cpu")
    p = 1 / (1 + np.exp(-4))
    np.testing.assert_allclose(drops[:2, 0], [p - (1 - p), 0], atol=1e-6)
    np.testing.assert_allclose(drops[:, 2], p - 1 / (1 + np.exp(-2)), atol=1e-6)  # the middle has 4 of the 16 pixels
    assert drops[0, 1] < drops[0, 0] / 2  # moved elsewhere, it covers a quarter of the corner on average
    assert drops[1, 1] > 0
    assert 0 < drops[2, 0] < drops[0, 0]  # a flat map: pixels by chance
    grey = deletion(Corner(), images, maps, torch.ones(3, dtype=torch.long), (1.0, 0.0, 1.0), "cpu")
    np.testing.assert_array_equal(grey, np.zeros((3, 3)))  # blue over blue


def test_the_hidden_quarter_is_a_quarter_and_always_the_same() -> None:
    seen: list[torch.Tensor] = []

    class Watch(Corner):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return super().forward(images)

    watch = Watch()
    watch.__deepcopy__ = lambda memo: watch  # type: ignore[attr-defined]
    black = torch.zeros(2, 3, 6, 6, dtype=torch.uint8)
    for _ in range(2):
        deletion(watch, black, np.zeros((2, 6, 6)), torch.zeros(2, dtype=torch.long), (1.0, 1.0, 1.0), "cpu")
    half = len(seen) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    hidden = [(batch == 255).all(1).sum((1, 2)).tolist() for batch in seen[:half]]
    assert hidden == [[0, 0]] + [[9, 9]] * (half - 1)


def test_a_new_head_changes_nothing_but_the_head_of_a_copy(tiny_network: nn.Sequential) -> None:
    tiny_network.train()
    before = {k: v.clone() for k, v in tiny_network.state_dict().items()}
    torch.manual_seed(7)
    with torch.inference_mode():
        spare = new_head(tiny_network)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    changed = {k for k, v in spare.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"6.weight", "6.bias"}
    assert all(torch.equal(before[k], v) for k, v in tiny_network.state_dict().items())
    assert tiny_network.training
    assert torch.equal(spare.state_dict()["6.weight"], new_head(tiny_network).state_dict()["6.weight"])


def test_a_gallery_has_the_drops_of_each_layer_and_the_maps_of_a_new_head(tiny_network: nn.Sequential) -> None:
    shown = [Case(n, int(c), int(c + 1) % 3, int(c), 0.2, 0.5, 0.2, 1.0) for n, c in enumerate(CLASSES)]
    pixels = IMAGES.permute(0, 2, 3, 1).numpy()
    made = gallery.explain(tiny_network, "val", shown, pixels, ["a", "b", "c"], "", ["1", "3"])
    predicted = torch.tensor([case.predicted for case in shown])
    assert made.drops.shape == (2, 5, 3)
    assert made.control.shape == (2, 5, 8, 8)
    own = made.maps[1, :, 0].astype(np.float32)
    expected = deletion(tiny_network, IMAGES, own, predicted, (0.5, 0.5, 0.5), "cpu")
    np.testing.assert_allclose(made.drops[1, :, 1], expected[:, 1], atol=0.05)  # the file's maps are rounded
    control = heat_maps(new_head(tiny_network), ["3"], IMAGES, predicted, "cpu")
    np.testing.assert_allclose(made.control[1], control[0], atol=1e-3)
    assert np.abs(made.control[1] - own).max() > 0.1
    for layer, drops, (name, *means, more) in zip(("1", "3"), made.drops, made.deletion(), strict=True):
        assert (name, more) == (layer, sum(hot > other for hot, other, _ in drops.tolist()))
        np.testing.assert_allclose(means, drops.mean(0))
