"""What is refused of a config alone, before anything is loaded."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from cifar_pl.config import checks
from cifar_pl.errors import UserError
from tests.conftest import TINY

DDP = (*(override for override in TINY if override != "trainer=cpu"), "trainer=ddp", "trainer.accelerator=cpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.val_size=0", "scheduler=plateau"), r"scheduler=plateau follows.*val_size=0"),
        (("data.val_size=0", "callbacks=early_stopping"), r"val_size=0 .*callbacks\.early_stopping\.monitor"),
        (("trainer.max_epochs=0",), r"trainer\.max_epochs=0"),
        (("trainer.max_epochs=-1",), r"trainer\.max_epochs=-1"),
        (("monitor=test/acc",), r"monitor=test/acc.*the test set selects nothing"),
        (("callbacks.best.monitor=val/loss",), r"callbacks\.best\.monitor=val/loss.*Take monitor=val/loss"),
        (("callbacks.best.monitor=train/loss",), r"callbacks\.best\.monitor=train/loss.*test set"),
        (("callbacks.best.monitor=test/loss",), "the test set selects nothing"),
        (("callbacks=early_stopping", "callbacks.early_stopping.monitor=test/acc"), "the test set selects nothing"),
        (("scheduler=plateau", "scheduler.monitor=test/loss"), r"scheduler\.monitor=.*train/last_loss; the test set"),
        (("data.start_share=1.0",), r"data\.start_share=1\.0"),
        (("trainer.check_val_every_n_epoch=0",), r"check_val_every_n_epoch=0"),
        (("trainer.check_val_every_n_epoch=99",), r"check_val_every_n_epoch=99: it must be from 1 to"),
        (("+trainer.limit_val_batches=0",), r"take data\.val_size=0"),
        (("+trainer.fast_dev_run=true",), r"take data\.val_size=0"),
        (("sweep=search",), "sweep=search is made of many runs: add -m"),
        (("trainer=ddp", "trainer.num_nodes=2"), r"num_nodes=2: .*torchrun or srun"),
        (
            ("trainer=ddp", "trainer.sync_batchnorm=true", "model.dropout={block: 0.1}"),
            "lose model.dropout=.*block",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    config: Callable[..., DictConfig], overrides: tuple[str, ...], message: str
) -> None:
    cfg = config(*[o for o in TINY if "callbacks." not in o], *overrides)
    with pytest.raises(UserError, match=message):
        checks.check(cfg, sweep=False)


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.val_size=0",),
        ("data.val_size=0", "protocol=published", "scheduler=plateau"),
        ("callbacks=early_stopping", "monitor=val/loss"),
    ],
)
def test_what_can_be_done_is_not(config: Callable[..., DictConfig], overrides: tuple[str, ...]) -> None:
    checks.check(config(*overrides), sweep=False)


def test_a_sweep_takes_one_device_and_auto_only_if_that_is_one(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfgs = {devices: config(*TINY, f"trainer.devices={devices}") for devices in ("auto", "1", "[3]", "2", "[0,1]")}
    for gpus, fine in ((0, "auto"), (1, "auto"), (2, "1"), (2, "[3]")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        checks.check(cfgs[fine], sweep=True)
    for refused in ("auto", "2", "[0,1]"):
        with pytest.raises(UserError, match=r"trainer\.devices=.*: a sweep in one process"):
            checks.check(cfgs[refused], sweep=True)
        checks.check(cfgs[refused], sweep=False)


def test_processes_that_the_trainer_does_not_know_of_are_refused(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"trainer\.devices=2 on 1 machines, but 4 processes"):
        checks.check(config(*DDP), sweep=False)
