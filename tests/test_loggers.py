"""The loggers that ask no network, run and read back."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from wandb.proto import wandb_internal_pb2

from benchmarks.common import TINY
from cifar_pl.runs.summary import read_metrics
from tests.conftest import LEAN, Train

RUN = (*TINY, *(option for option in LEAN if option != "logger=none"), "trainer.max_epochs=2", "hydra.run.dir=run")
BLOCK, HEAD = 32768, 7


def accuracies(directory: Path) -> list[float]:
    return [row["val/acc"] for row in read_metrics(directory / "run/metrics.csv")]


@pytest.mark.slow
def test_mlflow_has_the_last_epochs_figures(train: Train, tmp_path: Path) -> None:
    result = train(*RUN, "logger=mlflow")
    assert result.returncode == 0, result.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'cifar-pl'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["val/acc"] == pytest.approx(accuracies(tmp_path)[-1])
    assert run.info.status == "FINISHED"


def records(path: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after a header of seven bytes."""
    content, place, record = path.read_bytes(), HEAD, b""
    while place + HEAD <= len(content):
        if (left := BLOCK - place % BLOCK) < HEAD:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_has_every_epochs_figures_offline(train: Train, tmp_path: Path) -> None:
    result = train(*RUN, "logger=wandb", "logger.wandb.offline=true")
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    found = []
    for content in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        found += [json.loads(i.value_json) for i in record.history.item if "val/acc" in (i.key, *i.nested_key)]
    assert found == pytest.approx(accuracies(tmp_path))
