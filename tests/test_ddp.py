"""Two real processes on the CPU."""

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import TINY, Train


def test_two_processes_end_in_one_run_with_one_rate_and_a_gallery(train: Train, tmp_path: Path) -> None:
    result = train(
        *[override for override in TINY if override != "trainer=cpu"],
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "data.batch_size=64",
        "trainer.max_epochs=3",
        "+trainer.limit_train_batches=3",
        "optimizer.lr=0.02",
        "scheduler=plateau",
        "scheduler.patience=0",
        "scheduler.threshold=9",
        "callbacks.misclassified.number=2",
    )
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    with (run / "metrics.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.02, 0.02, 0.004])  # the second validation is no tenfold better than the first
    assert (run / "figures/misclassified.png").exists()
    assert (run / "report.html").exists()
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert json.loads((run / "summary.json").read_text())["protocol"]["images"]["test"] == 359
