"""Random inputs: each gives a result or one message. `--hypothesis-profile=campaign` tries many more (conftest.py)."""

import io
import json
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from cifar_pl.config import schema
from cifar_pl.config.build import build
from cifar_pl.data import cifar10 as official
from cifar_pl.data import pictures
from cifar_pl.data.augment import Augment
from cifar_pl.data.image_folder import image_folder
from cifar_pl.errors import UserError, complete
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import saved
from cifar_pl.models.resnet import resnet
from cifar_pl.reporting import comparison_page
from cifar_pl.runs import checkpoints, compare, rundir, summary
from cifar_pl.runs.record import list_runs
from cifar_pl.sweeps import sweep
from cifar_pl.training import experiment
from cifar_pl.training.lr_finder import METHODS, Curve, choose, finite
from tests.conftest import Make
from tests.fuzzing import GROUPS, JSON, QUICK, Record, changes, fuzz, refusal, spoiled
from tests.test_search import Launcher
from tests.test_sources import known, pack, write_batches

pytestmark = pytest.mark.slow

# --- configs ---


@pytest.mark.parametrize("group", [*GROUPS, "top"])
def test_a_config_runs_or_says_why_not(
    config: Callable[..., DictConfig], tmp_path: Path, record_property: Record, group: str
) -> None:
    @fuzz(record_property, 3, 40, overrides=changes(group))
    def one(overrides: list[str]) -> None:
        run_dir = Path(mkdtemp(dir=tmp_path))
        quick = list(QUICK)
        if group != "model":
            quick.append("model._target_=tests.fuzzing.small")
        if "callbacks=" in str(overrides) and "none" not in overrides[0]:  # pictures take seconds
            drawn = [name for name in ("dashboard", "misclassified", "explore") if name not in str(overrides)]
            overrides = [*overrides, *(f"callbacks.{name}=null" for name in drawn)]
        if "lr_finder=range_test" in overrides:
            quick.append("lr_finder.num_training=50")
        with refusal():
            cfg = config(*quick, *overrides, run_dir=run_dir)
            plan(cfg, run_dir) if group == "sweep" else experiment.run(cfg)
        shutil.rmtree(run_dir)


def plan(cfg: DictConfig, directory: Path) -> None:
    """Run a sweep or a search on a launcher that trains nothing."""
    search = pytest.importorskip("cifar_pl.sweeps.search")
    hydra = {"sweep": {"dir": str(directory)}, "overrides": {"task": [], "hydra": []}}
    with open_dict(cfg):
        cfg = OmegaConf.merge(cfg, {"hydra": hydra})
    sweep.run(search.trials if "trials" in cfg.sweep else sweep.grid, cfg, Launcher(0.5, "failed"), [], lambda _: None)


# --- the rate, and augmentations ---

LOSS = st.floats(0, 9, width=32) | st.floats(width=32) | st.sampled_from([0.0, 2.3, math.nan, math.inf, 1e38, 1e-38])


def test_the_chooser_gives_rates_of_the_curve_or_names_a_problem(record_property: Record) -> None:
    losses = st.lists(LOSS, max_size=40) | st.builds(lambda x, n: [x] * n, LOSS, st.integers(0, 500))
    falls = st.builds(lambda x, n: np.linspace(x, -x, n).tolist(), LOSS, st.integers(0, 500))

    @fuzz(
        record_property,
        100,
        3000,
        loss=losses | falls,
        low=st.floats(-12, 2),
        span=st.floats(1e-6, 12),
        classes=st.integers(2, 1000),
    )
    def one(loss: list[float], low: float, span: float, classes: int) -> None:
        curve = Curve(np.logspace(low, low + span, len(loss)), np.array(loss, float))
        if not len(finite(curve).loss):
            return  # `range_test.measure` refuses it
        choice = choose(curve, classes, stays=bool(classes % 2))
        assert choice.told
        assert set(choice.suggestions) in ({*METHODS}, set())
        assert curve.lr[0] <= choice.safe <= curve.lr[-1]
        for name, rate in choice.suggestions.items():
            assert curve.lr[0] / (10 if name == "min_div_10" else 1) <= rate <= curve.lr[-1]


