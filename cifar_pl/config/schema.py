"""What the shipped configs say: every key, and the kind of value that it takes."""

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_pl.errors import UserError, reason, require
from cifar_pl.runs import rundir
from cifar_pl.runs.overrides import flat

CONF = Path(__file__).parents[2] / "conf"
FREE = {"trainer.devices"}  # a number, a list of them, or auto: Lightning looks at it
KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", list: "a list"}


@cache
def values() -> Mapping[str, list[Any]]:
    """Every key of every group, as people type it, with what the files give it; interpolations stay as they are."""
    found: dict[str, list[Any]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        prefix = "" if group == "." or path.read_text().startswith("# @package _global_") else f"{group}."
        node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        for key, value in flat(node).items() if node else ():
            found.setdefault(prefix + key, []).append(value)
    return found


def targets() -> set[str]:
    """Every `_target_` that the files name."""
    return {str(one) for key, found in values().items() if key.endswith("._target_") for one in found}


def of_run(directory: Path) -> DictConfig:
    """The config of the run in `directory`, as it is on disk.

    Raises:
        UserError: the file holds no mapping.
    """
    try:
        return OmegaConf.create(rundir.read_config(directory))
    except OmegaConfBaseException as error:
        raise UserError(f"{directory / rundir.CONFIG} cannot be read: {reason(error)}. It is damaged.") from error


def named(node: Any) -> set[str]:
    """Every `_target_` in a node of a config, as plain values."""
    return {str(value) for key, value in _leaves(node) if key == "_target_"}


def allow(node: Any, *targets: str) -> None:
    """Refuse a node of a config, as plain values, that would have anything else built than `targets`.

    Raises:
        UserError: it names something else.
    """
    others = named(node) - set(targets)
    require(
        not others,
        f"The run's {rundir.CONFIG} names {', '.join(sorted(others))}; it may only name {', '.join(targets)}.",
    )
    require_resolved(node)


def require_resolved(node: Any) -> None:
    """Raises UserError if a value in a node of a run's config is an interpolation: a run writes its config resolved."""
    for _, value in _leaves(node):
        require("${" not in str(value), f"The run's {rundir.CONFIG} has {value!r}, which is not for a run's config.")


def check(config: DictConfig) -> None:
    """Refuse values of another kind than the shipped ones: text for a number, one for a list, NaN, a value for parts.

    Where a shipped value is null, `auto` or an interpolation everything goes, and whoever reads it checks it.

    Raises:
        UserError: naming the key, its value and the kind.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for key, value in plain.items():
        _check(key, value)
    for group in ("aug", "callbacks", "logger"):
        for name, part in (plain.get(group) or {}).items():
            require(
                part is None or (isinstance(part, dict) and "_target_" in part),
                f"{group}.{name}={part}: it has no _target_, so nothing can be made of it. Take a {group}= that has "
                f"{name}, or leave it out.",
            )


def _check(key: str, value: Any) -> None:
    known = [] if key in FREE else values().get(key, [])
    if isinstance(value, dict) and (not known or {} in known):
        for name, inner in value.items():
            _check(f"{key}.{name}", inner)
    elif known:
        kind = KINDS.get(type(known[0]), "a mapping")
        require(any(_like(value, one) for one in known), f"{key}={value}: it must be {kind}, such as {known[0]}.")
    elif value is not None:
        part = next((name for name in values() if name.startswith(f"{key}.")), None)
        require(part is None, f"{key}={value}: it is made of parts, such as {part}.")


def _like(value: object, known: object) -> bool:
    if known is None or (isinstance(known, str) and (known == "auto" or "${" in known)):
        return True
    if isinstance(known, float):
        return isinstance(value, (int, float)) and type(value) is not bool and abs(value) <= sys.float_info.max
    if isinstance(known, list):
        return isinstance(value, list) and all(any(_like(v, _loose(one)) for one in known) for v in value)
    return type(value) is type(known)


def _loose(value: Any) -> Any:
    return float(value) if type(value) is int else value  # [-10, 10] degrees may be [-7.5, 7.5]


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for inner in node:
            yield from _leaves(node[inner], str(inner))
    elif isinstance(node, list):
        for inner in node:
            yield from _leaves(inner)
    else:
        yield key, node
