"""Config nodes to objects; an argument that does not exist or does not fit is the user's mistake."""

import warnings
from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from cifar_pl.errors import UserError, full_key


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
        raise UserError(f"{key.replace('datamodule.augment', 'aug')}: {_reason(cause)}") from error


def complete(part: Callable[..., Any], name: str, **known: Any) -> Any:
    """A `_partial_` of the config with what is known by now.

    Raises:
        UserError: the config gives it an argument that does not exist or does not fit.
    """
    try:
        return part(**known)
    except (UserError, OSError):  # a message already, or the machine's fault
        raise
    except Exception as error:
        raise UserError(f"{name}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """In one line, also where pydantic, which albumentations uses, has several."""
    found = error.errors() if hasattr(error, "errors") else []
    told = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']}: {e['msg']}" for e in found)
    return told or " ".join(str(error).split()) or type(error).__name__
