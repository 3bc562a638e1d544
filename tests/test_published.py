"""The five published recipes, on what their configs build; and the protocol that lets the test set select."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from cifar_pl.config import parts
from cifar_pl.config.build import build
from cifar_pl.data.augment import Augment
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.digits import digits
from cifar_pl.data.images import Images, Source
from cifar_pl.models.resnet import BatchNormDropout, Normalize
from cifar_pl.training import experiment, learning_rate, schedulers
from cifar_pl.training.classifier import Classifier
from cifar_pl.training.lr_finder import Curve
from tests.conftest import LEAN, RANGE_TEST, TINY

RECIPES = ("genigarus", "sumankanukollu", "rishabh_bhardwaj", "deepakgowtham", "sid_surange")
CIFAR = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
PER_PIXEL = ([0.49139968, 0.48215841, 0.44653091], [0.24703223, 0.24348513, 0.26158784])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
WHITE = np.full((32, 32, 3), 255, np.uint8)


def source(n: int = 200, side: int = 32) -> Source:
    rng = np.random.default_rng(0)
    classes = tuple("abcdefghij")
    parts = [Images(rng.integers(0, 256, (k, side, side, 3), np.uint8), np.arange(k) % 10) for k in (n, 50)]
    return Source(*parts, classes)


def made(cfg: DictConfig) -> tuple[DataModule, Classifier, torch.optim.Optimizer, Any]:
    """Data, classifier, optimizer and schedule of a config, as a run of 50,000 images would build them."""
    data: DataModule = build(cfg.datamodule)
    data._make_source = source
    data.load()
    del cfg.model.weights  # no argument of the network
    network = build(cfg.model)(num_classes=10, mean=data.mean, std=data.std)
    classifier: Classifier = build(cfg.classifier)(network=network, classes=[*"abcdefghij"], lr=cfg.optimizer.lr)
    optimizer = build(cfg.optimizer)(network.parameters())
    epochs = cfg.trainer.max_epochs
    [schedule] = build(cfg.scheduler)(optimizer, epochs=epochs, total_steps=epochs * (50_000 // data.batch_size))
    return data, classifier, optimizer, schedule


@pytest.mark.parametrize(
    ("name", "lr", "weight_decay", "batch", "statistics", "epochs"),
    [
        ("genigarus", 0.01584893192461112, 5e-4, 128, CIFAR, 50),
        ("sumankanukollu", 0.05754399373371571, 0, 128, CIFAR, 50),
        ("rishabh_bhardwaj", 0.0123, 0, 128, PER_PIXEL, 50),
        ("deepakgowtham", 0.01, 0, 64, IMAGENET, 50),
        ("sid_surange", 0.01, 1e-3, 64, ([0.5] * 3, [0.5] * 3), 22),
    ],
)
def test_optimizer_data_and_statistics(
    config: Callable[..., DictConfig],
    name: str,
    lr: float,
    weight_decay: float,
    batch: int,
    statistics: tuple[list[float], list[float]],
    epochs: int,
) -> None:
    data, classifier, optimizer, _ = made(config(f"experiment={name}"))
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert {k: group[k] for k in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": lr, "momentum": 0.9, "nesterov": False, "weight_decay": weight_decay,
    }  # fmt: skip
    assert data.batch_size == batch
    normalize = next(m for m in classifier.network.modules() if isinstance(m, Normalize))
    assert normalize.mean.flatten().tolist() == pytest.approx(statistics[0])
    assert normalize.std.flatten().tolist() == pytest.approx(statistics[1])
    assert (data.size("train"), data.size("val"), data.test_selected) == (200, 50, True)
    assert build(config(f"experiment={name}", "trainer=cpu").trainer)(logger=False).max_epochs == epochs


PLATEAUS = {
    "genigarus": ("val/loss", "min", 0.1, 10, 0.0),
    "sumankanukollu": ("val/loss", "min", 0.1, 10, 0.0),
    "rishabh_bhardwaj": ("train/last_loss", "min", 0.1, 3, 0.0),
    "deepakgowtham": ("val/acc", "max", 0.5, 2, 1e-6),
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateau_schedules(config: Callable[..., DictConfig], name: str) -> None:
    schedule = made(config(f"experiment={name}"))[3]
    plateau = schedule["scheduler"]
    assert isinstance(plateau, ReduceLROnPlateau)
    values = (schedule["monitor"], plateau.mode, plateau.factor, plateau.patience, plateau.min_lrs[0])
    assert values == PLATEAUS[name]
    assert (plateau.threshold, plateau.threshold_mode, plateau.cooldown) == (1e-4, "rel", 0)


def test_sid_surange_drops_before_epochs_14_and_18(config: Callable[..., DictConfig]) -> None:
    _, _, optimizer, schedule = made(config("experiment=sid_surange"))
    assert isinstance(schedule["scheduler"], MultiStepLR)
    rates = []
    for _ in range(22):
        rates.append(optimizer.param_groups[0]["lr"])
        for _ in range(50_000 // 64):
            optimizer.step()
            schedule["scheduler"].step()
    assert rates == pytest.approx([0.01] * 14 + [0.001] * 4 + [0.0001] * 4)


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_is_cross_entropy_and_l1_where_the_recipe_has_it(config: Callable[..., DictConfig], name: str) -> None:
    data, classifier, _, _ = made(config(f"experiment={name}"))
    classifier.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    batch = data.batch("test", 0, 4)
    torch.manual_seed(0)
    loss = classifier.training_step(batch, 0)
    torch.manual_seed(0)
    expected = F.cross_entropy(classifier.network(batch.image), batch.label)
    if name == "genigarus":
        weights = [m.weight for m in classifier.network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        expected = expected + 1e-5 * sum(w.abs().sum() for w in weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_dropout_and_initial_weights(config: Callable[..., DictConfig], name: str) -> None:
    network = made(config(f"experiment={name}"))[1].network
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    rates = [m.p for m in network.modules() if isinstance(m, (BatchNormDropout, nn.Dropout2d)) if m.p]
    expected = {
        "deepakgowtham": [0.15] * 21,  # stem, 16 in the blocks, 4 after stages
        "sid_surange": [0.05] + [0.1] * 3 + [0.26] * 16,
    }.get(name, [])
    assert sorted(rates) == expected
    for m in network.modules():  # torch's default: uniform up to one over the root of the number of inputs
        if isinstance(m, nn.Conv2d):
            bound = m.weight[0].numel() ** -0.5
            assert 0.95 * bound < m.weight.abs().max().item() < 1.0001 * bound


def holes(augment: Augment, color: tuple[int, int, int], draws: int = 1500) -> list[float]:
    """The areas of the holes' colour in what becomes of a white image."""
    return [float((augment(WHITE, 0, i) == np.array(color)).all(axis=2).sum()) for i in range(draws)]


