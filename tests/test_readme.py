"""README and docs/: every command that trains does so, on few images and cut short; every link leads somewhere."""

import csv
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from benchmarks import results
from cifar_pl.cli import main
from cifar_pl.training import experiment
from tests.conftest import LEAN, ROOT, TINY, Ask, Train, copy_run

DOCUMENTS = {path: path.read_text() for path in results.DOCUMENTS}
OTHERS = {path: path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / ".github").glob("*.md"))}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [block for text in DOCUMENTS.values() for kind, block in FENCED.findall(text) if kind == "bash"]
LINES = list(dict.fromkeys(line for block in BLOCKS for line in block.splitlines()))  # each once
COMMANDS = [shlex.split(line)[2:] for line in LINES if line.startswith("python train.py")]
SHORT = ("trainer.max_epochs=1", "+trainer.limit_train_batches=2", "lr_finder.num_training=50")
FEW = "callbacks.misclassified.number=3"
RANGE_TESTED = ("experiment=demo", "experiment=genigarus")
SMALL_NETWORK = ("model._target_=tests.fuzzing.small", "whiten=false")
SMALL = (FEW, "data=image_folder", "data.val_size=8", "data.image_size=16", "data.batch_size=8", "trainer=cpu", *SHORT)


def shortened(command: list[str], *short: str) -> list[str]:
    """The command with the given overrides in place of its own of the same key."""
    keys = {override.split("=")[0] for override in short}
    return [override for override in command if override.split("=")[0] not in keys] + [
        override
        for override in short
        if not override.startswith("lr_finder.") or {"lr_finder=range_test", *RANGE_TESTED} & {*command}
    ]


def test_the_documents_train_sweep_and_resume() -> None:
    assert [] in COMMANDS
    assert any("-m" in command for command in COMMANDS)
    assert ["resume=latest"] in COMMANDS  # run by test_command.py


# test_command.py resumes, test_ddp.py has several processes, test_sweep.py resumes a sweep and has two runs at once,
# test_published.py trains by both protocols, test_budget.py plans.
ELSEWHERE = ("minutes=", "resume=", "trainer=ddp", "sweep.resume=", "hydra/launcher=local", "protocol=honest")
HERE = [command for command in COMMANDS if not any(o.startswith(ELSEWHERE) for o in command)]
# `data=image_folder` is how all of them get their images here.
SINGLE = [c for c in HERE if "-m" not in c and c != ["data=image_folder", "data.root=path/to/images"]]
SLURM = [command for command in HERE if "hydra/launcher=slurm" in command]
# The bare search is the one with a space of its own, but for the space; test_search.py has both.
SWEEPS = [c for c in HERE if "-m" in c and c not in SLURM and c != ["-m", "sweep=search"]]
MODULES = [line for line in LINES if line.startswith("python -m cifar_pl.")]
# Other launchers, and a loop of the shell, around train.py.
LAUNCHED = [line for line in LINES if line.startswith(("torchrun ", "sbatch ", "for seed in "))]
INSTALLED = {"tensorboard": "tensorboard", "optuna-dashboard": "optuna_dashboard", "pytest": "pytest"}