def test_augmentations_keep_their_contract_or_are_refused(
    config: Callable[..., DictConfig], record_property: Record
) -> None:
    sizes = st.integers(1, 40)

    @fuzz(record_property, 20, 250, overrides=changes("aug"), height=sizes, wide=sizes, seed=st.integers(0, 2**32 - 1))
    def one(overrides: list[str], height: int, wide: int, seed: int) -> None:
        image = np.random.default_rng(seed).integers(0, 256, (height, wide, 3), np.uint8)
        with refusal():
            cfg = config("aug=none", f"data.image_size={min(height, wide)}", *overrides)
            schema.check(cfg)
            first, second = (
                complete(Augment, "aug", transforms=build(cfg.aug), mean=[0.5] * 3, seed=seed) for _ in "12"
            )
            made = complete(first, "aug", image=image, epoch=1, index=2)
            second(image, 5, 6)  # another history
            np.testing.assert_array_equal(made, second(image, 1, 2))
            assert made.dtype == np.uint8
            assert made.shape == image.shape or height != wide or "aug.crop" in str(overrides)  # has a size of its own


# --- files of runs ---


def put(node: Any, path: Sequence[str], value: object) -> None:
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value


def test_a_report_has_a_row_for_every_run_and_no_markup_of_its_names(
    make: Make, tmp_path: Path, record_property: Record
) -> None:
    places = ("overrides", "status", "error", "git", "git.commit", "test", "test.acc", "val", "val.best_acc",
              "lr.value", "seconds", "protocol", "protocol.test_selected")  # fmt: skip

    @fuzz(record_property, 20, 250, data=st.data(), n=st.integers(1, 3))
    def one(data: st.DataObject, n: int) -> None:
        shutil.rmtree(tmp_path / "sweep", ignore_errors=True)
        for number in range(n):
            name = data.draw(st.sampled_from(["a", "<script>alert(1)<", "é 'x\" &amp;"]))
            run = make(f"sweep/{number}-{name}", "aug=<script>alert(1)</script>", f"seed={number}", val=0.9)
            for place in data.draw(st.lists(st.sampled_from(places), max_size=2)):
                file = run / (rundir.STATUS if place.split(".")[0] in places[:4] else rundir.SUMMARY)
                facts = json.loads(file.read_text())
                try:
                    put(facts, place.split("."), data.draw(JSON))
                except (TypeError, KeyError):
                    continue  # a place inside what has been replaced
                file.write_text(json.dumps(facts))
            if data.draw(st.booleans()):
                file = run / data.draw(st.sampled_from([rundir.STATUS, rundir.SUMMARY, rundir.METRICS, rundir.CONFIG]))
                file.write_bytes(data.draw(spoiled(file.read_bytes())))
        comparison = compare.Comparison(list_runs([tmp_path / "sweep"]))
        comparison_page.write(tmp_path, comparison, ["how"])
        assert len(comparison.finished) + len(comparison.others) == n
        assert comparison_page.text(comparison)
        assert all(run.error for run in comparison.others if run.status == "unreadable")
        assert "<script" not in (tmp_path / comparison_page.PAGE).read_text()


def archive(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


SAID = Predictions(torch.eye(3), torch.arange(3), torch.arange(3))


def a_checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"network.w": torch.zeros(3)}, "epoch": 1}, buffer)
    return buffer.getvalue()


READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "checkpoint": ("last.ckpt", a_checkpoint(), checkpoints.load),
    "predictions": ("p.npz", archive(**{k: v.numpy() for k, v in SAID._asdict().items()}), Predictions.load),
    "status": (rundir.STATUS, b'{"status": "running", "overrides": ["a=1"]}', lambda path: rundir.state(path.parent)),
    "metrics": (rundir.METRICS, b"epoch,val/acc\n1,0.5\n2,0.6\n", summary.read_metrics),
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_a_spoiled_file_of_a_run_is_read_or_refused(tmp_path: Path, record_property: Record, kind: str) -> None:
    name, whole, read = READERS[kind]
    right = type(read(put_file(tmp_path / name, whole)))

    @fuzz(record_property, 30, 1000, content=spoiled(whole, READERS["metrics"][1]))
    def one(content: bytes) -> None:
        with warnings.catch_warnings(record=True) as said, refusal(name):
            assert type(read(put_file(tmp_path / name, content))) is right
        assert len(said) < 5


def put_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_spoiled_run_is_found_or_refused(make: Make, record_property: Record) -> None:
    run = make("run", model={"_target_": "cifar_pl.models.resnet.resnet", "_partial_": True}, precision="float32")
    torch.manual_seed(0)
    state = {f"network.{k}": v for k, v in resnet(3, [0.5] * 3, [0.5] * 3).state_dict().items()}
    hparams = {"classes": ["a", "b", "c"], "lr": 0.1}
    (run / "checkpoints").mkdir()
    files = {name: (run / name).read_bytes() for name in (rundir.CONFIG, rundir.STATUS, rundir.SUMMARY)}

    @fuzz(record_property, 8, 150, data=st.data(), kind=st.sampled_from([*files, "checkpoint"]))
    def one(data: st.DataObject, kind: str) -> None:
        content = {"state_dict": state, "hyper_parameters": hparams, "epoch": 0, "predictions": {"val": SAID._asdict()}}
        if kind == "checkpoint":
            content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSON)
        torch.save(content, run / rundir.LAST)
        for name, whole in files.items():
            (run / name).write_bytes(data.draw(spoiled(whole)) if name == kind else whole)
        with refusal():
            assert saved.find(str(run)).classes


# --- images ---

FORMATS = ("png", "jpeg", "gif", "bmp", "tiff", "webp")


def encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format_)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_a_spoiled_picture_is_read_or_passed_over(tmp_path: Path, record_property: Record, format_: str) -> None:
    other = encoded("jpeg" if format_ == "png" else "png")

    @fuzz(record_property, 20, 1500, content=spoiled(encoded(format_), other))
    def one(content: bytes) -> None:
        with warnings.catch_warnings(record=True) as said:
            pixels = pictures.load(put_file(tmp_path / f"x.{format_}", content), 8)
        assert pixels is None or (pixels.dtype, pixels.shape) == (np.uint8, (8, 8, 3))
        assert len(said) < 5


@pytest.mark.parametrize("format_", ["png", "jpeg"])
def test_a_spoiled_picture_of_a_folder_is_read_or_named(tmp_path: Path, record_property: Record, format_: str) -> None:
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        put_file(tmp_path / place / f"0.{format_}", encoded(format_))

    @fuzz(record_property, 20, 600, content=spoiled(encoded(format_), encoded("bmp")))
    def one(content: bytes) -> None:
        put_file(tmp_path / f"train/a/0.{format_}", content)
        shutil.rmtree(tmp_path / ".cifar_pl", ignore_errors=True)
        with refusal(f"0.{format_}"):
            assert image_folder(tmp_path, 8, strict=True).train.pixels.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("what", ["archive", "batch"])
def test_a_spoiled_cifar10_is_refused_by_its_md5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record, what: str
) -> None:
    folder, md5s, _ = write_batches(tmp_path, images_per_batch=1)
    known(monkeypatch, official.CIFAR10, md5s)
    file = folder / "test_batch"
    if what == "archive":
        file = pack(folder)
        shutil.rmtree(folder)
    whole = file.read_bytes()

    @fuzz(record_property, 20, 600, content=spoiled(whole, b"cbuiltins\nexit\n."))
    def one(content: bytes) -> None:
        assume(content != whole)
        with pytest.raises(UserError, match="md5"):
            official.cifar10(tmp_path) if put_file(file, content) else None
