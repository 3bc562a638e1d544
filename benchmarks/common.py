"""What the benchmarks share: a config, the head of a record, a table."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from cifar_pl import command, hardware, report, rundir

ROOT = Path(__file__).parents[1]


def config(overrides: Sequence[str]) -> DictConfig:
    """The config of `python train.py` with these overrides."""
    command.register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["run_dir=.", *overrides])


def head(module: str) -> dict[str, Any]:
    """Command, commit, versions and hardware, which every record begins with."""
    return {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        **report.provenance(),
        "hardware": hardware.describe(),
    }


def save(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write the record as JSON where a path is given."""
    if path is not None:
        rundir.write_json(path, record)
        print(f"\nwritten to {path}")


def median(values: Sequence[float]) -> float:
    """The median as a float."""
    return float(statistics.median(values))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
