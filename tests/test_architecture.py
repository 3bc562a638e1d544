"""Folders import downwards only, none in a circle, and Hydra stops at the door: directly and through others."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cifar_pl"

FLOORS = (
    {"errors"},
    {"machine"},
    {"runs", "evaluation", "models"},
    {"data"},
    {"config"},
    {"inference", "cli"},
    {"reporting"},
    {"training", "sweeps"},
    {"predict", "explain", "verify", "export", "report", "doctor", "api"},  # the doors
)
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
HYDRA = {"hydra", "omegaconf"}
HYDRA_FOLDERS = {"config", "cli", "sweeps"}
CONDUCTORS = {"training.experiment", "training.budget", *FLOORS[-1]}


def name_of(path: Path) -> str:
    """cifar_pl/data/split.py is data.split."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too; ours without `cifar_pl.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name.removeprefix("cifar_pl.") for name in found}


IMPORTS = {name: imports(path) for name, path in MODULES.items()}
OURS = {name: {other for other in found if other in MODULES and other != name} for name, found in IMPORTS.items()}


def through_others(name: str) -> set[str]:
    """Every module of ours that importing this one imports; itself, if there is a circle."""
    seen, left = set[str](), OURS[name]
    while left:
        seen |= left
        left = {other for module in left for other in OURS[module]} - seen
    return seen


@pytest.mark.parametrize("name", MODULES)
def test_folders_import_downwards(name: str) -> None:
    folder = name.partition(".")[0]
    others = {other.partition(".")[0] for other in OURS[name]} - {folder}
    assert not {other for other in others if FLOOR[other] >= FLOOR[folder]}


@pytest.mark.parametrize("name", MODULES)
def test_there_is_no_circle(name: str) -> None:
    assert name not in through_others(name)


@pytest.mark.parametrize("name", [n for n in MODULES if n.split(".")[0] not in HYDRA_FOLDERS and n not in CONDUCTORS])
def test_hydra_stops_at_the_door(name: str) -> None:
    reached = {name, *through_others(name)}
    assert not {module for module in reached if HYDRA & {part.partition(".")[0] for part in IMPORTS[module]}}


@pytest.mark.parametrize("path", sorted((PACKAGE / "reporting/templates").iterdir()), ids=lambda path: path.name)
def test_templates_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (250 if path.suffix == ".js" else 200)


def test_folders_are_small() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= (8 if folder == PACKAGE else 10), folder
