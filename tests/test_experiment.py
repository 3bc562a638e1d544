"""Whole runs in one process: what a run leaves, what may not change it, and resuming."""

import csv
import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_pl.config import parts
from cifar_pl.config.build import build
from cifar_pl.errors import UserError
from cifar_pl.machine import hardware
from cifar_pl.runs import files, rundir
from cifar_pl.training import experiment
from cifar_pl.training.callbacks import EpochLog
from cifar_pl.training.classifier import Classifier
from tests.conftest import LEAN, RANGE_TEST, TINY

SCHEDULES = {
    "onecycle": (),
    "multistep": ("scheduler.milestones=[0.3,2]",),
    "plateau": (
        "scheduler.patience=0",
        "scheduler.threshold=0.5",  # drops in the middle
        "model.dropout={stem: 0.1, block: 0.1, shortcut: 0.1, stage: 0.1}",  # draws random numbers in every step
    ),
}


def checkpoint(run_dir: Path, name: str = "last") -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return loaded


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one["state_dict"][k], v) for k, v in other["state_dict"].items())


@pytest.fixture
def run(finished_run: Path) -> Path:
    """A finished run, for the tests that look at it."""
    return finished_run


def test_a_run_leaves_what_the_design_says(run: Path) -> None:
    expected = {
        "config.yaml", "train.log", "status.json", "metrics.csv", "lr_finder.csv", "lr_finder.json", "summary.json",
        "predictions.npz", "predictions_val.npz", "misclassified.csv", "misclassified.npz", "report.html",
        "explored.npz", "projector_config.pbtxt",
        "suspect_labels_test.csv", "suspect_labels_val.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt",
        *(f"figures/{name}.png" for name in ("augmentations", "curves", "lr_finder", "misclassified",
                                             "confusion_matrix_val", "confusion_matrix_test",
                                             "reliability_val", "reliability_test")),
    }  # fmt: skip
    left = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert not expected - left
    assert not {name for name in left if Path(name).name.startswith(".lr_find")}
    assert json.loads((run / "status.json").read_text())["status"] == "finished"


