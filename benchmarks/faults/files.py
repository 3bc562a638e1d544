"""Whether the files of a run are complete, and whether two runs are equal."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from cifar_pl.runs import files, rundir

EXACT = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr")


def damaged(run: Path) -> list[str]:
    """The incomplete files of a run directory, except those that are being written, and growing logs."""
    errors = []
    for path in sorted(p for p in run.rglob("*") if p.is_file() and not p.name.endswith(files.PART)):
        try:
            _read(path)
        except Exception as error:  # noqa: BLE001 - each reader has its own
            errors.append(f"{path.name}: {error!r}")
    return errors


def _read(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".ckpt":
        torch.load(path, weights_only=True)["state_dict"]
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            [arrays[name] for name in arrays]
    elif path.suffix == ".png":
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    elif path.suffix == ".csv":
        text = path.read_text()
        assert text.endswith("\n")
        assert len({len(row) for row in csv.reader(text.splitlines())}) == 1
    elif path.suffix == ".yaml":
        OmegaConf.load(path)
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")


def same(run: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits: weights, metrics and rates of every epoch, first steps, the test."""
    weights, other_weights = (torch.load(r / rundir.LAST, weights_only=True)["state_dict"] for r in (run, other))
    return _results(run) == _results(other) and all(torch.equal(v, other_weights[name]) for name, v in weights.items())


def _results(run: Path) -> tuple[object, ...]:
    rows = csv.DictReader((run / rundir.METRICS).read_text().splitlines())
    return (
        [[row[key] for key in EXACT] for row in rows],
        files.read_json(run / rundir.SUMMARY)["test"],
        files.read_json(run / rundir.FIRST_STEPS)["losses"],
    )
