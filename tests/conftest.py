"""What tests share: tiny data in the real layout, a tiny network, configs, and real processes."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: pytest runs two of us, whose threads would wait for each other
# The tests are of CPUs, on every machine; test_gpu.py has what this hides. Kept once: pytest's processes inherit it.
os.environ.setdefault("HIDDEN_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, Phase, settings
from omegaconf import DictConfig, OmegaConf, open_dict
from playwright.sync_api import Browser
from torch import nn

from benchmarks.common import TINY
from benchmarks.screenshots import browser
from cifar_pl.cli import command
from cifar_pl.data.images import Images, Source
from cifar_pl.models.resnet import Normalize
from cifar_pl.runs import files

ROOT = Path(__file__).parents[1]
torch.backends.mps.is_available = lambda: False

# Of tests/test_fuzz.py: CI tries the same inputs every time, --hypothesis-profile=campaign many more, by chance.
settings.register_profile("ci", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("campaign", settings.get_profile("ci"), derandomize=False, phases=[Phase.generate])
settings.load_profile("ci")

# Without what takes most of so small a run, where no test looks at it: pictures and their log.
LEAN = ("logger=none", *(f"callbacks.{name}=null" for name in ("misclassified", "explore", "dashboard", "summary")))

# A range test by half as many steps as the default.
RANGE_TEST = ("lr_finder=range_test", "lr_finder.num_training=50")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, then one that makes `finished_run`, and last the others that use it.

    So neither of pytest's two processes waits for the other, at the end or for that run.
    """

    def uses_run(item: pytest.Item) -> bool:
        return "finished_run" in getattr(item, "fixturenames", ())

    def quick(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is None

    first = next((item for item in items if uses_run(item) and quick(item)), None)
    items.sort(key=lambda item: (quick(item), item is not first, uses_run(item)))


@pytest.fixture
def tiny_source() -> Source:
    """Ninety 8x8 images of three classes, each class with a colour of its own; thirty to test on."""
    rng = np.random.default_rng(0)

    def images(n: int) -> Images:
        labels = np.arange(n) % 3
        pixels = rng.integers(0, 120, (n, 8, 8, 3), np.uint8)
        pixels[np.arange(n), :, :, labels] += 100
        return Images(pixels, labels)

    return Source(images(90), images(30), ("red", "green", "blue"))


@pytest.fixture
def tiny_network() -> nn.Module:
    """Normalisation, one convolution, global average pool, linear head; three classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        Normalize([0.5] * 3, [0.25] * 3),
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """Compose a config as `train.py` does, for a run directory below `tmp_path`."""
    command.register_resolvers()

    def composed(*overrides: str, run_dir: Path | None = None) -> DictConfig:
        directory = run_dir or tmp_path / "run"
        directory.mkdir(parents=True, exist_ok=True)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", [*overrides], return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(directory)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    yield composed
    GlobalHydra.instance().clear()


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run directory below `tmp_path`: its config, status, and where it is finished its summary and metrics."""

    def made(
        name: str,
        *overrides: str,
        val: float | None = None,
        test: float = 0.5,
        status: str = "finished",
        test_selected: bool = False,
        **config: Any,
    ) -> Path:
        run = tmp_path / name
        run.mkdir(parents=True)
        typed = dict(o.split("=") for o in overrides)
        values = {
            "seed": int(typed.get("seed", 0)),
            "run_dir": str(run),
            "optimizer": {"lr": float(typed.get("optimizer.lr", 0.1))},
            "data": {"fold": config.pop("fold", None), "num_workers": 0},
            "classifier": {"seed": int(typed.get("seed", 0))},
            "callbacks": {"best": {"dirpath": f"{run}/checkpoints"}},
            "scheduler": typed.get("scheduler", "onecycle"),
            **config,
        }
        files.write(run / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(values)))
        git = {"commit": "0123456789abcdef", "dirty": False}
        files.write_json(run / "status.json", {"status": status, "overrides": overrides, "git": git})
        if status == "finished":
            summary = {
                "test": {"acc": test},
                "val": None if val is None else {"best_acc": val},
                "lr": {"value": values["optimizer"]["lr"]},
                "seconds": 10.0,
                "protocol": {"test_selected": test_selected},
            }
            files.write_json(run / "summary.json", summary)
            curve = "".join(f"{epoch},{(val or test) * epoch / 2}\n" for epoch in (1, 2))
            files.write(run / "metrics.csv", "epoch,val/acc\n" + curve)
        return run

    return made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Skipped where a person has no browser; in CI that is a failure."""
    try:
        with browser() as started:
            yield started
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


Train = Callable[..., subprocess.CompletedProcess[str]]
Ask = Callable[..., int]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on tiny digits by `python train.py`, with everything that the defaults have. To read only.

    One for all of pytest's processes, of which the first that asks makes it.
    """
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished/run"
    overrides = [
        *TINY,
        *RANGE_TEST,
        "trainer.max_epochs=2",
        "data.batch_size=128",  # enough is learnt that each class has images that are right
        f"hydra.run.dir={directory}",
    ]
    with FileLock(directory.parents[1] / "finished.lock"):
        if not (directory / "report.html").exists():
            directory.parent.mkdir(exist_ok=True)
            command = [sys.executable, str(ROOT / "train.py"), *overrides]
            subprocess.run(command, cwd=directory.parent, capture_output=True, check=True, timeout=240)
    return directory


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run`, to write into and to spoil."""
    return copy_run(finished_run, tmp_path / "run")


def copy_run(run: Path, target: Path) -> Path:
    """Copy a run directory; its checkpoints, which are large, become hard links: to be replaced, not written into."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".ckpt") else shutil.copy2)(source, target)

    return shutil.copytree(run, target, copy_function=copy)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Ask:
    """Run a command such as `predict.main` with arguments; its exit status. Its messages are in `caplog`."""
    caplog.set_level(logging.INFO)

    def run(main: Callable[[], None], *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        return command.script(main)

    return run


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run `python train.py ...` as a person would, in an empty directory."""

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