@pytest.mark.parametrize(
    ("name", "p", "color", "area"),
    [
        # A span of h around a uniform pixel of n, clipped: h - (h/2)^2 / n pixels on average; where only the upper
        # end is lost, h - (h/2)(h/2 - 1) / 2n.
        ("genigarus", 0.75, (125, 123, 114), (16 - 28 / 28) ** 2),
        ("sumankanukollu", 0.5, (0, 0, 0), (16 - 28 / 32) ** 2),
        ("rishabh_bhardwaj", 0.5, (0, 0, 0), (12 - 36 / 32) ** 2),
    ],
)
def test_one_hole(
    config: Callable[..., DictConfig], name: str, p: float, color: tuple[int, int, int], area: float
) -> None:
    areas = np.array(holes(made(config(f"experiment={name}"))[0]._sets["train"].augment, color))  # type: ignore[arg-type]
    assert abs((areas > 0).mean() - p) < 0.05  # 3.9 standard errors
    assert areas[areas > 0].mean() == pytest.approx(area, rel=0.04)  # 4 and more


def test_eight_holes_of_imagenets_mean_colour(config: Callable[..., DictConfig]) -> None:
    areas = holes(made(config("experiment=deepakgowtham"))[0]._sets["train"].augment, (124, 116, 104), 600)  # type: ignore[arg-type]
    assert abs(np.mean(np.array(areas) > 0) - 0.5) < 0.08
    assert 256 < max(areas) <= 8 * 64  # eight, and they overlap
    pixel = (8 - 16 / 32) ** 2 / 32**2  # the share that one hole hides; a pixel is seen with (1 - share)^8, about
    assert np.mean([a for a in areas if a]) == pytest.approx(1024 * (1 - (1 - pixel) ** 8), rel=0.06)


@pytest.mark.parametrize(
    ("name", "p"),
    [
        ("genigarus", 0.5),
        ("sumankanukollu", 1.0),
        ("rishabh_bhardwaj", 0.25),
        ("deepakgowtham", 0.5),
        ("sid_surange", 0.5),
    ],
)
def test_flips(config: Callable[..., DictConfig], name: str, p: float) -> None:
    """A ramp to the right stays one, or becomes one to the left; turns by 45 degrees blur it, but not its sign."""
    ramp = np.tile(np.linspace(40, 255, 32, dtype=np.uint8)[None, :, None], (32, 1, 3))
    cfg = config(f"experiment={name}", "aug.cutout=null") if name != "sid_surange" else config(f"experiment={name}")
    augment = made(cfg)[0]._sets["train"].augment
    assert augment is not None
    drawn = [augment(ramp, 0, i).astype(float)[10:22, :, 0].mean(axis=0) for i in range(600)]
    assert abs(np.mean([d[21] < d[10] for d in drawn]) - p) < 0.08
    assert drawn[0].size == (28 if name == "genigarus" else 32)


