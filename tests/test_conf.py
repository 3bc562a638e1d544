"""Every option of every group composes, is accepted and builds."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
from omegaconf import DictConfig, OmegaConf

from cifar_pl.config import schema
from cifar_pl.config.build import build
from cifar_pl.errors import UserError

OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in schema.CONF.glob("*/*.yaml"))
EXTRAS = {"wandb": "wandb", "mlflow": "mlflow"}  # loggers that are optional, and their packages


def options(*groups: str) -> list[str]:
    return [option for option in OPTIONS if option.split("=")[0] in groups]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_resolves_and_is_accepted(config: Callable[..., DictConfig], option: str) -> None:
    cfg = config(option)
    assert OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    schema.check(cfg)


@pytest.mark.parametrize("option", options("aug", "data", "model", "optimizer", "scheduler"))
def test_every_part_builds(config: Callable[..., DictConfig], option: str) -> None:
    group = option.split("=")[0]
    build(config(option)["datamodule" if group == "data" else group])


@pytest.mark.parametrize("option", options("callbacks", "logger"))
def test_callbacks_and_loggers_build_or_say_what_to_install(config: Callable[..., DictConfig], option: str) -> None:
    for name, node in config(option)[option.split("=")[0]].items():
        if name in EXTRAS and find_spec(EXTRAS[name]) is None:
            with pytest.raises(UserError, match=rf'pip install -e "\.\[{name}\]"'):
                build(node, f"logger.{name}")
        else:
            build(node)


@pytest.mark.parametrize("option", [o for o in options("trainer") if o != "trainer=gpu"])  # refused without one
def test_trainers_build(config: Callable[..., DictConfig], option: str) -> None:
    make = build(config(option, "trainer.max_epochs=3").trainer)
    assert make(logger=False, enable_progress_bar=False).max_epochs == 3


def test_no_option_is_a_yaml_boolean() -> None:
    assert not {path.stem for path in schema.CONF.rglob("*.yaml")} & {
        "on",
        "off",
        "yes",
        "no",
        "y",
        "n",
        "true",
        "false",
    }


@pytest.mark.parametrize(("typed", "lr"), [((), 0.0125), (("data.batch_size=128",), 0.1), (("optimizer.lr=0.3",), 0.3)])
def test_the_rate_for_own_images_is_in_proportion_to_the_size_of_steps(
    config: Callable[..., DictConfig], typed: tuple[str, ...], lr: float
) -> None:
    assert config("data=image_folder", *typed).optimizer.lr == lr
