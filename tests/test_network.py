import copy
import os
import subprocess
import sys
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from cifar_pl.errors import UserError
from cifar_pl.machine import hardware
from cifar_pl.models.resnet import BatchNormDropout, Normalize, resnet, whiten
from cifar_pl.models.timm_model import timm_model
from tests.conftest import ROOT


def test_it_has_11173962_parameters() -> None:
    network = resnet(10, [0.5] * 3, [0.25] * 3)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962


def torchvisions(depth: Literal[18, 34, 50], image_size: int) -> nn.Module:
    network: nn.Module = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    if image_size < 64:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network.eval()


@pytest.mark.parametrize(("depth", "image_size"), [(18, 32), (18, 64), (34, 32), (50, 63)])
def test_torchvisions_networks_take_the_weights_as_they_are(depth: Literal[18, 34, 50], image_size: int) -> None:
    ours, theirs = resnet(10, [0.5] * 3, [0.25] * 3, depth, image_size).eval(), torchvisions(depth, image_size)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    image = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs((image / 255 - 0.5) / 0.25))


def test_weights_of_older_runs_bring_their_normalisation() -> None:
    network, old = resnet(10, [0.1] * 3, [0.2] * 3).eval(), resnet(10, [0.0] * 3, [1.0] * 3).eval()
    weights = network.state_dict()
    weights["conv1.conv.weight"] = weights.pop("conv1.weight")
    weights |= {"conv1.normalize.mean": network.normalize.mean, "conv1.normalize.std": network.normalize.std}
    old.load_state_dict(weights, strict=True)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(old(image), network(image))


def test_normalize_in_closed_form() -> None:
    normalize = Normalize([0.0, 0.5, 1.0], [1.0, 0.5, 0.25])
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([0.0, 1.0, (0.2 - 1.0) / 0.25]).view(1, 3, 1, 1)
    torch.testing.assert_close(normalize(image), expected)


def test_normalize_keeps_channels_last_memory() -> None:
    image = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert Normalize([0.5] * 3, [0.25] * 3)(image).is_contiguous(memory_format=torch.channels_last)


def test_the_network_refuses_floats() -> None:
    with pytest.raises(TypeError, match="uint8"):
        resnet(10, [0.5] * 3, [0.25] * 3)(torch.rand(1, 3, 32, 32))


def test_layers_of_a_32_pixel_image_have_32_16_8_and_4_pixels() -> None:
    network = resnet(10, [0.5] * 3, [0.25] * 3).eval()
    sizes = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _input, output, name=name: sizes.update({name: tuple(output.shape[2:])})
        )
    network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert sizes == {"layer1": (32, 32), "layer2": (16, 16), "layer3": (8, 8), "layer4": (4, 4)}


def test_a_whitening_convolution_decorrelates_its_images() -> None:
    """Of n uncorrelated outputs of variance v / (v + eps), one for each eigenvalue v of the patches' covariance."""
    torch.manual_seed(0)
    network = resnet(10, [0.5] * 3, [0.25] * 3)
    before = copy.deepcopy(network.state_dict())
    coarse = torch.randint(256, (50, 3, 4, 4), dtype=torch.uint8)
    images = F.interpolate(coarse.float(), scale_factor=4, mode="bilinear").to(torch.uint8)  # neighbours alike
    whiten(network, images)
    normalize, conv = network.normalize, network.conv1
    inside = F.conv2d(normalize(images), conv.weight).transpose(0, 1).flatten(1).double()  # without the border
    torch.testing.assert_close(inside[:27], -inside[27:54])
    patches = F.unfold(normalize(images), 3).transpose(0, 1).flatten(1).double()
    values = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1]).flip(0)
    outputs = inside[:27] @ inside[:27].T / inside.shape[1]
    torch.testing.assert_close(outputs, torch.diag(values / (values + 5e-4)), rtol=1e-3, atol=1e-3)
    after = network.state_dict()
    assert torch.equal(after["conv1.weight"][54:], before["conv1.weight"][54:])
    assert all(torch.equal(after[name], before[name]) for name in before if name != "conv1.weight")


