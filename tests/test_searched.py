"""What a search's study tells the page."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cifar_pl import report
from cifar_pl.reporting import comparison_figures
from cifar_pl.runs import rundir
from cifar_pl.sweeps import searched
from tests.conftest import Ask, Make

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from cifar_pl.sweeps import study

SPACE = {"optimizer.lr": FloatDistribution(0.01, 1, log=True), "scheduler": CategoricalDistribution(["a", "$b$"])}


def search(directory: Path, number: int, value: Callable[[float], float], monitor: str = "val/acc") -> None:
    """A study in which the rate alone decides."""
    made = study.load(directory / rundir.STUDY, monitor)
    made.set_user_attr("fixed", {"monitor": monitor})
    rng = np.random.default_rng(0)
    for n in range(number):
        params = {"optimizer.lr": float(10 ** rng.uniform(-2, 0)), "scheduler": ["a", "$b$"][n % 2]}
        result = value(np.log10(params["optimizer.lr"]))
        made.add_trial(create_trial(params=params, distributions=SPACE, value=result))
    made.add_trial(create_trial(params=params, distributions=SPACE, state=TrialState.PRUNED))


def test_the_parameter_that_decides_is_the_important_one(tmp_path: Path) -> None:
    search(tmp_path, searched.ENOUGH, lambda lr: 0.9 + lr / 100)
    found = searched.read(tmp_path)
    assert found is not None
    assert len(found.rows) == searched.ENOUGH  # without the pruned one
    assert list(found.rows[0]) == ["optimizer.lr", "scheduler", "val/acc"]
    assert (found.log, found.better) == ({"optimizer.lr"}, "max")
    assert list(found.importance) == ["optimizer.lr", "scheduler"]
    assert sum(found.importance.values()) == pytest.approx(1)
    assert found.importance["optimizer.lr"] > 0.8
    assert found == searched.read(tmp_path)


def test_few_trials_have_no_importance_and_no_trials_no_section(tmp_path: Path) -> None:
    assert searched.read(tmp_path) is None
    search(tmp_path, 3, lambda lr: lr, "val/loss")
    found = searched.read(tmp_path)
    assert found is not None
    assert (found.importance, found.better) == ({}, "min")
    (tmp_path / "new").mkdir()
    study.load(tmp_path / "new" / rundir.STUDY, "val/acc")
    assert searched.read(tmp_path / "new") is None


def test_equally_good_trials_have_no_importance_but_are_shown(tmp_path: Path) -> None:
    search(tmp_path, searched.ENOUGH, lambda lr: 0.9)
    found = searched.read(tmp_path)
    assert found is not None
    assert (found.importance, len(found.rows)) == ({}, searched.ENOUGH)


def test_a_damaged_study_is_left_out_and_the_page_is_made(
    make: Make, tmp_path: Path, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    make("0-a", val=0.9)
    (tmp_path / rundir.STUDY).write_bytes(b"no database" * 100)
    assert ask(report.main, tmp_path) == 0
    assert "study.db is left out" in caplog.text
    assert "What the search found" not in (tmp_path / "sweep.html").read_text()


def test_the_page_of_a_search_has_its_parameters(make: Make, tmp_path: Path, ask: Ask) -> None:
    for n in range(2):
        make(f"{n}-a", f"optimizer.lr={0.1 + n}", val=0.9)
    search(tmp_path, searched.ENOUGH, lambda lr: 0.9 + lr / 100)
    assert ask(report.main, tmp_path) == 0
    text = (tmp_path / "sweep.html").read_text()
    assert f"{searched.ENOUGH} finished trials" in text
    assert "importance" in text


@pytest.mark.parametrize(("better", "highest"), [("max", [0.0, 0.5, 1.0]), ("min", [1.0, 0.5, 0.0])])
def test_parallel_coordinates_are_scaled_and_the_best_is_brightest(better: str, highest: list[float]) -> None:
    rows = [
        {"lr": 10.0**-n, "kind": k, "acc": acc} for n, (k, acc) in enumerate((("$x$", 0.1), ("y", 0.2), ("z", 0.3)))
    ]
    figure = comparison_figures.parallel(rows, {"lr"}, better)
    lines = [line for line in figure.axes[0].lines if len(line.get_ydata()) == 3]
    found = sorted((line.get_ydata().tolist() for line in lines), reverse=True)
    assert found == [pytest.approx(want) for want in ([1, 0, 0], [0.5, 0.5, 0.5], [0, 1, 1])]
    assert [line.get_ydata()[2] for line in lines] == pytest.approx(highest)  # the best is drawn last, on top