def test_the_summary_agrees_with_the_runs_other_files(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    with np.load(run / "predictions.npz") as said:
        assert summary["test"]["acc"] == pytest.approx((said["logits"].argmax(1) == said["label"]).mean())
        assert said["index"].tolist() == list(range(359))
    best = max(rows(run), key=lambda row: float(row["val/acc"]))
    assert summary["val"]["best_acc"] == float(best["val/acc"])
    assert summary["val"]["best_epoch"] == int(best["epoch"]) == checkpoint(run, "best")["epoch"] + 1
    assert summary["lr"]["value"] == json.loads((run / "lr_finder.json").read_text())["lr"]
    assert summary["lr"]["source"] == "range test, auto"
    assert checkpoint(run)["hyper_parameters"]["lr"] == summary["lr"]["value"]
    assert summary["parameters"] == 11_173_962
    assert summary["protocol"]["images"] == {"train": 1258, "val": 180, "test": 359}
    assert checkpoint(run)["epoch"] == 1  # last is the last


def test_the_gallery_shows_the_best_epochs_most_confident_mistakes(run: Path) -> None:
    said = checkpoint(run, "best")["predictions"]["val"]
    p = said["logits"].softmax(1)
    wrong = {int(i): (int(t), p[n]) for n, (i, t) in enumerate(zip(said["index"], said["label"], strict=True))
             if p[n].argmax() != t}  # fmt: skip
    with (run / "misclassified.csv").open() as file:
        shown = list(csv.DictReader(file))
    assert len(shown) == min(25, len(wrong))
    confidence = [float(row["p_predicted"]) for row in shown]
    assert confidence == sorted(confidence, reverse=True)
    assert confidence[0] == pytest.approx(max(float(q.max()) for _, q in wrong.values()))
    for row in shown:
        true, q = wrong[int(row["index"])]
        assert (int(row["true"]), int(row["predicted"])) == (true, int(q.argmax()))
        assert float(row["p_true"]) == pytest.approx(float(q[true]), rel=1e-4)


def test_tensorboard_has_curves_pictures_and_comparable_hparams(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "train/loss",
        "val/loss",
        "train/acc",
        "val/acc",
        "lr",
        "images_per_second",
        "hp/val_acc",
        "hp/test_acc",
    } <= {*tags["scalars"]}
    assert {"augmentations", "curves", "lr_finder", "misclassified", "confusion_matrix_val"} <= {*tags["images"]}
    assert {"confusion_matrix_by_epoch", "reliability_test"} <= {*tags["images"]}
    assert [e.step for e in events.Scalars("val/acc")] == [1, 2]
    assert [e.step for e in events.Images("confusion_matrix_by_epoch")] == [1, 2]
    by_class = [events.Scalars(f"val_acc_of/{digit}") for digit in range(10)]
    assert np.mean([e[1].value for e in by_class]) == pytest.approx(events.Scalars("val/acc")[1].value, abs=0.02)
    assert "custom_scalars__config__" in events.PluginTagToContent("custom_scalars")
    summary = json.loads((run / "summary.json").read_text())
    assert events.Scalars("hp/test_acc")[0].value == pytest.approx(summary["test"]["acc"])
    assert events.Scalars("hp/val_acc")[0].value == pytest.approx(summary["val"]["best_acc"])
    assert "hp_metric" not in tags["scalars"]
    assert set(events.PluginTagToContent("hparams")) >= {"_hparams_/session_start_info", "_hparams_/session_end_info"}


QUICK = (*TINY, "trainer.max_epochs=4", "+trainer.limit_train_batches=3", "optimizer.lr=0.02")


@pytest.mark.slow
def test_the_finder_changes_nothing_but_the_rate(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    with_finder, without = tmp_path / "with", tmp_path / "without"
    short = (*QUICK, *LEAN, "trainer.max_epochs=2")
    experiment.run(config(*short, *RANGE_TEST, run_dir=with_finder))
    lr = json.loads((with_finder / "lr_finder.json").read_text())["lr"]
    experiment.run(config(*short, f"optimizer.lr={lr}", run_dir=without))
    assert same_weights(checkpoint(with_finder), checkpoint(without))


def test_callbacks_change_no_bit(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    for name, overrides in {
        "all": ("callbacks.misclassified.number=3",),
        "bare": ("callbacks=none", "logger=none", "+callbacks.last={_target_: pytorch_lightning.callbacks."
                 "ModelCheckpoint, dirpath: '${run_dir}/checkpoints', filename: last}"),
    }.items():  # fmt: skip
        quick = [o for o in QUICK if not (name == "bare" and o.startswith("callbacks."))]
        experiment.run(config(*quick, "trainer.max_epochs=2", *overrides, run_dir=tmp_path / name))
    assert same_weights(checkpoint(tmp_path / "all"), checkpoint(tmp_path / "bare"))


@pytest.mark.parametrize(
    ("asked", "accelerator", "benchmark"),
    [
        ((), "cuda", True),
        ((), "cpu", None),
        (("+trainer.benchmark=false",), "cuda", False),
        (("+trainer.deterministic=true",), "cuda", None),
    ],
)
def test_cudnn_tries_its_algorithms_on_cuda_unless_bits_shall_be_the_same(
    config: Callable[..., DictConfig], asked: tuple[str, ...], accelerator: str, benchmark: bool | None
) -> None:
    assert parts.benchmark(config(*asked), accelerator) is benchmark


class PowerCutError(Exception):
    """As if the power failed."""


@pytest.mark.parametrize(
    "schedule", ["onecycle", *(pytest.param(s, marks=pytest.mark.slow) for s in SCHEDULES if s != "onecycle")]
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    shown = ("callbacks.misclassified=null",) if schedule == "plateau" else LEAN  # the dashboard goes on, too
    overrides = (*QUICK, f"scheduler={schedule}", *SCHEDULES[schedule], *shown, "data.start_share=0.5")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment.run(config(*overrides, run_dir=whole))
    overrides += ("data.num_workers=2",)  # they fetch ahead, before Lightning says which epoch it is

    def fail(self: EpochLog, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 2:
            raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "on_train_batch_start", fail)
        patch.setattr(EpochLog, "_lr", 0.0, raising=False)
        with pytest.raises(PowerCutError):
            experiment.run(config(*overrides, run_dir=parts))
    assert json.loads((parts / "status.json").read_text())["status"] == "failed"
    assert len(rows(parts)) == 2
    experiment.run(config(f"resume={parts}", run_dir=parts))

    one, other = checkpoint(whole), checkpoint(parts)
    assert same_weights(one, other)
    assert str(one["lr_schedulers"]) == str(other["lr_schedulers"])
    momenta = [c["optimizer_states"][0]["state"][0]["momentum_buffer"] for c in (one, other)]
    assert torch.equal(*momenta)
    exact = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc")
    assert [[r[k] for k in exact] for r in rows(whole)] == [[r[k] for k in exact] for r in rows(parts)]
    assert [r["lr"] for r in rows(whole)][2:] == [r["lr"] for r in rows(parts)][2:]
    if schedule != "onecycle":
        assert len({r["lr"] for r in rows(whole)}) > 1  # the rate did drop
    tests = [json.loads((d / "summary.json").read_text())["test"] for d in (whole, parts)]
    assert tests[0] == tests[1]
    assert checkpoint(whole, "best")["epoch"] == checkpoint(parts, "best")["epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("patience", [0, 1])
def test_a_run_that_had_stopped_early_is_not_trained_on(
    config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    never = ("callbacks=early_stopping", "+callbacks.early_stopping.min_delta=9")
    stop = (*never, f"callbacks.early_stopping.patience={patience}")
    quick = [o for o in QUICK if not o.startswith("callbacks.")]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "test", lambda *_, **__: (_ for _ in ()).throw(PowerCutError))
        with pytest.raises(PowerCutError):
            experiment.run(config(*quick, *stop, "callbacks.misclassified=null", run_dir=tmp_path))
    assert len(rows(tmp_path)) == 2
    experiment.run(config(f"resume={tmp_path}", run_dir=tmp_path))
    assert len(rows(tmp_path)) == 2
    assert json.loads((tmp_path / "summary.json").read_text())["epochs"] == 2


@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "mps"])
def test_a_network_begins_in_channels_last_but_on_mps(config: Callable[..., DictConfig], accelerator: str) -> None:
    cfg = config(*TINY)
    network = parts.network(cfg, build(cfg.datamodule), accelerator)
    weights = [p for p in network.parameters() if p.dim() == 4]
    lies = torch.contiguous_format if accelerator == "mps" else torch.channels_last
    assert len(weights) == 20
    assert all(weight.is_contiguous(memory_format=lies) for weight in weights)


@pytest.mark.parametrize(("listed", "gpu"), [("[1]", 1), ("[1,0]", 1), ("1", 0), ("2", 0), ("auto", 0), ("[7]", 0)])
def test_the_range_test_is_on_the_runs_first_gpu(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, listed: str, gpu: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(hardware, "accelerator", lambda _name, gpu: asked.append(gpu) or "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _gpu: (8, 0))
    machine = parts.machine(config(*TINY, "trainer=gpu", "precision=float32", f"trainer.devices={listed}"))
    assert asked == [gpu]
    assert machine.one_device() == {"accelerator": "cuda", "precision": "32-true", "devices": [gpu]}


@pytest.mark.parametrize("used", [True, False])
def test_the_log_names_the_gpu_if_one_is_used_and_else_the_processor(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, used: bool
) -> None:
    caplog.set_level("INFO")
    facts = {**hardware.describe(), "cpu": "Processor", "gpu": "Card"}
    monkeypatch.setattr(hardware, "describe", lambda _gpu=0: facts)
    if used:  # as far as the log is concerned; trainer=cpu trains
        monkeypatch.setattr(hardware, "accelerator", lambda *_: "cuda")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    bare = ("callbacks=none", "trainer.max_epochs=1", "+trainer.limit_train_batches=1", "precision=float32")
    experiment.run(config(*(o for o in TINY if "callbacks" not in o), "logger=none", *bare))
    assert f"32-true on {'Card' if used else 'Processor'}, " in caplog.text


@pytest.mark.slow
def test_more_epochs_continue_a_constant_run_as_a_longer_one(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    overrides = (*QUICK, *LEAN, "scheduler=constant", "data.start_share=0")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment.run(config(*overrides, run_dir=whole))
    experiment.run(config(*overrides, "trainer.max_epochs=2", run_dir=parts))
    begun = {"commit": "abc", "dirty": False}
    files.write_json(parts / "status.json", {"status": "finished", "git": begun})
    experiment.run(config(f"resume={parts}", "trainer.max_epochs=4", "data.num_workers=1", run_dir=parts))
    assert same_weights(checkpoint(whole), checkpoint(parts))
    kept = OmegaConf.load(parts / "config.yaml")
    assert kept.trainer.max_epochs == 4
    assert kept.datamodule.num_workers == 1
    git = json.loads((parts / "summary.json").read_text())["git"]
    assert (git["begun"], git["dirty"]) == (begun, True)  # of two codes, so it is no result of either


@pytest.mark.slow
def test_without_validation_the_last_checkpoint_is_tested_and_test_images_are_explained(
    config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    flat = (*RANGE_TEST, "lr_finder.min_lr=1e-9", "lr_finder.max_lr=1e-8")
    once = ("data.val_size=0", "trainer.max_epochs=1", "tta=flip", "callbacks.misclassified.number=3")
    value = experiment.run(config(*QUICK, *flat, *once, run_dir=tmp_path))
    assert value is None
    assert not (tmp_path / "checkpoints/best.ckpt").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["val"] is None
    with np.load(tmp_path / "predictions.npz") as said:  # of the images as they are
        assert summary["test"]["acc"] == pytest.approx((said["logits"].argmax(1) == said["label"]).mean())
    assert 0 <= summary["test"]["acc_tta"] <= 1
    assert summary["lr"]["value"] == pytest.approx(1e-8)  # nothing is learnt at such rates, and none does harm
    assert re.search(r"^the lower of optimizer\.lr=0\.02 and 1e-08, .* the loss fell by", summary["lr"]["source"])
    assert summary["protocol"] == {
        "images": {"train": 1438, "val": 0, "test": 359},
        "tested_checkpoint": "last",
        "name": "honest",
        "test_selected": False,
    }
    assert (tmp_path / "figures/misclassified.png").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("seed=-1",), r"seed=-1"),
        (("precision=float16",), r"precision=float16: .* one of auto, "),
        (("scheduler=multistep", "scheduler.milestones=[7]"), r"scheduler\.milestones=\[7\]"),
        (("optimizer.lr=0",), r"optimizer\.lr=0"),
        (("data.start_scale=0",), r"data\.start_scale=0"),
        (("tta=crop",), r"^tta=crop: it must be 'none' or 'flip'"),
        (("data.image_size=0",), r"^data\.image_size=0: it must be greater than or equal to 8"),
        (("data.image_size=1025",), r"^data\.image_size=1025: it must be less than or equal to 1024"),
        (("callbacks.misclassified.layers=[layer7]",), r"no layer 'layer7'"),
        (("callbacks.misclassified.number=0",), r"number=0"),
        (("+optimizer.nesterof=true",), r"optimizer"),
        (("scheduler=plateau", "scheduler.warmup=9"), r"scheduler\.warmup=9: give whole epochs from 0 to"),
        (("lr_finder=range_test", "scheduler=cosine", "scheduler.warmup=-1"), r"scheduler\.warmup=-1"),
        (("callbacks.misclassified.layers=[layer4]",), r"layer4 gives 1x1 pixels"),
        (("aug=cutout", "aug.cutout.hole=9"), r"aug does not fit images of 8 pixels"),
        (("aug=cutout", "aug.cutout.number=0"), r"aug\.cutout\.number=0"),
        (("scheduler.pct_start=1.5",), r"pct_start=1\.5"),
        (("+model.width=9",), r"model\.width=9: Unexpected keyword argument"),
        (("+trainer.epochs=9",), r"trainer: .*epochs"),
        (("optimizer.momentum=-1",), r"optimizer: .*momentum"),
        (("protocol=lucky",), "^protocol=lucky: it must be 'honest' or 'published'"),
        (("data.mean=[0.5,0.5,0.5]",), r"data\.mean=.*data\.std=None"),
        (("data.mean=[0.5,0.5]", "data.std=[0.5,0.5]"), r"^data\.mean=\[0\.5, 0\.5\]: .* at least 3 items"),
        (("classifier.l1=-1",), r"classifier\.l1=-1"),
        (("model.init=zero",), r"model\.init=zero"),
        (("model.dropout.block=1.0",), r"model\.dropout\.block=1\.0: it must be less than 1"),
        (("+model.dropout.head=0.1",), r"model\.dropout\.head=head: it must be 'stem', 'block'"),
        (("aug=cutout", "aug.cutout.hole=4", "aug.cutout.border=cut"), r"aug\.cutout\.border=cut"),
        (("lr_finder=range_test", "+lr_finder.optimizer.momentum=-1"), "optimizer: .*momentum"),
        (("trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=127"), r"batch_size=127: 2 processes.*Take 128"),
    ],
)
def test_what_cannot_be_done_is_refused(
    config: Callable[..., DictConfig], tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    tiny = [o for o in QUICK if o.split("=")[0] not in [x.split("=")[0] for x in overrides]]
    with pytest.raises(UserError, match=message):
        experiment.run(config(*tiny, *overrides, run_dir=tmp_path))
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"
    assert not (tmp_path / "checkpoints").exists()


def test_what_cannot_be_resumed_is_refused_and_left_alone(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    quick = (*QUICK, *LEAN, "trainer.max_epochs=1")
    experiment.run(config(*quick, run_dir=run_dir))
    with pytest.raises(UserError, match=r"trainer\.max_epochs=2: .*only if nothing depends on it"):  # onecycle
        experiment.run(config("trainer.max_epochs=2", f"resume={run_dir}", run_dir=run_dir))
    with pytest.raises(UserError, match="is finished"):
        experiment.run(config(f"resume={run_dir}", run_dir=run_dir))
    assert json.loads((run_dir / "status.json").read_text())["status"] == "finished"

    files.write_json(run_dir / "status.json", {"status": "interrupted"})
    last = run_dir / "checkpoints/last.ckpt"
    whole = last.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        last.write_bytes(damaged)
        with pytest.raises(UserError, match=r"last\.ckpt cannot be used"):
            experiment.run(config(f"resume={run_dir}", run_dir=run_dir))
    other = torch.load(run_dir / "checkpoints/best.ckpt", weights_only=True)
    other["state_dict"]["network.fc.weight"] = torch.zeros(7, 512)
    torch.save(other, last)
    with pytest.raises(UserError, match=r"size mismatch for fc\.weight"):
        experiment.run(config(f"resume={run_dir}", run_dir=run_dir))

    own = (run_dir / "config.yaml").read_text()
    cfg = OmegaConf.create(own)
    cfg.callbacks.evil = {"_target_": "os.system", "command": f"touch {tmp_path / 'owned'}"}
    OmegaConf.save(cfg, run_dir / "config.yaml")
    with pytest.raises(UserError, match=r"names os\.system, which could run any program\. If it is yours"):
        experiment.run(config(f"resume={run_dir}", run_dir=run_dir))
    assert not (tmp_path / "owned").exists()
    (run_dir / "config.yaml").write_text(own)
    last.unlink()
    with pytest.raises(UserError, match=r"no checkpoints/last\.ckpt to continue from"):  # and results to lose
        experiment.run(config(f"resume={run_dir}", run_dir=run_dir))

    moved = tmp_path / "moved"
    run_dir.rename(moved)
    with pytest.raises(UserError, match="Move it back"):
        experiment.run(config(f"resume={moved}", run_dir=moved))


def test_a_run_that_failed_in_its_first_epoch_begins_again(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    once = (*QUICK, *LEAN, "trainer.max_epochs=1", "classifier.l1=0.5")
    run_dir = tmp_path / "run"
    for goes_on in ((), ("seed=1",), (f"resume={run_dir}",)):
        broken = [] if goes_on[:1] == (f"resume={run_dir}",) else [*once, "optimizer.lr=1e30"]
        with pytest.raises(UserError, match=r"epoch 1"):
            experiment.run(config(*broken, *goes_on, run_dir=run_dir))
    assert OmegaConf.load(run_dir / "config.yaml").seed == 1
    for name in ("lr_finder.json", "lr_finder.csv"):
        (run_dir / name).write_text("of the attempt before")
    experiment.run(config(*once, run_dir=run_dir))
    assert json.loads((run_dir / "status.json").read_text())["status"] == "finished"
    assert not list(run_dir.glob("lr_finder.*"))
    with pytest.raises(UserError, match="holds a run already"):
        experiment.run(config(*once, run_dir=run_dir))


@pytest.mark.slow
def test_the_best_has_the_lowest_loss_if_that_is_monitored(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    stop = ("callbacks=early_stopping", "callbacks.misclassified=null", "monitor=val/loss", "optimizer.lr=0.05")
    cfg = config(*[o for o in QUICK if not o.startswith("callbacks.")], *stop, run_dir=tmp_path)
    assert cfg.callbacks.early_stopping.mode == cfg.callbacks.best.mode == "min"
    score = experiment.run(cfg)
    losses = [float(row["val/loss"]) for row in rows(tmp_path)]
    assert score == pytest.approx(min(losses))
    assert checkpoint(tmp_path, "best")["epoch"] == int(np.argmin(losses))
    assert len(set(losses)) > 1


def test_whatever_needs_no_training_is_refused_before_the_range_test(
    config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    for number, (wrong, message) in enumerate(
        {
            "callbacks.misclassified.layers=[layer7]": "no layer",
            "+trainer.epochs=9": "trainer: ",
            "+scheduler.gamma=9": "scheduler.gamma=9: Unexpected",
            "classifier.l1=-1": "l1=-1",
            "+optimizer.nesterof=true": "optimizer: ",
        }.items()
    ):
        tiny = [o for o in QUICK if o.split("=")[0] != wrong.split("=")[0]]
        with pytest.raises(UserError, match=message):
            experiment.run(config(*tiny, *RANGE_TEST, wrong, run_dir=tmp_path / str(number)))
        assert not (tmp_path / str(number) / "lr_finder.csv").exists()


@pytest.mark.slow
def test_a_checkpoint_carries_its_own_epochs_validation_or_none(
    config: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    every_other = ("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    experiment.run(config(*QUICK, *every_other, run_dir=tmp_path))
    assert "No validation after epoch 2, so" in caplog.text
    assert "validation images, epoch 2" in str(np.load(tmp_path / "misclassified.npz")["title"])
    assert set(checkpoint(tmp_path, "best")["predictions"]) == {"val"}
    assert checkpoint(tmp_path, "best")["epoch"] == 1
    assert checkpoint(tmp_path)["epoch"] == 2
    assert not checkpoint(tmp_path)["predictions"]


class Fails(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("no more")


def test_a_failed_run_keeps_no_network_though_a_sweep_keeps_its_error(
    config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    def classifiers() -> list[Classifier]:
        gc.collect()
        return [thing for thing in gc.get_objects() if type(thing) is Classifier]

    before = classifiers()  # of other tests
    cfg = config(*QUICK, "+callbacks.fails._target_=tests.test_experiment.Fails")
    with pytest.raises(RuntimeError, match="no more") as kept:
        experiment.run(cfg)
    assert kept.value.__traceback__
    assert not [classifier for classifier in classifiers() if classifier not in before]
    assert rundir.state(tmp_path / "run")["error"] == "RuntimeError: no more"