def test_of_large_images_as_many_patches_whiten_as_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    unfold = F.unfold

    def counting(*arguments: Any, **options: Any) -> torch.Tensor:
        counted.append(unfold(*arguments, **options))
        return counted[-1]

    monkeypatch.setattr(F, "unfold", counting)
    for size in (32, 64, 224):
        network = resnet(2, [0.5] * 3, [0.25] * 3, image_size=size)
        whiten(network, torch.randint(256, (4, 3, size, size), dtype=torch.uint8))
    assert [patches.shape[2] for patches in counted] == [30 * 30, 29 * 29, 32 * 32]


def test_few_filters_have_the_largest_eigenvalues(tiny_network: nn.Module) -> None:
    images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8)
    large = resnet(3, [0.5] * 3, [0.25] * 3)
    for network in (tiny_network, large):
        whiten(network, images)
    few, many = tiny_network[1].weight, large.conv1.weight
    torch.testing.assert_close(few, torch.cat([many[:4], -many[:4]]))


def test_a_convolution_over_more_channels_is_not_whitened() -> None:
    network = nn.Sequential(Normalize([0.5] * 3, [0.25] * 3), nn.Conv2d(6, 8, 3))
    with pytest.raises(UserError, match="over 3 channels"):
        whiten(network, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_dropout_takes_whole_channels_in_training_and_nothing_else() -> None:
    torch.manual_seed(0)
    norm = BatchNormDropout(400, p=0.25)
    x = torch.randn(2, 400, 3, 3)
    dropped = norm(x)
    plain = nn.BatchNorm2d(400)(x)
    gone = (dropped == 0).all(dim=(2, 3))
    assert abs(gone.float().mean().item() - 0.25) < 0.06  # 4 standard errors of 800 channels
    torch.testing.assert_close(dropped[~gone], plain[~gone] / 0.75)
    reference = nn.BatchNorm2d(400).eval()
    reference.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(x), reference(x))


def test_dropout_changes_no_name_and_no_output_outside_of_training() -> None:
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    networks = []
    for dropout in (None, {"stem": 0.1, "block": 0.2, "shortcut": 0.3, "stage": 0.4}):
        torch.manual_seed(0)
        networks.append(resnet(10, [0.5] * 3, [0.25] * 3, dropout=dropout).eval())
    plain, dropped = networks
    dropped.load_state_dict(plain.state_dict())
    assert torch.equal(plain(image), dropped(image))
    assert not torch.equal(plain.train()(image), dropped.train()(image))


STEP = """
import torch, torch.nn.functional as F
from cifar_pl.models.resnet import resnet
from cifar_pl.models.timm_model import timm_model
network = resnet(10, [0.5] * 3, [0.2] * 3).to(memory_format=torch.channels_last)
for size in (24, 32):
    image = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    F.cross_entropy(logits.float(), torch.arange(8)).backward()
"""


@pytest.mark.skipif(hardware.precision("auto", "cpu") != "bf16-mixed", reason="this processor has no bf16 of its own")
def test_no_convolution_of_a_step_in_bf16_falls_to_onednns_reference_code() -> None:
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    used = [line.split(",")[6:8] for line in said.stdout.splitlines() if ",exec," in line and ",convolution," in line]
    kinds = {"forward_training", "backward_data", "backward_weights"}
    assert {kind for _, kind in used} == kinds
    assert not [name for name, _ in used if "bf16" not in name or name.startswith("ref")]


def test_a_network_of_timm_takes_uint8_and_has_its_classes() -> None:
    network = timm_model(3, [0.5] * 3, [0.25] * 3, "resnet10t").eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert network(images).shape == (2, 3)
    torch.testing.assert_close(network(images), network.network((images / 255 - 0.5) / 0.25))
    with pytest.raises(UserError, match=r"model\.name=nosuch: timm has no such network"):
        timm_model(3, [0.5] * 3, [0.25] * 3, "nosuch")
