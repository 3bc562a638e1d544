"""Config nodes to objects; an argument that does not exist or does not fit is the user's mistake."""

import re
import warnings
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cifar_pl.errors import UserError, complete, full_key, install, reason


def build(node: DictConfig, name: str = "", **known: Any) -> Any:
    """What a config node describes, a `_partial_` completed with `known` arguments.

    An argument that does not exist or does not fit is named in a UserError.
    """
    try:
        with warnings.catch_warnings():
            # albumentations only warns of a misspelt argument, and goes on with its default
            warnings.filterwarnings("error", message="Argument", category=UserWarning)
            part = instantiate(node, _convert_="all")
        return complete(part, name, **known) if known else part
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(f"{name}: {cause} Install it: {install(name.rpartition('.')[2])}") from error
        message = reason(cause, full_key(str(error)) or name)
        raise UserError(_as_typed(message, node)) from error
    except UserError as error:
        raise UserError(_as_typed(str(error), node)) from error.__cause__


def _as_typed(message: str, node: DictConfig) -> str:
    """With the keys that people type: config.yaml has `datamodule.val_size: ${data.val_size}`."""
    arguments: Any = OmegaConf.to_container(node, resolve=False)
    for name, value in arguments.items():
        if typed := re.fullmatch(r"\$\{([\w.]+)\}", str(value)):
            message = re.sub(rf"\b{node._get_full_key(name)}\b", typed[1], message)
    return message
