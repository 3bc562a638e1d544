"""What the other tests see on CPUs, briefly on a GPU; skipped without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import saved
from cifar_pl.machine import hardware
from cifar_pl.runs import files, rundir
from tests.conftest import ROOT
from tests.test_guard import BARE

PACKAGES = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": os.environ["HIDDEN_GPUS"], "PYTHONPATH": PACKAGES}
if ENVIRONMENT["HIDDEN_GPUS"] == "all":
    del ENVIRONMENT["CUDA_VISIBLE_DEVICES"]
LEFT_OUT = ("trainer=cpu", "callbacks.dashboard=null")  # the dashboard keeps the predictions
TRAIN = ("train.py", *(o for o in BARE if o not in LEFT_OUT), "trainer=gpu", "data.num_workers=2")


def python(*arguments: str) -> str:
    """What Python says in a process that sees the GPUs, first on stdout."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def gpu() -> str:
    """Its name."""
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES")
        name = python("-c", ask).partition("\n")[0] if hardware.nvidia() else ""
    if not name:
        pytest.skip("no GPU that torch can use")
    return name


def test_a_run_goes_on_and_every_command_reads_it(tmp_path: Path, gpu: str) -> None:
    run, picture = tmp_path / "run", tmp_path / "seven.png"
    Image.new("RGB", (20, 24)).save(picture)
    begun = python(*TRAIN, "scheduler=constant", "data.start_share=0", "trainer.max_epochs=1", f"hydra.run.dir={run}")
    assert f" on {gpu}, " in begun
    python("train.py", f"resume={run}", "trainer.max_epochs=2")
    summary = files.read_json(run / "summary.json")
    assert (summary["epochs"], summary["hardware"]["accelerator"], summary["hardware"]["gpu"]) == (2, "cuda", gpu)
    assert str(picture) in python("-m", "cifar_pl.predict", str(run), str(picture))
    for command in (["explain", "--number", "2", "--layers", "layer1"], ["export"], ["verify"]):
        python("-m", f"cifar_pl.{command[0]}", str(run), *command[1:])
    here = saved.find(str(run))  # on the CPU, to which the GPU is hidden
    assert here.device.type == "cpu"
    kept = Predictions.load(run / rundir.PREDICTIONS["test"])
    again = here.logits(here.data().batch("test", 0, len(kept.label)).image)
    assert (again.argmax(1) == kept.logits.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("how", ["precision=fp16", "precision=float32", "compile=true"])
def test_every_way_to_compute_trains(tmp_path: Path, how: str) -> None:
    said = python(*TRAIN, how, "trainer.max_epochs=2", "lr_finder=range_test", f"hydra.run.dir={tmp_path}/run")
    assert "lr_scheduler.step" not in said  # fp16 leaves out steps until its scale fits
    assert "test accuracy" in said
