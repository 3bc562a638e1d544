"""Every command of the README that trains does so, on few images and cut short."""

import csv
import importlib
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from cifar_pl.training import experiment
from tests.conftest import LEAN, ROOT, TINY, Ask, Train

README = (ROOT / "README.md").read_text()
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [shlex.split(line)[2:] for line in LINES if line.startswith("python train.py")]
SHORT = ("trainer.max_epochs=1", "+trainer.limit_train_batches=2", "lr_finder.num_training=50")
FEW = "callbacks.misclassified.number=3"
RANGE_TESTED = ("experiment=demo", "experiment=genigarus")
SMALL = (FEW, "data=image_folder", "data.val_size=8", "data.image_size=16", "data.batch_size=8", "trainer=cpu", *SHORT)


def shortened(command: list[str], *short: str) -> list[str]:
    """The command with the given overrides in place of its own of the same key."""
    keys = {override.split("=")[0] for override in short}
    return [override for override in command if override.split("=")[0] not in keys] + [
        override
        for override in short
        if not override.startswith("lr_finder.") or {"lr_finder=range_test", *RANGE_TESTED} & {*command}
    ]


def test_the_readme_trains_sweeps_and_resumes() -> None:
    assert [] in COMMANDS
    assert any("-m" in command for command in COMMANDS)
    assert ["resume=latest"] in COMMANDS  # run by test_command.py


# test_command.py resumes, test_ddp.py is several processes, test_sweep.py goes on with a sweep and has two at once,
# test_published.py trains by both protocols.
ELSEWHERE = ("resume=", "trainer=ddp", "sweep.resume=", "hydra/launcher=local", "protocol=honest")
HERE = [command for command in COMMANDS if not any(o.startswith(ELSEWHERE) for o in command)]
SINGLE = [command for command in HERE if "-m" not in command]
SLURM = [command for command in HERE if "hydra/launcher=slurm" in command]
# The bare search is the one with a space of its own, but for the space; test_search.py has both.
SWEEPS = [c for c in HERE if "-m" in c and c not in SLURM and c != ["-m", "sweep=search"]]


@pytest.mark.parametrize("command", SINGLE, ids=" ".join)
def test_every_single_run_runs(command: list[str], config: Callable[..., DictConfig], tmp_path: Path) -> None:
    small = list(SMALL)
    if "experiment=genigarus" in command:
        small[small.index("data.image_size=16")] = "data.image_size=32"  # it crops 28
    for n in range(64):
        image = tmp_path / "images" / ("train", "test")[n % 2] / ("cat", "dog")[n // 2 % 2] / f"{n}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), n, np.uint8)).save(image)
    experiment.run(config(*shortened(command, *small, f"data.root={tmp_path}/images"), run_dir=tmp_path / "run"))
    assert (tmp_path / "run/summary.json").exists()


@pytest.mark.parametrize("command", SWEEPS, ids=" ".join)
def test_every_sweep_runs_and_no_directory_needs_quotes(command: list[str], train: Train, tmp_path: Path) -> None:
    """Of each list the first value, of seeds and folds two."""
    fewer = [
        re.sub(r"=(range.*|0,1.*)", "=0,1", override) if override.startswith(("seed=", "data.fold=")) else override
        for override in command
    ]
    if "sweep=search" in fewer:
        fewer = [*(o for o in fewer if not o.startswith("sweep.trials=")), "sweep.trials=2"]
    else:
        fewer = [o if o.endswith("=0,1") else o.partition(",")[0] for o in fewer]
    result = train(*shortened(fewer, *TINY, *LEAN, *SHORT))
    assert result.returncode == 0, result.stderr
    (sweep,) = tmp_path.glob("multirun/*/*/sweep.html")
    runs = [path.parent for path in sweep.parent.glob("*/summary.json")]
    assert len(runs) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", run.name) for run in runs)


@pytest.mark.parametrize("command", SLURM, ids=" ".join)
def test_every_sweep_for_slurm_says_what_slurm_is_asked_for(command: list[str], train: Train) -> None:
    result = train(*(override for override in command if override.startswith("hydra")), "--cfg", "hydra")
    assert result.returncode == 0, result.stderr
    launcher = OmegaConf.create(result.stdout).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    for asked in (o.removeprefix("hydra.launcher.") for o in command if o.startswith("hydra.launcher.")):
        key, _, value = asked.partition("=")
        assert str(launcher[key]) == value


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.startswith("python -m cifar_pl.")], ids=lambda line: line[19:]
)
def test_every_command_for_a_finished_run_runs(
    line: str, finished_run: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, tmp_path / "outputs/day/run")
    (tmp_path / "holiday").mkdir()
    for name in ("photo.jpg", "holiday/one.png"):
        Image.fromarray(np.full((30, 40, 3), 100, np.uint8)).save(tmp_path / name)
    if "multirun" in line:
        shutil.copytree(finished_run, tmp_path / "multirun/day/sweep/0-run")
    monkeypatch.chdir(tmp_path)
    with (finished_run / "misclassified.csv").open() as file:
        first = next(csv.DictReader(file))
    ours = {"cat": first["true"], "dog": first["predicted"], "layer3": "layer1", "layer4": "layer1"}
    _, _, module, *arguments = shlex.split(line)
    small = ["--layer", "layer1"] if "--cam" in arguments else []
    main = importlib.import_module(module).main
    arguments = [ours.get(a, a) for a in arguments if a != "layer2"]  # at 8 pixels only layer1 is large enough
    assert ask(main, *arguments, *small) == 0


def test_the_readme_names_every_group_and_option() -> None:
    table = README[README.index("## What can be chosen") : README.index("## What a run leaves")]
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert f"| `{path.parent.name}` |" in table
        assert f"`{path.stem}`" in table
