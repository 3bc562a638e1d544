"""What configs may hold: every key of the shipped ones with the kind of value that it takes, and every target."""

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cifar_pl.config.place import CONF
from cifar_pl.errors import require
from cifar_pl.runs import files, rundir
from cifar_pl.runs.overrides import flat

FREE = {"trainer.devices"}  # a number, a list of them, or auto: Lightning checks it
KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", list: "a list"}


@cache
def values() -> Mapping[str, list[Any]]:
    """Every key of every group, as people type it, with its values in the files; interpolations are not resolved."""
    shipped: dict[str, list[Any]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        prefix = "" if group == "." or path.read_text().startswith("# @package _global_") else f"{group}."
        node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        for key, value in flat(node).items() if node else ():
            shipped.setdefault(prefix + key, []).append(value)
    return shipped


def targets() -> set[str]:
    """Every `_target_` that the files name."""
    return {str(value) for key, shipped in values().items() if key.endswith("._target_") for value in shipped}


def of_run(directory: Path) -> DictConfig:
    """The config of the run in `directory`, as it is on disk."""
    config = rundir.read_config(directory)
    with files.reading(directory / rundir.CONFIG):
        return OmegaConf.create(config)


def allow(node: Any, *targets: str, hint: str = "") -> None:
    """Refuse a node of a run's config that names another `_target_` than these, or holds an interpolation.

    A run may come from somebody else, and its config is resolved when it is written.
    """
    leaves = list(_leaves(OmegaConf.to_container(node) if OmegaConf.is_config(node) else node))
    others = {str(value) for key, value in leaves if key == "_target_"} - set(targets)
    require(
        not others,
        f"The run's {rundir.CONFIG} names {', '.join(sorted(others))}, which could run any program.{hint}",
    )
    for _, value in leaves:
        require("${" not in str(value), f"The run's {rundir.CONFIG} has {value!r}, which is not for a run's config.")


def check(config: DictConfig) -> None:
    """Refuse values of another kind than the shipped ones: text for a number, a number for a list, NaN, ...

    If the shipped value is null, `auto` or an interpolation, any value is accepted, and its consumer checks it.
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
    shipped = [] if key in FREE else values().get(key, [])
    shipped = [one for one in shipped if "${" not in str(one)] or shipped
    if isinstance(value, dict) and (not shipped or {} in shipped):
        for name, inner in value.items():
            _check(f"{key}.{name}", inner)
    elif shipped:
        kind = KINDS.get(type(shipped[0]), "a mapping")
        require(any(_like(value, one) for one in shipped), f"{key}={value}: it must be {kind}, such as {shipped[0]}.")
    elif value is not None:
        part = next((name for name in values() if name.startswith(f"{key}.")), None)
        require(part is None, f"{key}={value}: it is made of parts, such as {part}.")


def _like(value: object, shipped: object) -> bool:
    if shipped is None or (isinstance(shipped, str) and (shipped == "auto" or "${" in shipped)):
        return True
    if isinstance(shipped, float):
        return isinstance(value, (int, float)) and type(value) is not bool and abs(value) <= sys.float_info.max
    if isinstance(shipped, list):  # [-10, 10] degrees may be [-7.5, 7.5]
        kinds = [float(one) if type(one) is int else one for one in shipped]
        return isinstance(value, list) and all(any(_like(item, kind) for kind in kinds) for item in value)
    return type(value) is type(shipped)


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in mappings and lists, with the name of its key."""
    if isinstance(node, (dict, list)):
        for name, inner in node.items() if isinstance(node, dict) else ((key, inner) for inner in node):
            yield from _leaves(inner, str(name))
    else:
        yield key, node
