"""A run that cannot end well ends at once, and says where, at which rate, and what is left."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from cifar_pl.errors import UserError
from cifar_pl.training import experiment
from tests.conftest import LEAN, TINY

BARE = (*TINY, *LEAN)


@pytest.mark.parametrize(
    ("lr", "steps", "message"),
    [
        ("1e30", 2, r"^The loss became nan in step 2 \(epoch 1\), at a rate of 1e\+30\. There is no checkpoint yet"),
        ("1e30", 1, r"^The validation's loss is NaN or infinite after the last step \(epoch 1\), at a rate of 1e\+30"),
        ("3e38", 1, r"^A weight is NaN or infinite after the last step \(epoch 1\), at a rate of 3e\+38"),
    ],
)
def test_a_rate_that_is_too_high_ends_the_run_before_a_checkpoint(
    config: Callable[..., DictConfig], tmp_path: Path, lr: str, steps: int, message: str
) -> None:
    overrides = (f"optimizer.lr={lr}", "scheduler=constant", f"+trainer.limit_train_batches={steps}")
    with pytest.raises(UserError, match=message):
        experiment.run(config(*BARE, *overrides, "trainer.max_epochs=2", run_dir=tmp_path))
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"
    assert not (tmp_path / "checkpoints").exists()


def test_the_last_good_checkpoint_is_named_and_good(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    explodes = ("optimizer.lr=0.001", "scheduler=multistep", "scheduler.milestones=[1]", "scheduler.gamma=1e33")
    with pytest.raises(UserError, match=r"\(epoch 2\), at a rate of 1e\+30\. .* is .*last\.ckpt, of epoch 1\. Lower"):
        experiment.run(config(*BARE, *explodes, "+trainer.limit_train_batches=3", run_dir=tmp_path))
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


@pytest.mark.parametrize(("lr", "warned"), [("3", True), ("0.02", False)])
def test_a_first_epoch_that_ends_far_above_guessing_is_reported_at_once(
    config: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture, lr: str, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    dropped = ("scheduler=multistep", "scheduler.milestones=[0.46]", "scheduler.warmup=0")  # to a tenth, after 11 steps
    cliff = (*dropped, f"optimizer.lr={lr}", "+trainer.limit_train_batches=12")
    experiment.run(config(*BARE, *cliff, "trainer.max_epochs=2", run_dir=tmp_path))
    told = [r.getMessage() for r in caplog.records if "The first epoch ended" in r.getMessage()]
    assert len(told) == warned
    assert not told or ("ln 10 = 2.30" in told[0] and "up to 3, is likely too high" in told[0])
