"""What the benchmarks share: a config, the head of a record, a table."""

import argparse
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from cifar_pl.cli import command
from cifar_pl.data.images import Images
from cifar_pl.machine import hardware
from cifar_pl.runs import files, summary
from cifar_pl.runs.monitors import TEST_SELECTED

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
# ResNet18 on 8x8 images: the real path in a tenth of a second per step. The gallery
# explains layer1, whose maps have 8x8 pixels.
TINY = (
    "data=digits",
    "data.image_size=8",
    "data.batch_size=32",
    "aug=affine",
    "trainer=cpu",
    "callbacks.misclassified.layers=[layer1]",
)
RED = rf"$\color{{red}}\textsf{{{TEST_SELECTED}}}$"  # in GitHub's Markdown


def config(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of `python train.py` with these overrides."""
    command.register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["run_dir=.", *overrides])


def head(module: str, accelerator: str = "cpu") -> dict[str, Any]:
    """The first keys of every record: command, commit, versions and hardware; `accelerator` is the device used."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        **summary.provenance(),
        "hardware": {**hardware.describe(), "accelerator": accelerator},
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """A benchmark's arguments begin with `--out`; `description` is its docstring."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, help="write the record here")
    return arguments


def save(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write the record as JSON if a path is given."""
    if path is not None:
        files.write_json(path, record)
        print(f"\nwritten to {path}")


def median(values: Sequence[float]) -> float:
    """The median as a float."""
    return float(statistics.median(values))


def write_images(folder: Path, images: Images, classes: Sequence[str]) -> None:
    """Write images as PNG files into a folder for each class, named by their index."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        Image.fromarray(pixels).save(folder / classes[label] / f"{index:06}.png")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine(record: dict[str, Any]) -> str:
    """Processor, or GPU, in a few words."""
    return hardware.named(record["hardware"])


def foot(record: dict[str, Any]) -> str:
    """Where a table's figures come from."""
    commit, versions = str((record.get("git") or {}).get("commit"))[:7], record["versions"]
    return f"`{record['command']}`, commit {commit}, {machine(record)}, torch {versions['torch']}."


def accuracy_records() -> list[dict[str, Any]]:
    """The records of training runs, the shortest first."""
    records = [r for r in map(files.read_json, RESULTS.glob("*.json")) if r["benchmark"] == "accuracy"]
    return sorted(records, key=lambda r: (r["epochs"], r["command"]))