def test_the_other_transforms(config: Callable[..., DictConfig]) -> None:
    """Their ranges, as albumentations holds them."""

    def of(name: str, key: str) -> A.BasicTransform:
        return build(config(f"experiment={name}").aug)[key]

    turn = of("sumankanukollu", "shift_scale_rotate")
    assert isinstance(turn, A.Affine)
    shift = (-0.0625, 0.0625)
    assert (turn.rotate, turn.scale["x"], turn.translate_percent) == ((-45, 45), (0.9, 1.1), {"x": shift, "y": shift})
    assert (turn.keep_ratio, turn.border_mode, turn.p) == (True, 4, 0.5)
    grid = of("rishabh_bhardwaj", "grid")
    assert isinstance(grid, A.GridDistortion)
    assert (grid.distort_limit, grid.num_steps, grid.normalized, grid.border_mode, grid.p) == (
        (-0.3, 0.3), 5, False, 4, 0.5,
    )  # fmt: skip
    for name, limit, border, p in (
        ("rishabh_bhardwaj", 10, 4, 0.5),
        ("deepakgowtham", 10, 4, 0.5),
        ("sid_surange", 5, 0, 1.0),
    ):
        rotate = of(name, "rotate")
        assert isinstance(rotate, A.Rotate)
        assert (rotate.limit, rotate.border_mode, rotate.p) == ((-limit, limit), border, p)
        assert rotate.interpolation == (0 if name == "sid_surange" else 1)  # nearest, bilinear
    color = of("sid_surange", "color")
    assert isinstance(color, A.ColorJitter)
    assert (color.brightness, color.contrast, color.saturation, color.hue) == (
        (1, 1), (1, 1), (0.95, 1.05), (-0.05, 0.05),
    )  # fmt: skip
    assert color.p == 1


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("genigarus", ["RandomCrop", "HorizontalFlip", "ClippedCutout"]),
        ("sumankanukollu", ["HorizontalFlip", "Affine", "ClippedCutout"]),
        ("rishabh_bhardwaj", ["GridDistortion", "Rotate", "HorizontalFlip", "ClippedCutout"]),
        ("deepakgowtham", ["HorizontalFlip", "Rotate", "ClippedCutout"]),
        ("sid_surange", ["HorizontalFlip", "Rotate", "ColorJitter"]),
    ],
)
def test_the_order_of_the_transforms(config: Callable[..., DictConfig], name: str, order: list[str]) -> None:
    augment = made(config(f"experiment={name}"))[0]._sets["train"].augment
    assert augment is not None
    assert [type(t).__name__ for t in augment._pipeline.transforms] == order


@pytest.mark.parametrize(
    ("name", "lr", "low", "high", "momentum", "weight_decay"),
    [
        ("genigarus", 0.01584893192461112, 1e-10, 1.0, 0.0, 1e-2),
        ("sumankanukollu", 0.05754399373371571, 1e-4, 100.0, 0.2, 0.0),
        ("rishabh_bhardwaj", 0.0123, 1e-7, 1.0, 0.9, 0.0),
        ("deepakgowtham", 0.01, 1e-5, 100.0, 0.0, 1e-2),
    ],
)
def test_the_range_test_of_each_reports_and_leaves_the_published_rate(
    config: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    lr: float,
    low: float,
    high: float,
    momentum: float,
    weight_decay: float,
) -> None:
    asked: list[Any] = []

    def measure(spare: Classifier, _loader: Any, _trainer: Any, steps: int, first: float, last: float) -> Curve:
        (group,) = spare._make_optimizer(spare.parameters(), lr=1.0).param_groups
        asked.append((steps, first, last, group["momentum"], group["weight_decay"], group["nesterov"]))
        x = np.linspace(-5, 0, 100)
        return Curve(10**x, 2.3 - 0.8 / (1 + np.exp(-4 * (x + 3))))

    monkeypatch.setattr("cifar_pl.training.range_test.measure", measure)
    cfg = config(f"experiment={name}")
    data, classifier, _, _ = made(cfg)
    spare = parts.spare(cfg, classifier.network, data)
    options, schedule, loader = build(cfg.lr_finder), build(cfg.scheduler), data.train_dataloader()
    found, source = learning_rate.find(options, spare, loader, {}, schedule, 50, cfg.optimizer.lr, tmp_path)
    assert asked == [(100, low, high, momentum, weight_decay, False)]
    assert found == lr
    assert source.startswith("from the config; range test")


def test_the_honest_protocol_holds_images_out_of_the_same_recipe(config: Callable[..., DictConfig]) -> None:
    cfg = config("experiment=genigarus", "protocol=honest", "data.val_size=20")
    data = made(cfg)[0]
    assert (data.size("train"), data.size("val"), data.test_selected) == (180, 20, False)


