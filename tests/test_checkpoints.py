import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_pl import rundir
from cifar_pl.checkpoints import WholeFiles, read
from cifar_pl.errors import UserError
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
    WholeFiles().save_checkpoint({"a": torch.zeros(3)}, path)
    with little_room(), pytest.raises(UserError, match=r"last\.ckpt could not be written: \[Errno 27\] File too large"):
        WholeFiles().save_checkpoint({"a": torch.ones(1_000_000)}, path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class Interrupted(io.BytesIO):
    """A file that Ctrl-C hits while torch writes into it."""

    def write(self, data: object) -> int:
        raise KeyboardInterrupt


def test_ctrl_c_while_a_checkpoint_is_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "whole", lambda path: nullcontext(Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        WholeFiles().save_checkpoint({"a": torch.zeros(1_000)}, tmp_path / "last.ckpt")


def test_reading_gives_a_copy_with_the_weights_and_leaves_the_network(tmp_path: Path) -> None:
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    before = network.weight.clone()
    torch.save({"state_dict": {f"network.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "c.ckpt")
    _, loaded = read(tmp_path / "c.ckpt", network)
    assert torch.equal(loaded.weight, other.weight)
    assert torch.equal(network.weight, before)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": Payload(tmp_path / "owned")}, tmp_path / "c.ckpt")
    with pytest.raises(UserError, match=r"c\.ckpt cannot be used"):
        read(tmp_path / "c.ckpt", nn.Linear(2, 2))
    assert not (tmp_path / "owned").exists()
