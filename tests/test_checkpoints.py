import copy
import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from cifar_pl.data.images import Source
from cifar_pl.errors import UserError
from cifar_pl.runs import checkpoints, files
from cifar_pl.runs.checkpoints import AtomicCheckpoints, load, load_network
from cifar_pl.training.callbacks import Last
from tests.test_classifier import loaded, make
from tests.test_sources import Payload


@contextmanager
def little_room() -> Iterator[None]:
    """As on a full disk, a write fails half-way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"a": torch.zeros(3)}, path)
    with little_room(), pytest.raises(UserError, match=r"last\.ckpt could not be written: \[Errno 27\] File too large"):
        AtomicCheckpoints().save_checkpoint({"a": torch.ones(1_000_000)}, path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class Interrupted(io.BytesIO):
    """A file that Ctrl-C hits while torch writes into it."""

    def write(self, data: object) -> int:
        raise KeyboardInterrupt


def test_ctrl_c_while_a_checkpoint_is_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "atomic", lambda path: nullcontext(Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpoints().save_checkpoint({"a": torch.zeros(1_000)}, tmp_path / "last.ckpt")


def test_reading_gives_a_copy_with_the_weights_and_leaves_the_network(tmp_path: Path) -> None:
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    before = network.weight.clone()
    torch.save({"state_dict": {f"network.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "c.ckpt")
    loaded = load_network(tmp_path / "c.ckpt", load(tmp_path / "c.ckpt"), network)
    assert torch.equal(loaded.weight, other.weight)
    assert torch.equal(network.weight, before)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": Payload(tmp_path / "owned")}, tmp_path / "c.ckpt")
    with pytest.raises(UserError, match=r"c\.ckpt cannot be used"):
        load(tmp_path / "c.ckpt")
    assert not (tmp_path / "owned").exists()


def fit(tmp_path: Path, network: nn.Module, source: Source, every: float, *more: Callback, **changes: Any) -> Trainer:
    """Six epochs; the validation is best in the fourth."""

    class Judged(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.callback_metrics["val/acc"] = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.2, 0.1][trainer.current_epoch])

    options = {"dirpath": tmp_path, "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="val/acc", mode="max", **options)
    kept = [best, Last(every, filename="last", **options)]
    run = Trainer(
        accelerator="cpu",
        max_epochs=6,
        plugins=[AtomicCheckpoints()],
        callbacks=[Judged(), *more, *kept],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
    )
    run.fit(make(network), datamodule=loaded(source), weights_only=True, **changes)
    return run


def epochs(tmp_path: Path) -> tuple[int, int]:
    return tuple(torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("every", "written"),
    [
        (0.0, ["best", "last"] * 4 + ["last"] * 2),
        (1e9, ["best", "last"] * 2),  # after the first epoch and at the end
    ],
)
def test_checkpoints_are_written_in_pairs_from_time_to_time_and_are_the_right_ones(
    tmp_path: Path,
    tiny_network: nn.Module,
    tiny_source: Source,
    monkeypatch: pytest.MonkeyPatch,
    every: float,
    written: list[str],
) -> None:
    paths, write = list[str](), checkpoints._write
    monkeypatch.setattr(checkpoints, "_write", lambda c, path: (paths.append(path.stem), write(c, path)))
    fit(tmp_path, tiny_network, tiny_source, every)
    assert paths == written
    assert epochs(tmp_path) == (3, 5)


class Ends(Callback):
    """Ends the run in the middle of the fifth epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 4:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("no more"), SystemExit(143), KeyboardInterrupt()])
def test_what_ends_a_run_in_order_loses_no_whole_epoch(
    tmp_path: Path, tiny_network: nn.Module, tiny_source: Source, error: BaseException
) -> None:
    with pytest.raises((RuntimeError, SystemExit)):
        fit(tmp_path, tiny_network, tiny_source, 1e9, Ends(error))
    assert epochs(tmp_path) == (3, 3)


def test_what_a_kill_loses_is_trained_again_to_the_same_bits(
    tmp_path: Path, tiny_network: nn.Module, tiny_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed, again = tmp_path / "whole", tmp_path / "killed", copy.deepcopy(tiny_network)
    fit(whole, copy.deepcopy(tiny_network), tiny_source, 0)
    with monkeypatch.context() as patch:
        patch.setattr(Last, "on_exception", lambda *_: None)  # nobody hears of kill -9
        with pytest.raises(RuntimeError):
            fit(killed, tiny_network, tiny_source, 1e9, Ends(RuntimeError()))
    assert epochs(killed) == (0, 0)
    fit(killed, again, tiny_source, 1e9, ckpt_path=killed / "last.ckpt")
    assert epochs(killed) == (3, 5)
    for name in ("best", "last"):
        one, other = (torch.load(run / f"{name}.ckpt", weights_only=True) for run in (whole, killed))
        assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


def test_a_full_disk_in_a_run_that_ends_anyway_adds_a_line(
    tmp_path: Path, tiny_network: nn.Module, tiny_source: Source, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def full(checkpoint: Any, path: Path) -> None:
        raise UserError(f"{path} could not be written")

    class Fills(Ends):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.current_epoch == 1:
                monkeypatch.setattr(checkpoints, "_write", full)
            super().on_train_batch_start(trainer)

    with pytest.raises(RuntimeError, match="no more"):
        fit(tmp_path, tiny_network, tiny_source, 1e9, Fills(RuntimeError("no more")))
    assert caplog.text.count("could not be written") == 1
    assert epochs(tmp_path) == (0, 0)


def test_what_is_removed_before_it_is_written_never_appears(tmp_path: Path) -> None:
    files = AtomicCheckpoints()
    files.holds = True
    files.save_checkpoint({"state_dict": {}}, tmp_path / "best-1.ckpt")
    files.remove_checkpoint(tmp_path / "best-1.ckpt")
    files.flush()
    assert not list(tmp_path.iterdir())
