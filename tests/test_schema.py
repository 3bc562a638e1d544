"""Values of the wrong kind, against what the shipped configs have."""

from collections.abc import Callable

import pytest
from omegaconf import DictConfig

from cifar_pl.config import schema
from cifar_pl.errors import UserError


@pytest.mark.parametrize(
    "override",
    ["optimizer.lr=1", "data.val_size=${data.batch_size}", "data.fold=2", "aug.flip=null", "+trainer.max_steps=nan",
     "data.num_workers=3", "trainer.devices=[0]", "+aug.turn={_target_: albumentations.Rotate, limit: [-7.5, 7.5]}",
     "+model.dropout.skip=1", "model.dropout={stem: 0.1}"],
)  # fmt: skip
def test_other_values_of_the_kind_are_accepted(config: Callable[..., DictConfig], override: str) -> None:
    schema.check(config(override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=fast", "optimizer.lr=fast: it must be a finite number, such as"),
        ("optimizer.lr=nan", "optimizer.lr=nan: it must be a finite number"),
        ("whiten=1", "whiten=1: it must be true or false"),
        ("data.val_size=true", "data.val_size=True: it must be a whole number"),
        ("scheduler=multistep scheduler.milestones=5", "scheduler.milestones=5: it must be a list"),
        ("++seed.a=1", "seed={'a': 1}: it must be a whole number"),
        ("callbacks.best=5", "callbacks.best=5: it is made of parts"),
        ("++aug.cutout.hole=5", "aug.cutout={'hole': 5}: it has no _target_"),
        ("+logger.other=5", "logger.other=5: it has no _target_"),
    ],
)
def test_another_kind_is_refused(config: Callable[..., DictConfig], override: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        schema.check(config(*override.split(" ")))
    assert message in str(refused.value)
