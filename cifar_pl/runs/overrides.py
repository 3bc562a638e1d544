"""Overrides as people type them, `key=value`; shares, and nested configs as flat ones."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_pl.errors import CLONED

TRAIN = "python train.py" if CLONED else "cifar-pl train"  # what to type


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.partition("=")[0].lstrip("+~")


def merged(old: list[str], new: list[str]) -> list[str]:
    """Both, but of each key only the last override."""
    return list({key_of(a): a for a in [*old, *new]}.values())


def share(part: float, of: int) -> int:
    """`${share:part,of}` of a config: that part of a number, rounded down; 0.7 of 90, 62.99... in binary, is 63."""
    return math.floor(part * of + 1e-9)


def scaled(rate: float, batch_size: int) -> float:
    """`${scaled:rate,batch_size}` of a config: a rate for steps of 128 images, for others in proportion.

    Goyal et al. (2017, arXiv 1706.02677), section 2.1.
    """
    return rate * batch_size / 128


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists stay as they are."""
    if isinstance(node, Mapping) and node:
        return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}


def quoted(path: Path) -> str:
    """A path as a value of Hydra's override grammar."""
    # Backslashes escape only before a quote and at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), str(path)) + "'"
