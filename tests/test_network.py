import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18

from cifar_pl.errors import UserError
from cifar_pl.machine import hardware
from cifar_pl.models.resnet18 import BatchNormDropout, Normalize, resnet18, whiten
from tests.conftest import ROOT


def test_it_has_11173962_parameters() -> None:
    network = resnet18(10, [0.5] * 3, [0.25] * 3)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962


def test_only_the_stem_and_the_pool_differ_from_torchvision() -> None:
    ours = dict(resnet18(10, [0.5] * 3, [0.25] * 3).named_parameters())
    theirs = dict(torchvision_resnet18(num_classes=10).named_parameters())
    assert ours.keys() - theirs.keys() == {"conv1.conv.weight"}
    assert theirs.keys() - ours.keys() == {"conv1.weight"}
    assert all(ours[name].shape == theirs[name].shape for name in ours.keys() & theirs.keys())


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
        resnet18(10, [0.5] * 3, [0.25] * 3)(torch.rand(1, 3, 32, 32))


def test_layers_of_a_32_pixel_image_have_32_16_8_and_4_pixels() -> None:
    network = resnet18(10, [0.5] * 3, [0.25] * 3).eval()
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
    network = resnet18(10, [0.5] * 3, [0.25] * 3)
    before = copy.deepcopy(network.state_dict())
    coarse = torch.randint(256, (50, 3, 4, 4), dtype=torch.uint8)
    images = F.interpolate(coarse.float(), scale_factor=4, mode="bilinear").to(torch.uint8)  # neighbours alike
    whiten(network, images)
    normalize, conv = network.conv1
    inside = F.conv2d(normalize(images), conv.weight).transpose(0, 1).flatten(1).double()  # without the border
    torch.testing.assert_close(inside[:27], -inside[27:54])
    patches = F.unfold(normalize(images), 3).transpose(0, 1).flatten(1).double()
    values = torch.linalg.eigvalsh(patches @ patches.T / patches.shape[1]).flip(0)
    outputs = inside[:27] @ inside[:27].T / inside.shape[1]
    torch.testing.assert_close(outputs, torch.diag(values / (values + 5e-4)), rtol=1e-3, atol=1e-3)
    after = network.state_dict()
    assert torch.equal(after["conv1.conv.weight"][54:], before["conv1.conv.weight"][54:])
    assert all(torch.equal(after[name], before[name]) for name in before if name != "conv1.conv.weight")


def test_a_convolution_with_too_few_filters_is_not_whitened(tiny_network: nn.Module) -> None:
    with pytest.raises(UserError, match="54 filters or more"):
        whiten(tiny_network, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


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
        networks.append(resnet18(10, [0.5] * 3, [0.25] * 3, dropout=dropout).eval())
    plain, dropped = networks
    dropped.load_state_dict(plain.state_dict())
    assert torch.equal(plain(image), dropped(image))
    assert not torch.equal(plain.train()(image), dropped.train()(image))


STEP = """
import torch, torch.nn.functional as F
from cifar_pl.models.resnet18 import resnet18
network = resnet18(10, [0.5] * 3, [0.2] * 3).to(memory_format=torch.channels_last)
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
