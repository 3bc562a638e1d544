"""Two real processes on the CPU."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer

from benchmarks import faults
from cifar_pl.config.build import build
from cifar_pl.data.batches import Batch
from cifar_pl.errors import UserError
from cifar_pl.evaluation.features import Explored
from cifar_pl.runs import rundir
from cifar_pl.training.classifier import Classifier
from tests.conftest import LEAN, RANGE_TEST, ROOT, TINY, Train

DDP = (*(override for override in TINY if override != "trainer=cpu"), "trainer=ddp", "trainer.accelerator=cpu")


class Probe(Callback):
    """Writes what one process sees into `rank<n>.json`."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir, self._facts = Path(run_dir), {"epochs": [], "evaluated": {}, "predictions": {}}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        self._facts["epochs"].append([])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Classifier, outputs: Any, batch: Batch, *_: Any) -> None:  # type: ignore[override]
        self._facts["epochs"][-1].append(batch.index.tolist())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        self._facts["evaluated"]["val"] = self._count(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        self._facts["evaluated"]["test"] = self._count(pl_module, "test")

    def _count(self, pl_module: Classifier, split: str) -> int:
        """The images that a metric of this process alone has counted."""
        return int(pl_module.metrics[f"{split}/acc"].count)

    def on_fit_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        weights = b"".join(value.numpy().tobytes() for value in pl_module.state_dict().values())
        self._facts |= {
            "weights": hashlib.sha256(weights).hexdigest(),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }

    def on_test_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        for split, said in pl_module.predictions.items():
            self._facts["predictions"][split] = said.index.tolist()
        (self._run_dir / f"rank{trainer.global_rank}.json").write_text(json.dumps(self._facts))


@pytest.mark.slow
def test_two_processes_are_one_run(train: Train, config: Callable[..., DictConfig], tmp_path: Path) -> None:
    images = (
        "data.batch_size=128",
        "data.val_size=129",
    )  # shares of 65 and 64: two batches and one, and nobody may wait for the other
    result = train(
        *DDP,
        *images,
        "trainer.max_epochs=5",
        "optimizer.lr=0.02",
        "scheduler=plateau",
        "scheduler.patience=0",
        "scheduler.threshold=9",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
        "+callbacks.early_stopping.min_delta=9",
        "+callbacks.probe={_target_: tests.test_ddp.Probe, run_dir: '${run_dir}'}",
        "callbacks.misclassified.number=2",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 processes, 64 images each per step") == 1
    (run,) = tmp_path.glob("outputs/*/*")
    with (run / "metrics.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    # The second validation is no tenfold better than the first: the rate drops. The third is neither: it stops.
    assert rates == pytest.approx([0.02, 0.02, 0.004])
    assert (run / "figures/misclassified.png").exists()
    assert (run / "report.html").exists()
    seen = Explored.load(run / "explored.npz").neighbours  # of all images, not of one process' share
    assert {split: len(of.index) for split, of in seen.items()} == {"test": 359, "val": 129}
    assert json.loads((run / "status.json").read_text())["status"] == "finished"

    one, other = (json.loads((run / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one["weights"] == other["weights"]
    assert one["lr"] == other["lr"] == pytest.approx(0.0008)
    data = build(config(*DDP, *images).datamodule)
    data.load()
    alone = data.train_dataloader()
    assert len(one["epochs"]) == len(other["epochs"]) == 3
    for epoch, (first, second) in enumerate(zip(one["epochs"], other["epochs"], strict=True)):
        alone.sampler.set_epoch(epoch)
        for batch, mine, yours in zip(alone, first, second, strict=True):
            assert len(mine) == len(yours) == 64
            assert sorted(mine + yours) == sorted(batch.index.tolist())

    val = np.sort(np.concatenate([batch.index for batch in data.val_dataloader()])).tolist()
    assert (one["evaluated"], other["evaluated"]) == ({"val": 65, "test": 180}, {"val": 64, "test": 179})
    assert one["predictions"] == other["predictions"] == {"val": val, "test": list(range(359))}
    summary = json.loads((run / "summary.json").read_text())
    with np.load(run / "predictions.npz") as said:
        assert said["index"].tolist() == list(range(359))
        assert summary["test"]["acc"] == pytest.approx((said["logits"].argmax(1) == said["label"]).mean())
        loss = F.cross_entropy(*(torch.from_numpy(said[name]) for name in ("logits", "label")))
    assert summary["test"]["loss"] == pytest.approx(loss.item(), rel=1e-5)


class Broadcasts(Callback):
    """Writes how many broadcasts Python made in the training steps of one process."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir, self._number = Path(run_dir), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        self._original = torch.distributed.broadcast

        def counted(*arguments: Any, **options: Any) -> Any:
            self._number += 1
            return self._original(*arguments, **options)

        torch.distributed.broadcast = counted

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 60:
            torch.distributed.broadcast = self._original
            (self._run_dir / f"broadcasts{trainer.global_rank}").write_text(str(self._number))


@pytest.mark.slow
def test_processes_do_not_wait_for_each_other_to_hear_of_a_signal(train: Train, tmp_path: Path) -> None:
    count = "+callbacks.count={_target_: tests.test_ddp.Broadcasts, run_dir: '${run_dir}'}"
    steps = ("data.batch_size=16", "+trainer.limit_train_batches=60", "trainer.max_epochs=1")
    result = train(*DDP, *LEAN, *steps, count, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    counts = [int((tmp_path / f"run/broadcasts{rank}").read_text()) for rank in (0, 1)]
    assert max(counts) <= 2  # Lightning makes 60


def nobody_is_left(session: int) -> None:
    end = time.monotonic() + 30
    while left := faults.session(session):
        assert time.monotonic() < end, left
        time.sleep(0.2)


@pytest.mark.slow
def test_sigterm_ends_both_processes_and_the_run_goes_on(train: Train, tmp_path: Path) -> None:
    """Where Lightning broadcasts from its handler, it hangs at most moments."""
    run = ("trainer.max_epochs=4", "+trainer.limit_train_batches=3", "hydra.run.dir=run")
    process = faults.begin(tmp_path, *DDP, *LEAN, *run)
    assert process.stdout is not None
    assert any(said.startswith("epoch 2/") for said in process.stdout), (tmp_path / "stderr").read_text()
    process.terminate()
    threading.Thread(target=process.stdout.read, daemon=True).start()
    assert process.wait(60) == 128 + signal.SIGTERM
    nobody_is_left(process.pid)
    assert rundir.state(tmp_path / "run")["status"] == "interrupted"
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    result = train("resume=run")
    assert result.returncode == 0, result.stderr
    assert [row.partition(",")[0] for row in (tmp_path / "run/metrics.csv").read_text().splitlines()[1:]] == [*"1234"]


class Stuck(Callback):
    """Stops the first process with an error while the other waits, as those of GPUs would for it."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank:
            time.sleep(600)
        raise UserError("the first process went wrong")


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_the_others(tmp_path: Path) -> None:
    stuck = "+callbacks.stuck._target_=tests.test_ddp.Stuck"
    process = faults.begin(tmp_path, *DDP, *LEAN, stuck, "hydra.run.dir=run")
    process.communicate(timeout=240)
    errors = (tmp_path / "stderr").read_text()
    assert process.returncode == 1, errors
    assert errors.count("error: the first process went wrong") == 1
    nobody_is_left(process.pid)


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "train.py"))
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_torchrun_makes_one_run_in_one_directory(tmp_path: Path) -> None:
    bare = (*LEAN, "+trainer.limit_train_batches=9", "data.val_size=0", "trainer.max_epochs=1", "tta=flip")
    result = torchrun(*DDP, *RANGE_TEST, *bare, "hydra.run.dir=outputs/NAME", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "outputs/NAME"
    assert [*tmp_path.iterdir(), *tmp_path.glob("outputs/*")] == [tmp_path / "outputs", run]
    assert (run / ".hydra/overrides.yaml").exists()
    for said in (result.stdout, (run / "train.log").read_text()):
        for line in ("Images: 1438 to train on", "Range test: ", "Rate ", "2 processes, 16 images", "epoch 1/1 |"):
            assert said.count(line) == 1
    summary = json.loads((run / "summary.json").read_text())
    assert summary["lr"]["value"] == json.loads((run / "lr_finder.json").read_text())["lr"]
    assert {"acc", "acc_tta"} <= summary["test"].keys()


@pytest.mark.slow
def test_torchrun_without_a_directory_is_refused(tmp_path: Path) -> None:
    result = torchrun(*DDP, cwd=tmp_path)
    assert result.returncode != 0
    lines = {line for line in result.stderr.splitlines() if line.startswith("error:")}  # both processes say it
    assert len(lines) == 1
    assert "2 processes were started" in lines.pop()
    assert "hydra.run.dir=outputs/NAME" in result.stderr
    assert not list(tmp_path.iterdir())
