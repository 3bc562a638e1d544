"""Every network that can be chosen is trained, resumed, explained, exported and used to predict."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cifar_pl import export, predict, verify
from cifar_pl.errors import UserError
from cifar_pl.evaluation.gradcam import last_map
from cifar_pl.models.resnet import resnet
from cifar_pl.models.timm_model import timm_model
from cifar_pl.runs import files
from cifar_pl.runs.checkpoints import load_weights
from tests.conftest import Ask, Path, Train

SHORT = (
    *("data=digits", "trainer=cpu", "trainer.max_epochs=1", "scheduler=constant", "data.start_share=0"),
    *(f"+trainer.limit_{part}_batches=2" for part in ("train", "val")),
    *("logger=none", "callbacks.explore=null", "hydra.run.dir=run"),
)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet34", "resnet50", "timm"])
def test_each_is_trained_resumed_explained_exported_and_predicts(
    model: str, train: Train, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(*SHORT, f"model={model}")
    assert result.returncode == 0, result.stderr
    result = train("resume=run", "trainer.max_epochs=2")
    assert result.returncode == 0, result.stderr
    assert files.read_json(tmp_path / "run/summary.json")["epochs"] == 2
    assert (tmp_path / "run/misclassified.npz").is_file()
    assert ask(export.main, tmp_path / "run") == 0
    assert ask(predict.main, tmp_path / "run", tmp_path / "run/figures/curves.png", "--cam", tmp_path / "maps") == 0
    assert "curves.png" in capsys.readouterr().out
    assert len(list((tmp_path / "maps").iterdir())) == 1


@pytest.mark.slow
def test_a_run_that_started_from_weights_resumes_without_their_file(
    train: Train, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = resnet(10, [0.5] * 3, [0.25] * 3).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    result = train(*SHORT, "data.image_size=8", "model.weights=weights.pt")
    assert result.returncode == 0, result.stderr
    (tmp_path / "weights.pt").unlink()
    result = train("resume=run", "trainer.max_epochs=2")
    assert result.returncode == 0, result.stderr
    assert files.read_json(tmp_path / "run/summary.json")["epochs"] == 2
    torch.save(resnet(10, [0.5] * 3, [0.25] * 3).state_dict(), tmp_path / "weights.pt")
    monkeypatch.chdir(tmp_path)
    assert ask(verify.main, "run") == 1  # other weights than those it started from
    torch.save(weights, tmp_path / "weights.pt")
    assert ask(verify.main, "run") == 0


@pytest.mark.parametrize(("image_size", "layer"), [(16, "layer3"), (32, "layer4"), (64, "layer3"), (224, "layer4")])
def test_heat_maps_are_of_the_last_layer_with_four_pixels_or_more(image_size: int, layer: str) -> None:
    assert last_map(resnet(2, [0.5] * 3, [0.25] * 3, image_size=image_size), image_size) == layer


def test_attention_is_no_map() -> None:
    network = timm_model(2, [0.5] * 3, [0.25] * 3, "vit_tiny_patch16_224")
    assert last_map(network, 224).startswith("network.patch_embed.")  # tokens follow, which have no places in rows


def test_a_network_without_maps_is_refused() -> None:
    class Flat(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.flatten(1).float()

    with pytest.raises(UserError, match="no layer with maps"):
        last_map(Flat(), 8)


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_weights_of_other_classes_leave_the_last_layer_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    three, ten = (resnet(classes, [0.5] * 3, [0.25] * 3) for classes in (3, 10))
    before = weights(ten)
    torch.save({"state_dict": {f"network.{k}": v for k, v in three.state_dict().items()}}, tmp_path / "c.ckpt")
    with caplog.at_level("INFO"):
        load_weights(tmp_path / "c.ckpt", ten)
    assert "its last layer is of other classes and stays new" in caplog.text
    for name, value in weights(ten).items():
        assert torch.equal(value, before[name] if name.startswith("fc.") else three.state_dict()[name])


def test_weights_of_the_same_classes_are_taken_whole(tmp_path: Path) -> None:
    one, other = (resnet(3, [0.5] * 3, [0.25] * 3) for _ in range(2))
    torch.save(one.state_dict(), tmp_path / "weights.pt")
    load_weights(tmp_path / "weights.pt", other)
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in weights(other).items())


def test_weights_of_timm_are_taken_under_its_names_and_ours(tmp_path: Path) -> None:
    one, other, third = (timm_model(3, [0.5] * 3, [0.25] * 3, "resnet10t") for _ in range(3))
    torch.save(one.network.state_dict(), tmp_path / "timm.pt")
    save_file(weights(one), tmp_path / "exported.safetensors")
    for network, name in ((other, "timm.pt"), (third, "exported.safetensors")):
        load_weights(tmp_path / name, network)
        assert all(torch.equal(value, one.state_dict()[key]) for key, value in weights(network).items())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(resnet(3, [0.5] * 3, [0.25] * 3, depth=34).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt cannot be used"):
        load_weights(tmp_path / "weights.pt", resnet(3, [0.5] * 3, [0.25] * 3))
    with pytest.raises(UserError, match=r"nosuch\.pt cannot be used"):
        load_weights(tmp_path / "nosuch.pt", resnet(3, [0.5] * 3, [0.25] * 3))


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[timm\]"'):
        timm_model(3, [0.5] * 3, [0.25] * 3, "resnet10t")