def fitted(data: DataModule, network: nn.Module, tmp_path: Path) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    for m in network.modules():
        if hasattr(m, "reset_parameters"):
            m.reset_parameters()

    def schedule(optimizer: torch.optim.Optimizer, **known: int) -> Any:
        options = {"monitor": "val/loss", "factor": 0.1, "patience": 0, "threshold": 0.5, "min_lr": 0.0}
        return schedulers.plateau(optimizer, **known, **options)  # type: ignore[arg-type]

    module = Classifier(network, torch.optim.SGD, schedule, ("red", "green", "blue"), lr=0.1)
    run = Trainer(accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
                  enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    run.fit(module, datamodule=data)
    values = {name: float(value) for name, value in run.callback_metrics.items()}
    return values | {"lr": run.optimizers[0].param_groups[0]["lr"]}, module.state_dict()


@pytest.mark.parametrize("protocol", ["honest", "published"])
def test_only_the_published_protocol_looks_at_the_test_set_before_the_end(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path, protocol: str
) -> None:
    """Other test images, other published figures; everything honest stays as it is, to the bit."""
    seen = []
    for pixels in (tiny_source.test.pixels, 255 - tiny_source.test.pixels):
        part = Source(tiny_source.train, Images(pixels, tiny_source.test.labels), tiny_source.classes)
        data = DataModule(lambda part=part: part, {}, val_size=15, batch_size=16, protocol=protocol)  # type: ignore[misc]
        seen.append(fitted(data, tiny_network, tmp_path))
    (one, weights), (other, others) = seen
    assert (one == other) == (protocol == "honest")
    if protocol == "honest":
        assert all(torch.equal(weights[k], others[k]) for k in weights)


class Sealed(np.ndarray[Any, np.dtype[np.uint8]]):
    """Test images that may not be looked at yet."""

    opened = False

    def __getitem__(self, key: Any) -> Any:
        assert Sealed.opened, "somebody looked at a test image"
        return super().__getitem__(key)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["honest", "published"])
def test_a_whole_honest_run_opens_the_test_images_after_training(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    whole, test = digits(8), Trainer.test

    def opened(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        Sealed.opened = True
        return test(self, *args, **kwargs)

    sealed = Source(whole.train, Images(whole.test.pixels.view(Sealed), whole.test.labels), whole.classes)
    monkeypatch.setattr("cifar_pl.data.digits.digits", lambda image_size: sealed)
    monkeypatch.setattr(Trainer, "test", opened)
    monkeypatch.setattr(Sealed, "opened", False)
    short = ("trainer.max_epochs=1", "+trainer.limit_train_batches=2", "callbacks.misclassified.number=3")
    cfg = config(*TINY, *RANGE_TEST, *short, f"protocol={protocol}")
    if protocol == "honest":
        experiment.run(cfg)
        assert Sealed.opened
    else:
        with pytest.raises(AssertionError, match="somebody looked"):
            experiment.run(cfg)


@pytest.mark.slow
def test_a_test_selected_run_is_marked_everywhere(
    config: Callable[..., DictConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: dict[str, str] = {}

    def keep(figure: Any) -> bytes:
        drawn[str(figure.get_supxlabel())] = str(figure._supxlabel.get_color()) if figure._supxlabel else ""
        return b""

    monkeypatch.setattr("cifar_pl.reporting.figures.png", keep)
    caplog.set_level("INFO")
    experiment.run(config(*TINY, "protocol=published", "trainer.max_epochs=1", "+trainer.limit_train_batches=2"))
    run_dir = tmp_path / "run"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["protocol"]["test_selected"]
    assert summary["protocol"]["images"] == {"train": 1438, "val": 359, "test": 359}
    assert summary["val"]["best_acc"] == pytest.approx(summary["test"]["acc"])
    assert drawn == {"protocol=published: validation is the test set, and the result is test-selected": "#c02020"}
    lines = caplog.text.splitlines()
    for what in ("test images stand in for the validation", "epoch 1/1", "test accuracy"):
        (line,) = [line for line in lines if what in line]
        assert "test-selected" in line
    events = EventAccumulator(str(run_dir))
    events.Reload()
    (text,) = events.Tensors("protocol/text_summary")
    assert b"test-selected" in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_a_range_test_may_only_report(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    only = (*RANGE_TEST, "lr_finder.apply=false", "scheduler=constant", "optimizer.lr=0.03")
    experiment.run(config(*TINY, *LEAN, *only, "trainer.max_epochs=1", "+trainer.limit_train_batches=2"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    found = json.loads((tmp_path / "run/lr_finder.json").read_text())["suggestions"]
    assert summary["lr"]["value"] == 0.03
    assert summary["lr"]["source"] == f"from the config; range test, auto: {found['auto']:.3g}"
