import copy
import traceback
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cifar_pl.data.batches import Batch
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.images import Source
from cifar_pl.errors import UserError
from cifar_pl.training import schedulers
from cifar_pl.training.classifier import Classifier, Schedule

CLASSES = ("red", "green", "blue")


def make(network: nn.Module, scheduler: Schedule = schedulers.constant, lr: float = 0.1, **changes: Any) -> Classifier:
    sgd = partial(torch.optim.SGD, momentum=0.9)
    return Classifier(network, sgd, scheduler, CLASSES, lr=lr, label_smoothing=0.1, **changes)


def loaded(source: Source, **changes: object) -> DataModule:
    data = DataModule(lambda: source, {}, **{"val_size": 15, "batch_size": 16, **changes})  # type: ignore[arg-type]
    data.load()
    return data


def trainer(tmp_path, **changes: object) -> Trainer:  # type: ignore[no-untyped-def]
    arguments = {"max_epochs": 2, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **{**arguments, **changes},  # type: ignore[arg-type]
    )


def test_logged_values_equal_those_by_hand(tiny_network: nn.Module, tiny_source: Source, tmp_path) -> None:  # type: ignore[no-untyped-def]
    data, module, run = loaded(tiny_source, batch_size=6), make(tiny_network), trainer(tmp_path)
    run.fit(module, datamodule=data)  # 15 images to validate on: the last batch is half as large as the others
    val = {name: float(run.callback_metrics[name]) for name in ("val/loss", "val/acc")}
    tiny_network.eval()
    with torch.no_grad():
        batch = data.batch("val", 0, 15)
        logits = tiny_network(batch.image)
    assert val["val/loss"] == pytest.approx(F.cross_entropy(logits, batch.label).item(), rel=1e-5)  # not smoothed
    assert val["val/acc"] == pytest.approx((logits.argmax(1) == batch.label).float().mean().item())
    seen = module.predictions["val"]
    assert torch.equal(seen.index, batch.index)
    assert torch.equal(seen.label, batch.label)
    torch.testing.assert_close(seen.logits, logits)


