"""Mistakes of the user. Any function may raise a `UserError`; `Raises:` names it only if a caller catches it."""

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

CLONED = (Path(__file__).parents[1] / "train.py").is_file()  # and not installed from a wheel
F = TypeVar("F", bound=Callable[..., Any])


class UserError(ValueError):
    """Something the user asked for cannot be done: the message has the value, the rule, the fix.

    It is shown without a traceback; every other exception is a fault of ours or of the machine.
    """


class Pruned(Exception):  # noqa: N818 - no error
    """A search ended this run early, because it does worse than most: the message says when."""


def install(extra: str) -> str:
    """What to type for an optional part; in an environment that has a wheel, the part's packages alone are missing."""
    return f'pip install -e ".[{extra}]"' if CLONED else f'pip install "cifar-pl[{extra}]"'


def nearest(name: str, options: Iterable[str]) -> str:
    """` Did you mean a, b?` with up to three of `options` that look like `name`, or an empty string."""
    matches = difflib.get_close_matches(name, sorted(set(options)), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(matches)}?" if matches else ""


def full_key(message: str) -> str:
    """The key that a message of Hydra or OmegaConf is about; empty if it names none."""
    found = re.search(r"^\s*full_key: (.*)$", message, re.MULTILINE)
    return found[1] if found else ""


def require(condition: object, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def checked(function: F) -> F:
    """Check the arguments of a function against its annotations, strictly: "5" is not a number, 1 is not true.

    It then raises pydantic's `ValidationError`, which `complete` and `config.build` turn into a `UserError`.
    """
    from pydantic import validate_call  # here, because --help does without: 0.1 s

    return validate_call(config={"strict": True, "arbitrary_types_allowed": True})(function)


def complete(part: Callable[..., Any], name: str, /, **known: Any) -> Any:
    """Call a `_partial_` of the config, `name` there, with the arguments that are known by now."""
    try:
        return part(**known)
    except (UserError, OSError):  # a message already, or the machine's fault
        raise
    except Exception as error:
        raise UserError(reason(error, name)) from error


def reason(error: BaseException, name: str = "") -> str:
    """An error in one line, about the part of the config with this name.

    Pydantic, which albumentations uses too, has an error per argument, or several: one per type that it may have.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"{type(error).__name__}: {text}" if isinstance(error, LookupError) else text
    if not hasattr(error, "errors"):
        return f"{name}: {text}" if name else text
    rules = dict[str, list[str]]()
    for one in error.errors():
        parts = [str(part) for part in one["loc"] if str(part).isidentifier() or isinstance(part, int)]
        parts = parts[:-1] if parts and parts[-1] in ("str", "callable") else parts  # one of the types that it may have
        if isinstance(own := one.get("ctx", {}).get("error"), UserError):
            return str(own)
        value = "" if one["type"].startswith("missing") else f"={one['input']}"
        rules.setdefault(".".join(filter(None, [name, *parts])) + value, []).append(one["msg"])
    text = "; ".join(f"{at}: {' or '.join(messages)}" for at, messages in rules.items())
    return re.sub("(Input|Value) should", "it must", text)
