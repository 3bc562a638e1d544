"""`python train.py ...` as a person types it: mistakes, signals, resuming; real processes."""

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from cifar_pl.cli import command
from cifar_pl.cli.messages import explain
from cifar_pl.config import resume
from cifar_pl.errors import UserError
from cifar_pl.runs import rundir
from tests.conftest import LEAN, ROOT, TINY, Train

RUN = (*TINY, *LEAN, "trainer.max_epochs=5", "+trainer.limit_train_batches=4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scheduler=plato"], ["scheduler/plato", "Did you mean plateau?"]),
        (["schedular=plateau"], ["schedular", "Did you mean scheduler"]),
        (["optimizer.lrr=0.1"], ["lrr", "Did you mean optimizer.lr"]),
        (["trainer.max_epoch=3"], ["max_epoch", "trainer.max_epochs"]),
        (["aug.flip.prob=1"], ["prob", "aug.flip.p"]),
        (["~aug.flipp"], ["aug.flipp", "Did you mean aug.flip"]),
        (["lr_finder=range_test", "resume=latest"], ["latest", "there is no run"]),
        (["resume=nowhere"], ["nowhere", "no such directory"]),
        (["resume=latest"], ["latest", "there is no run"]),
        (["resume=."], [".: this is", "not a run directory"]),
        (["-m", "resume=latest"], ["leave out -m"]),
        (["optimizer.lr=[0.1"], ["optimizer.lr=[0.1"]),
    ],
)
def test_a_mistake_gets_one_message_and_leaves_nothing(
    train: Train, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    result = train(*arguments)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mistake_that_only_the_data_shows_is_told_too(train: Train, tmp_path: Path) -> None:
    result = train("data=image_folder", "data.root=nowhere")
    assert result.stderr.startswith("\nerror: data.root=")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "nowhere: there is no such folder" in result.stderr
    (status,) = tmp_path.glob("outputs/*/*/status.json")
    assert "nowhere: there is no such folder" in json.loads(status.read_text())["error"]


def test_full_errors_on_request(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "scheduler=plato"],
        cwd=tmp_path,
        env={**os.environ, "HYDRA_FULL_ERROR": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_a_name_that_the_terminal_cannot_write_is_escaped() -> None:
    script = "from cifar_pl.cli import command; command.script(lambda: print('\\u4e2d.png'))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}  # of Windows, into a file
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout == "\\u4e2d.png\n", result.stderr


def test_a_further_process_of_a_run_prints_one_message_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, str] = {}

    def fail() -> None:
        seen.update(os.environ)
        raise UserError("wrong")

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert command.run(fail) == 1
    with monkeypatch.context() as patch:
        for name in ("HYDRA_FULL_ERROR", "CIFAR_PL_FULL_ERROR"):
            patch.setenv(name, seen[name])  # Lightning hands its environment on
        assert command.run(fail) == 1
    assert capsys.readouterr().err.count("error: wrong") == 2
    assert not {"HYDRA_FULL_ERROR", "CIFAR_PL_FULL_ERROR"} & os.environ.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_interrupts_and_resume_latest_goes_on(
    train: Train, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *RUN]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                process.send_signal(number)
                break
        assert process.wait(60) == status
    (run,) = tmp_path.glob("outputs/*/*")
    assert json.loads((run / "status.json").read_text())["status"] == "interrupted"

    if number == signal.SIGINT:
        return
    refused = train("resume=latest", "optimizer.lr=0.5")
    assert refused.returncode == 1
    assert "Leave out optimizer.lr=0.5" in refused.stderr
    assert json.loads((run / "status.json").read_text())["status"] == "interrupted"  # a refusal changes nothing

    resumed = train("resume=latest")
    assert resumed.returncode == 0, resumed.stderr
    assert [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()] == ["epoch", *"12345"]
    assert json.loads((run / "summary.json").read_text())["overrides"] == list(RUN)
    assert "test accuracy" in resumed.stdout

    again = train("resume=latest")
    assert again.returncode == 1
    assert "is finished" in again.stderr

    before = (run / ".hydra/overrides.yaml").read_text()
    other = train(*RUN, "seed=1", f"hydra.run.dir={run}")
    assert other.returncode == 1
    assert f"{run} holds a run already" in other.stderr
    assert (run / ".hydra/overrides.yaml").read_text() == before


def test_a_resumed_run_takes_its_own_config_and_two_options(tmp_path: Path) -> None:
    run = tmp_path / "it's a run"
    run.mkdir()
    for name in ("config.yaml", "status.json"):
        (run / name).write_text("")
    quoted = str(run).replace("'", "\\'")
    expanded = resume.arguments([f"resume={run}", "trainer.max_epochs=9", "data.num_workers=1"])
    assert expanded == [
        "trainer.max_epochs=9",
        "data.num_workers=1",
        f"resume='{quoted}'",
        f"hydra.run.dir='{quoted}'",
        "hydra.output_subdir=null",
    ]
    assert resume.arguments([f"resume={run}", *expanded[2:]]) == [f"resume={run}", *expanded[2:]]
    assert resume.arguments(["optimizer.lr=1", "resume=null"]) == ["optimizer.lr=1", "resume=null"]
    for others in (["optimizer.lr=0.02"], ["lr_finder=range_test"], ["--cfg", "job"], ["hydra.run.dir=elsewhere"]):
        with pytest.raises(UserError, match=f"Leave out {' '.join(others)}"):
            resume.arguments([f"resume={run}", *others])
    with pytest.raises(UserError, match=r"Leave out optimizer\.lr=1"):
        resume.arguments([f"resume={run}", "hydra.output_subdir=null", "optimizer.lr=1"])


def test_a_sweep_is_resumed_without_what_could_run_a_program(tmp_path: Path) -> None:
    def typed(task: list[str], hydra: list[str]) -> list[str]:
        OmegaConf.save({"hydra": {"overrides": {"task": task, "hydra": hydra}}}, tmp_path / "multirun.yaml")
        return resume.arguments([f"sweep.resume={tmp_path}", "hydra.launcher.setup=[module load cuda]"])

    expanded = typed(["seed=0,1"], ["hydra.mode=MULTIRUN", "hydra/launcher=slurm", "hydra.launcher.setup=[rm]"])
    assert expanded[:4] == ["-m", "seed=0,1", "hydra/launcher=slurm", "hydra.launcher.setup=[module load cuda]"]
    for task, hydra in (
        ([], ["+hydra.callbacks.x={_target_: os.system}"]),
        ([], ["hydra.launcher.python=evil"]),
        (["model._target_=os.system"], []),
    ):
        with pytest.raises(UserError, match="could run any program"):
            typed(task, hydra)
    (tmp_path / "multirun.yaml").write_text("[1]")
    with pytest.raises(UserError, match="is damaged"):
        resume.arguments([f"sweep.resume={tmp_path}"])


def test_latest_is_the_newest_run_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(
        ["outputs/four", "outputs/2026-11-24/10-00-00-ab", "multirun/s/0-x", "multirun/d/t/0-x"]
    ):
        run = Path(name)
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("")
        assert run != (rundir.find_run("latest") if age else None)
        (run / "status.json").write_text("{}")
        os.utime(run / "status.json", (age, age))
        assert rundir.find_run("latest") == run
    os.utime("outputs/four/status.json", (9, 9))
    assert rundir.find_run("latest") == Path("outputs/four")


@pytest.mark.parametrize(("share", "of", "epochs"), [(0.7, 90, 63), (0.58, 50, 29), (0.25, 16, 4), (0.25, 3, 0)])
def test_a_share_is_rounded_down_and_not_by_what_binary_lacks(share: float, of: int, epochs: int) -> None:
    command.register_resolvers()
    assert OmegaConf.create({"x": f"${{share:{share},{of}}}"}).x == epochs


def test_a_launcher_that_is_not_installed_is_named_with_the_way_to_it() -> None:
    text = explain(MissingConfigException("In 'hydra/launcher/local': Could not find 'hydra/launcher/submitit_local'"))
    assert 'pip install -e ".[sweep]"' in text


def test_a_step_that_fp16_left_out_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with warnings.catch_warnings(record=True) as seen:
        for noisy in (True, False):
            if not noisy:
                command.quiet()
            torch.optim.lr_scheduler.ConstantLR(optimizer).step()  # and no optimizer.step() before it
            assert (len(seen) + len(caplog.records) > 0) == noisy
            seen.clear()
            caplog.clear()


@pytest.mark.parametrize(
    "noise",
    [
        "Grad strides do not match bucket view strides. This may indicate grad was not created",
        "The `srun` command is available on your system but is not used.",
        "GPU available but not used. You can set it by doing `Trainer(accelerator='gpu')`.",
    ],
)
def test_what_everybody_knows_is_no_warning(noise: str, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        logging.captureWarnings(False)  # so that it is captured anew, within this block
        command.quiet()
        for said in (noise, "something else"):
            warnings.warn(said, UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    (record,) = caplog.records
    assert "something else" in record.getMessage()
