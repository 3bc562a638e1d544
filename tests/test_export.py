import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

from cifar_pl import export
from cifar_pl.inference import saved
from tests.conftest import Ask


def test_all_files_give_the_checkpoints_probabilities(
    own_run: Path, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(export.main, own_run) == 0
    assert "checked on 180 images; probabilities differ by" in caplog.text
    run = saved.find(str(own_run))
    out = own_run / f"export-epoch{run.epoch}"
    images = run.data().batch("test", 0, 7).image
    expected = run.network.float()(images).softmax(1).detach().numpy()
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for some in (images[:1], images):  # any batch
        (said,) = session.run(None, {"image": some.contiguous().numpy()})
        np.testing.assert_allclose(said, expected[: len(some)], atol=1e-5)
        assert said.dtype == np.float32
    (given,) = session.get_inputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [3, 8, 8])

    network = resnet18(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    network.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    with safe_open(out / "model.safetensors", "pt") as file:
        mean, std = (torch.tensor(json.loads(file.metadata()[name])).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        ours = network.eval()((images / 255 - mean) / std).softmax(1)
        program = torch.export.load(out / "model.pt2").module()
        assert all(torch.allclose(program(some), ours[: len(some)], atol=1e-5) for some in (images[:1], images))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    with safe_open(out / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == run.classes
    assert ask(export.main, own_run, "--out", out) == 1  # not empty
    card = (out / "README.md").read_text()
    accuracy = json.loads((own_run / "summary.json").read_text())["test"]["acc"]
    assert f"Test accuracy {accuracy:.2%} on 359 images" in card


def test_without_the_extra_it_says_what_to_install(
    own_run: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert ask(export.main, own_run) == 1
    assert 'pip install -e ".[export]"' in capsys.readouterr().err
    assert not list(own_run.glob("export*"))
