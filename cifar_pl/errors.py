"""What a user's mistake raises, and how a name that does not exist is answered."""

import difflib
import re
from collections.abc import Iterable


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
