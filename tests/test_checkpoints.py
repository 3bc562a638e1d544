import io
import multiprocessing
import resource
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_pl import rundir
from cifar_pl.checkpoints import WholeFiles, read
from cifar_pl.errors import UserError
from tests.test_sources import Payload


def save_with_little_room(path: Path, queue: "multiprocessing.Queue[str]") -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as on a full disk, a write fails half-way
    try:
        WholeFiles().save_checkpoint({"a": torch.ones(1_000_000)}, path)
        queue.put("saved")
    except UserError as error:
        queue.put(str(error))


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"a": torch.zeros(3)}, path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=save_with_little_room, args=(path, queue))
    process.start()
    assert "last.ckpt could not be written: [Errno 27] File too large" in queue.get(timeout=60)
    process.join()
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
