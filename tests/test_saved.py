import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cifar_pl.errors import UserError
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import saved
from cifar_pl.runs import files, rundir
from tests.test_sources import Payload


def test_the_best_checkpoint_gives_the_runs_own_predictions(finished_run: Path) -> None:
    run = saved.find(str(finished_run))
    assert run.checkpoint == finished_run / "checkpoints/best.ckpt"
    assert run.classes == [str(digit) for digit in range(10)]
    assert not run.network.training
    data = run.data()
    kept = Predictions.load(finished_run / "predictions.npz")
    batch = data.batch("test", 0, 359)
    assert batch.index.tolist() == kept.index.tolist()
    again = torch.cat([run.logits(batch.image[n : n + 128]) for n in range(0, 359, 128)])
    assert torch.equal(again, kept.logits)  # to the bit: same weights, same precision
    mirrored = run.logits(batch.image[:9].flip(-1))
    torch.testing.assert_close(run.logits(batch.image[:9], tta=True), (run.logits(batch.image[:9]) + mirrored) / 2)
    assert torch.equal(run.predictions("test", data).logits, kept.logits)
    assert torch.equal(
        run.predictions("val", data).logits, Predictions.load(finished_run / rundir.PREDICTIONS["val"]).logits
    )


def test_a_network_computes_as_its_run_did_where_that_can_be_had(
    own_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary, logits = files.read_json(own_run / "summary.json"), {}
    images = saved.find(str(own_run)).data().batch("test", 0, 9).image
    for precision in ("32-true", "16-mixed"):
        summary["hardware"]["precision"] = precision
        files.write_json(own_run / "summary.json", summary)
        run = saved.find(str(own_run))
        assert run.dtype == torch.float32  # whatever this processor would take
        logits[precision] = run.logits(images)
    assert "The run computed in fp16" in caplog.text
    assert torch.equal(logits["32-true"], logits["16-mixed"])
    half = dataclasses.replace(run, dtype=torch.float16).logits(images)  # as on a GPU
    assert half.dtype == torch.float32
    assert not torch.equal(half, logits["32-true"])
    torch.testing.assert_close(half, logits["32-true"], rtol=0, atol=0.05)


def test_a_checkpoint_of_the_run_can_be_named_and_another_epoch_is_computed_with_a_warning(
    finished_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = saved.find(str(finished_run / "checkpoints/last.ckpt"))
    assert run.epoch == 2
    assert not run.tested
    assert "test" not in run.facts
    predicted = run.predictions("test", run.data())
    assert len(predicted.label) == 359
    assert "The test images are read now" in caplog.text


def test_a_run_that_kept_no_predictions_was_tested_all_the_same(
    own_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = saved.find(str(own_run)).predictions("test", saved.find(str(own_run)).data())
    (own_run / "predictions.npz").unlink()
    run = saved.find(str(own_run))
    assert run.tested
    assert torch.equal(run.predictions("test", run.data()).predicted, kept.predicted)
    assert "The test images are read now" not in caplog.text


def test_an_interrupted_run_has_its_last_epoch(own_run: Path) -> None:
    (own_run / "checkpoints/best.ckpt").unlink()
    assert saved.find(str(own_run)).checkpoint.name == "last.ckpt"
    (own_run / "checkpoints/last.ckpt").unlink()
    with pytest.raises(UserError, match="has no checkpoint"):
        saved.find(str(own_run))


@pytest.mark.parametrize("target", ["os.system", "cifar_pl.runs.files.write", "cifar_pl.data.download.download"])
@pytest.mark.parametrize("where", ["model", "datamodule.source"])
def test_a_config_names_only_networks_and_sources(own_run: Path, target: str, where: str) -> None:
    cfg = OmegaConf.load(own_run / "config.yaml")
    OmegaConf.update(cfg, f"{where}._target_", target)
    OmegaConf.save(cfg, own_run / "config.yaml")
    with pytest.raises(UserError, match=rf"names {target}, which could run any program"):
        saved.find(str(own_run)).data()


@pytest.mark.parametrize("where", ["model", "model.dropout", "datamodule", "datamodule.source"])
@pytest.mark.parametrize("reference", [False, True])
def test_the_arguments_in_a_config_are_plain_values(own_run: Path, tmp_path: Path, where: str, reference: bool) -> None:
    cfg = OmegaConf.load(own_run / "config.yaml")
    evil = {"_target_": "pathlib.Path.touch", "_args_": [str(tmp_path / "owned")]}
    cfg.evil = evil
    OmegaConf.update(cfg, f"{where}.image_size", "${evil}" if reference else [{"deep": evil}], force_add=True)
    OmegaConf.save(cfg, own_run / "config.yaml")
    with pytest.raises(UserError, match=r"image_size|^data: "):
        saved.find(str(own_run)).data()
    assert not (tmp_path / "owned").exists()


def test_no_mirror_of_a_config_is_used(own_run: Path) -> None:
    cfg = OmegaConf.load(own_run / "config.yaml")
    evil = {"_target_": "cifar_pl.data.cifar10.cifar10", "_partial_": True, "root": str(own_run), "image_size": 32}
    cfg.datamodule.source = {**evil, "mirrors": [f"file://{own_run}/config.yaml"]}
    OmegaConf.save(cfg, own_run / "config.yaml")
    with pytest.raises(UserError, match="no mirror"):
        saved.find(str(own_run)).data()


def test_other_images_than_the_runs_are_refused(own_run: Path) -> None:
    run = saved.find(str(own_run))
    data = run.data()
    kept = run.predictions("test", data)
    data.images("test").labels[3] += 1
    with pytest.raises(UserError, match="the test images are not those that the run saw"):
        run.predictions("test", data)
    data.images("test").labels[3] -= 1
    shifted = run.validation._replace(index=run.validation.index + 10_000)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="the val images are not those"):
        dataclasses.replace(run, validation=shifted).predictions("val", data)
    with pytest.raises(UserError, match="was trained on"):
        dataclasses.replace(run, classes=["a", "b"]).data()
    assert len(kept.label) == 359


def test_a_checkpoint_predicts_without_its_run(own_run: Path, tmp_path: Path) -> None:
    whole = saved.find(str(own_run))
    lone = tmp_path / "mine.ckpt"
    lone.write_bytes(own_run.joinpath(rundir.BEST).read_bytes())
    found = saved.find(str(lone))
    images = whole.data().batch("test", 0, 9).image
    assert torch.equal(found.logits(images), whole.logits(images))
    assert (found.classes, found.epoch, found.tested) == (whole.classes, whole.epoch, False)
    assert found.config["data"]["image_size"] == images.shape[-1]
    content = torch.load(lone, weights_only=True)
    content["hyper_parameters"]["config"]["model"]["_target_"] = "os.system"
    torch.save(content, lone)
    with pytest.raises(UserError, match=r"names os\.system"):
        saved.find(str(lone))
    del content["hyper_parameters"]["config"]
    torch.save(content, lone)
    with pytest.raises(UserError, match="not in its run's directory"):
        saved.find(str(lone))


def test_the_root_of_the_images_is_kept_absolute(finished_run: Path) -> None:
    cfg = OmegaConf.load(finished_run / "config.yaml")
    assert Path(cfg.data.root) == finished_run.parent / "data"  # typed where it was begun, as `data`


def test_images_of_a_run_from_another_machine_may_lie_here(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg: Any = OmegaConf.load(finished_run / "config.yaml")
    target = "cifar_pl.data.image_folder.image_folder"
    cfg.datamodule.source = {"_target_": target, "_partial_": True, "root": "/nowhere/mine", "image_size": 8}
    monkeypatch.chdir(tmp_path)
    for root in ("/nowhere/mine", "mine"):
        source: Any = saved.images(OmegaConf.to_container(cfg))._make_source
        assert source.keywords["root"] == root
        Path("mine").mkdir(exist_ok=True)


def test_what_is_no_run_is_refused(own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no such directory"):
        saved.find(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="not a run directory"):
        saved.find(str(tmp_path / "empty"))
    best = own_run / "checkpoints/best.ckpt"
    best.unlink()  # the fixture's own file has this name, too
    torch.save({"state_dict": {}, "callbacks": Payload(tmp_path / "owned")}, best)
    with pytest.raises(UserError, match=r"best\.ckpt cannot be used"):
        saved.find(str(own_run))
    assert not (tmp_path / "owned").exists()
    for content in ({"state_dict": {}}, [1, 2], {"state_dict": {}, "epoch": 0, "hyper_parameters": {"classes": ["a"]}}):
        torch.save(content, best)
        with pytest.raises(UserError):
            saved.find(str(own_run))
    (own_run / "config.yaml").write_text("model: [")
    with pytest.raises(UserError, match="is damaged"):
        saved.find(str(own_run))


@pytest.mark.parametrize("lone", [False, True])
def test_an_older_run_opens_by_the_names_it_has(own_run: Path, tmp_path: Path, lone: bool) -> None:
    """Its network had another name, and so had its first layers, which held the normalisation."""
    new = saved.find(str(own_run))
    config = (own_run / "config.yaml").read_text()
    assert "models.resnet.resnet" in config
    (own_run / "config.yaml").write_text(config.replace("models.resnet.resnet", "models.resnet18.resnet18"))
    checkpoint = torch.load(new.checkpoint, weights_only=True)
    known, weights = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    known["config"]["model"]["_target_"] = "cifar_pl.models.resnet18.resnet18"
    weights["network.conv1.conv.weight"] = weights.pop("network.conv1.weight")
    for name in ("mean", "std"):
        weights[f"network.conv1.normalize.{name}"] = torch.tensor(known.pop(name)).view(1, 3, 1, 1)
    new.checkpoint.unlink()  # the copy is a link
    torch.save(checkpoint, new.checkpoint)
    old = saved.find(str(new.checkpoint.rename(tmp_path / "old.ckpt") if lone else own_run))
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(old.logits(images), new.logits(images))