class Count(TorchDispatchMode):
    """Counts the operations that a device would carry out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_step_never_waits_for_the_device(tiny_network: nn.Module, tiny_source: Source, split: str) -> None:
    module = Classifier(tiny_network, torch.optim.SGD, schedulers.constant, CLASSES, lr=0.1, tta="flip")
    module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    batch = loaded(tiny_source).batch(split, 0, 9)
    step = {"train": module.training_step, "val": module.validation_step, "test": module.test_step}[split]
    with Count() as count:
        step(batch, 0)
    assert count.calls["convolution"] == (2 if split == "test" else 1)
    assert not {"_local_scalar_dense", "_unique2", "nonzero", "masked_select"} & {*count.calls}
    assert module.metrics[f"{split}/acc"].count == 9


def test_an_epoch_logs_each_value_once_and_a_step_seeds_without_a_traceback(
    tiny_network: nn.Module,
    tiny_source: Source,
    tmp_path,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, run = make(tiny_network), trainer(tmp_path, num_sanity_val_steps=0)
    logged, drawn, formatted, log, step = Counter[str](), list[float](), [], module.log, module.training_step

    def counted(name: str, *arguments: Any, **options: Any) -> None:
        logged[name] += 1
        log(name, *arguments, **options)

    def draws(batch: Batch, batch_idx: int) -> torch.Tensor:
        drawn.append(torch.rand(()).item())
        return step(batch, batch_idx)

    module.log, module.training_step = counted, draws  # type: ignore[method-assign,assignment]
    seed = module.on_train_batch_start

    def watched(batch: Batch, batch_idx: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(
                traceback, "format_stack", lambda *_, **__: formatted.append(1) or []
            )  # as a lazy backend does
            seed(batch, batch_idx)

    module.on_train_batch_start = watched  # type: ignore[method-assign]
    run.fit(module, datamodule=loaded(tiny_source))
    assert logged == dict.fromkeys(("train/acc", "train/loss", "val/acc", "val/loss"), 2)
    assert not formatted
    words = [np.random.SeedSequence((0, epoch, n, 0)).generate_state(1) for epoch in (0, 1) for n in range(4)]
    assert drawn == [torch.rand((), generator=torch.Generator().manual_seed(int(word[0]))).item() for word in words]


def test_only_training_is_compiled_and_once_for_each_size(
    tiny_network: nn.Module,
    tiny_source: Source,
    tmp_path,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.extend(tuple(value.shape) for value in inputs if value.dtype == torch.uint8)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    states = []
    for compiled in (False, True):
        module = make(copy.deepcopy(tiny_network))
        if compiled:
            module.compile_training()
        data = loaded(tiny_source, batch_size=20, start_scale=0.75, start_epochs=1)  # 15 images to validate on
        trainer(tmp_path, max_epochs=3).fit(module, datamodule=data)
        states.append(module.state_dict())
    assert graphs == [(20, 3, 6, 6), (20, 3, 8, 8)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_training_loss_is_label_smoothed(tiny_network: nn.Module, tiny_source: Source) -> None:
    module = make(tiny_network)
    module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    batch = loaded(tiny_source).batch("train", 0, 16)
    loss = module.training_step(batch, 0)
    log_p = tiny_network(batch.image).log_softmax(1)
    target = 0.9 * F.one_hot(batch.label, 3) + 0.1 / 3
    assert loss.item() == pytest.approx(float(-(target * log_p).sum(1).mean()), rel=1e-5)


def test_l1_adds_the_absolute_weights_of_convolutions_and_linear_layers(
    tiny_network: nn.Module, tiny_source: Source
) -> None:
    batch, losses = loaded(tiny_source).batch("train", 0, 16), []
    for l1 in (0.0, 0.01):
        module = Classifier(tiny_network, torch.optim.SGD, schedulers.constant, CLASSES, lr=0.1, l1=l1)
        module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        losses.append(module.training_step(batch, 0))
    weights = [tiny_network[1].weight, tiny_network[6].weight]  # type: ignore[index]
    added = losses[1] - losses[0]
    assert added.item() == pytest.approx(0.01 * sum(w.abs().sum().item() for w in weights), rel=1e-4)
    gradients = torch.autograd.grad(added, [*weights, tiny_network[6].bias])  # type: ignore[index]
    for gradient, weight in zip(gradients, weights, strict=False):
        torch.testing.assert_close(gradient, 0.01 * weight.sign(), rtol=0, atol=1e-6)
    assert gradients[2].abs().max() < 1e-6


def test_a_plateau_schedule_may_follow_the_last_batchs_loss(
    tiny_network: nn.Module,
    tiny_source: Source,
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    options = {"factor": 0.1, "patience": 9, "threshold": 0.0, "min_lr": 0.0}
    module = make(tiny_network, partial(schedulers.plateau, monitor="train/last_loss", **options))  # type: ignore[arg-type]
    losses, step = [], module.training_step

    def recorded(batch: Batch, batch_idx: int) -> torch.Tensor:
        losses.append(step(batch, batch_idx))
        return losses[-1]

    module.training_step = recorded  # type: ignore[method-assign]
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, datamodule=loaded(tiny_source))
    last = [losses[n].item() for n in range(len(losses) // 3 - 1, len(losses), len(losses) // 3)]
    assert len(last) == 3
    [scheduler] = [config.scheduler for config in run.lr_scheduler_configs]
    assert float(scheduler.best) == min(last)  # type: ignore[union-attr]
    assert scheduler.num_bad_epochs == 2 - last.index(min(last))  # type: ignore[union-attr]


def test_the_test_reads_every_image_once(tiny_network: nn.Module, tiny_source: Source, tmp_path) -> None:  # type: ignore[no-untyped-def]
    module, data = make(tiny_network), loaded(tiny_source)
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert module.predictions["test"].index.tolist() == list(range(30))


def test_flip_tta_is_a_metric_of_its_own(tiny_network: nn.Module, tiny_source: Source, tmp_path) -> None:  # type: ignore[no-untyped-def]
    data, values = loaded(tiny_source), {}
    tiny_source.test.pixels[:, :, :4] //= 2  # so that mirror images differ
    for tta in ("none", "flip"):
        module = Classifier(tiny_network, partial(torch.optim.SGD), schedulers.constant, CLASSES, lr=0.1, tta=tta)
        run = trainer(tmp_path)
        run.test(module, datamodule=data, verbose=False)
        values[tta] = {name: float(value) for name, value in run.callback_metrics.items()}
    batch = data.batch("test", 0, 30)
    with torch.no_grad():
        logits = tiny_network.eval()(batch.image) + tiny_network(batch.image.flip(3))
    assert values["flip"].pop("test/acc_tta") == pytest.approx((logits.argmax(1) == batch.label).float().mean().item())
    assert values["flip"] == values["none"]


@pytest.mark.parametrize("every", [1, 2])
def test_plateau_counts_validations_and_not_epochs(
    tiny_network: nn.Module,
    tiny_source: Source,
    tmp_path,
    every: int,  # type: ignore[no-untyped-def]
) -> None:
    """With a threshold that nothing can beat, the rate drops at every second validation after the first."""
    never_better = partial(schedulers.plateau, monitor="val/acc", factor=0.1, patience=1, threshold=1e6, min_lr=0.0)
    module = make(tiny_network, never_better)
    run = trainer(tmp_path, max_epochs=6, check_val_every_n_epoch=every)
    run.fit(module, datamodule=loaded(tiny_source))
    validations = 6 // every
    drops = (validations - 1) // 2
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**drops)


def test_a_checkpoint_holds_plain_values_and_the_validations_predictions(
    tiny_network: nn.Module,
    tiny_source: Source,
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    module, data, run = make(tiny_network), loaded(tiny_source), trainer(tmp_path)
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "c.ckpt")
    checkpoint = torch.load(tmp_path / "c.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"] == {"lr": 0.1, "classes": list(CLASSES)}
    np.testing.assert_array_equal(checkpoint["predictions"]["val"]["logits"], module.predictions["val"].logits)
    assert "test" not in checkpoint["predictions"]


def test_images_are_contiguous_on_mps_alone(
    tiny_network: nn.Module, tiny_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch = make(tiny_network), loaded(tiny_source).batch("train", 0, 16)
    assert module.on_after_batch_transfer(batch, 0) is batch
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(Classifier, "device", torch.device("mps"))
    there = module.on_after_batch_transfer(batch, 0)
    assert there.image.is_contiguous()
    assert all(torch.equal(one, other) for one, other in zip(there, batch, strict=True))
    assert module.on_after_batch_transfer(batch.image, 0) is batch.image  # of the model summary


@pytest.mark.parametrize(
    ("device", "options", "trainer", "fused"),
    [
        ("cuda", {}, {}, True),
        ("cpu", {}, {}, None),  # whose bits would be others
        ("mps", {}, {}, None),
        ("cuda", {"fused": False}, {}, False),
        ("cuda", {"foreach": True}, {}, None),
        ("cuda", {}, {"gradient_clip_val": 1.0}, None),  # Lightning refuses to clip for a fused one
        ("cuda", {}, {"scaler": torch.amp.GradScaler("cpu")}, None),  # of fp16, whose first step may be left out
    ],
)
def test_the_optimizer_is_fused_on_cuda_where_nothing_else_is_asked_for(
    tiny_network: nn.Module, device: str, options: dict[str, bool], trainer: dict[str, Any], fused: bool | None
) -> None:
    module = Classifier(tiny_network, partial(torch.optim.SGD, **options), schedulers.constant, CLASSES, lr=0.1)
    strategy = SimpleNamespace(root_device=torch.device(device), broadcast=lambda lr: lr / 2)
    known = {"gradient_clip_val": None, "scaler": None, "max_epochs": 1, "estimated_stepping_batches": 9}
    module._trainer = SimpleNamespace(strategy=strategy, **{**known, **trainer})  # type: ignore[assignment]
    optimizers, _ = module.configure_optimizers()  # type: ignore[misc]
    assert optimizers[0].defaults["fused"] is fused  # type: ignore[index]
    assert module.hparams["lr"] == optimizers[0].defaults["lr"] == 0.05  # type: ignore[index]  # the first process's


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_a_rate_must_be_positive(tiny_network: nn.Module, lr: float) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        make(tiny_network, lr=lr)
