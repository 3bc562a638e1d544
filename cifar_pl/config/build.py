"""Config nodes to objects; an argument that does not exist or does not fit is the user's mistake."""

import warnings
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from cifar_pl.errors import UserError, full_key, reason


def build(node: DictConfig, name: str = "") -> Any:
    """What a config node describes.

    Raises:
        UserError: an argument that does not exist or does not fit, named.
    """
    try:
        with warnings.catch_warnings():
            # albumentations only warns of a misspelt argument, and goes on with its default
            warnings.filterwarnings("error", message="Argument", category=UserWarning)
            return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(f'{name}: {cause} Install it: pip install -e ".[{name.rpartition(".")[2]}]"') from error
        key = full_key(str(error)) or name
        raise UserError(f"{key.replace('datamodule.augment', 'aug')}: {reason(cause)}") from error