@pytest.mark.slow
@pytest.mark.parametrize("command", SINGLE, ids=" ".join)
def test_every_single_run_runs(command: list[str], config: Callable[..., DictConfig], tmp_path: Path) -> None:
    small = [*SMALL, *(SMALL_NETWORK if command else ())]  # the bare command trains ResNet18
    if "experiment=genigarus" in command:
        small[small.index("data.image_size=16")] = "data.image_size=32"  # it crops 28
    for n in range(64):
        image = tmp_path / "images" / ("train", "test")[n % 2] / ("cat", "dog")[n // 2 % 2] / f"{n}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), n, np.uint8)).save(image)
    experiment.run(config(*shortened(command, *small, f"data.root={tmp_path}/images"), run_dir=tmp_path / "run"))
    assert (tmp_path / "run/summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", SWEEPS, ids=" ".join)
def test_every_sweep_runs_and_no_directory_needs_quotes(command: list[str], train: Train, tmp_path: Path) -> None:
    """With the first value of each list, and two seeds or folds."""
    fewer = [
        re.sub(r"=(range.*|0,1.*)", "=0,1", override) if override.startswith(("seed=", "data.fold=")) else override
        for override in command
    ]
    if "sweep=search" in fewer:
        fewer = [*(o for o in fewer if not o.startswith("sweep.trials=")), "sweep.trials=2"]
    else:
        fewer = [o if o.endswith("=0,1") else o.partition(",")[0] for o in fewer]
    result = train(*shortened(fewer, *TINY, *LEAN, *SHORT, *SMALL_NETWORK))
    assert result.returncode == 0, result.stderr
    (sweep,) = tmp_path.glob("multirun/*/*/sweep.html")
    runs = [path.parent for path in sweep.parent.glob("*/summary.json")]
    assert len(runs) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", run.name) for run in runs)


@pytest.mark.parametrize("command", SLURM, ids=" ".join)
def test_every_sweep_for_slurm_asks_slurm_for_what_is_typed(command: list[str], train: Train) -> None:
    result = train(*(override for override in command if override.startswith("hydra")), "--cfg", "hydra")
    assert result.returncode == 0, result.stderr
    launcher = OmegaConf.create(result.stdout).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    for asked in (o.removeprefix("hydra.launcher.") for o in command if o.startswith("hydra.launcher.")):
        key, _, value = asked.partition("=")
        assert str(launcher[key]) == value


@pytest.mark.slow
@pytest.mark.parametrize("line", MODULES, ids=lambda line: line[19:])
def test_every_command_for_a_finished_run_runs(
    line: str, finished_run: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_run(finished_run, tmp_path / "outputs/day/run")
    (tmp_path / "holiday").mkdir()
    for name in ("photo.jpg", "holiday/one.png"):
        Image.fromarray(np.full((30, 40, 3), 100, np.uint8)).save(tmp_path / name)
    if "multirun" in line:
        copy_run(finished_run, tmp_path / "multirun/day/sweep/0-run")
    for run in re.findall(r"outputs/\w+", line):
        copy_run(finished_run, tmp_path / run)
    monkeypatch.chdir(tmp_path)
    with (finished_run / "misclassified.csv").open() as file:
        first = next(csv.DictReader(file))
    ours = {"cat": first["true"], "dog": first["predicted"], "layer3": "layer1", "layer4": "layer1"}
    _, _, module, *arguments = shlex.split(line)
    small = ["--layer", "layer1"] if "--cam" in arguments else []
    main = importlib.import_module(module).main
    arguments = [ours.get(a, a) for a in arguments if a != "layer2"]  # at 8 pixels only layer1 is large enough
    assert ask(main, *arguments, *small) == 0


@pytest.mark.parametrize("line", LAUNCHED, ids=lambda line: line.split()[0])
def test_what_another_program_starts_composes(line: str, config: Callable[..., DictConfig]) -> None:
    (arguments,) = re.findall(r"train\.py ([^\";]+)", line)
    overrides = shlex.split(arguments.replace("$seed", "0"))
    composed = config(*overrides)
    for key, _, value in (o.partition("=") for o in overrides if o.startswith("trainer.")):
        assert str(OmegaConf.select(composed, key)) == value


def test_every_other_command_is_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    checked = {*MODULES, *LAUNCHED, *(line for line in LINES if line.startswith("python train.py"))}
    for command in (part for line in LINES if line not in checked for part in line.split(" && ")):
        program, *arguments = shlex.split(command)
        if program == "pip":
            assert arguments[:2] == ["install", "-e"]
            assert {*re.findall(r"\w+", arguments[2])} <= extras.keys()
        elif program == "cifar-pl":
            assert arguments[0] in main.COMMANDS
        elif program in ("python", "."):
            assert command in ("python -m venv .venv", ". .venv/bin/activate")
        else:
            assert importlib.util.find_spec(INSTALLED[program])


def test_every_group_and_option_is_named() -> None:
    table = DOCUMENTS[ROOT / "docs/train.md"].partition("## What can be chosen")[2]
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert f"| `{path.parent.name}` |" in table
        assert f"`{path.stem}`" in table


def test_the_readme_is_short() -> None:
    assert 150 <= len(DOCUMENTS[ROOT / "README.md"].splitlines()) <= 200


@pytest.mark.parametrize("path", DOCUMENTS | OTHERS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = FENCED.sub("", (DOCUMENTS | OTHERS)[path])
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        file, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(path: Path) -> set[str]:
    """The headings of a document as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS | OTHERS, ids=lambda path: path.name)
def test_every_file_and_module_named_exists(path: Path) -> None:
    """`cifar_pl/...`, `conf/...`, `tests/...`, `benchmarks/...` and `python -m benchmarks....`, but for `<name>`."""
    text = (DOCUMENTS | OTHERS)[path]
    for name in re.findall(r"`((?:cifar_pl|conf|tests|benchmarks|hydra_plugins|docs)/[^`\s<>]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert importlib.util.find_spec(name), name


def test_the_tree_is_that_of_the_package() -> None:
    tree = re.search(
        r"^cifar_pl/\n(.*?)^hydra_plugins/", DOCUMENTS[ROOT / "docs/architecture.md"], re.DOTALL | re.MULTILINE
    )
    assert tree
    named = {*re.findall(r"[├└]── (?:\w+\.py )*?(\w+)/", tree[1])}
    folders = {p.parent.name for p in (ROOT / "cifar_pl").rglob("*/__init__.py")}
    assert named == folders
    files = {p.name for p in (ROOT / "cifar_pl").rglob("*.py")}
    assert {*re.findall(r"\w+\.py", tree[1])} <= files
