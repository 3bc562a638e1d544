"""What a user's mistake raises, and how a name that does not exist is answered."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any


class UserError(ValueError):
    """Something the user asked for cannot be done: the message has the value, the rule, the fix.

    It is shown without a traceback; every other exception is a fault of ours or of the machine.
    """


class Pruned(Exception):  # noqa: N818 - no error
    """A search ended this run early, because it does worse than most: the message says when."""


def nearest(name: str, options: Iterable[str]) -> str:
    """` Did you mean a, b?` with up to three of `options` that look like `name`, or an empty string."""
    matches = difflib.get_close_matches(name, sorted(set(options)), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(matches)}?" if matches else ""


def full_key(message: str) -> str:
    """The key that a message of Hydra or OmegaConf is about; empty where it names none."""
    found = re.search(r"^\s*full_key: (.*)$", message, re.MULTILINE)
    return found[1] if found else ""


def require(condition: object, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


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
        raise UserError(f"{name}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """An error in one line, even if pydantic, which albumentations uses, has several."""
    found = error.errors() if hasattr(error, "errors") else []
    told = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']}: {e['msg']}" for e in found)
    return told or " ".join(str(error).split()) or type(error).__name__
