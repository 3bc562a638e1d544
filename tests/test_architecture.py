"""Imports point down, and Hydra stops at the door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from lower levels only.
LEVELS = (
    {"errors"},
    {"monitors", "rundir", "sources", "hardware", "processes", "slurm"},
    {"sources.download", "augment", "network", "schedulers", "gradcam", "figures", "summary", "lr_finder", "shipped"},
    {"predictions", "resume", "sources.cache"},
    {"calibration", "compare", "gallery"},
    {"page"},
    {"sources.digits", "sources.cifar10", "sources.image_folder", "batches", "build", "checkpoints", "command"},
    {"datamodule", "pictures", "report", "slots"},
    {"sweep"},
    {"search"},
    {"classifier"},
    {"callbacks.epoch_log", "callbacks.progress", "callbacks.first_steps", "callbacks.last"},
    {"callbacks.dashboard"},
    {"callbacks.guard", "callbacks.misclassified", "callbacks.prune"},
    {"callbacks"},
    {"rate"},
    {"saved"},
    {"experiment", "explain", "predict", "export"},
    {"verify"},
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
MAY_KNOW_HYDRA = {"build", "command", "compare", "experiment", "rate", "resume", "saved", "search", "shipped", "slots"}
MAY_KNOW_HYDRA |= {"sweep", "verify"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "cifar_pl").with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too; `from a import b` counts as a.b and a."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


FILES = [p for p in sorted((ROOT / "cifar_pl").rglob("*.py")) if p != ROOT / "cifar_pl/__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    own = LEVEL[module_name(path)]
    ours = {name.removeprefix("cifar_pl.") for name in imports(path) if name.startswith("cifar_pl.")}
    upward = {name for name in ours if name in LEVEL and LEVEL[name] >= own}
    assert not upward


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_hydra_stops_at_the_door(path: Path) -> None:
    knows = any(name.split(".")[0] in ("hydra", "omegaconf") for name in imports(path))
    assert not knows or module_name(path) in MAY_KNOW_HYDRA
