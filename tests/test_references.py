import math
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmarks import published, references
from cifar_pl.runs import files
from cifar_pl.training import lr_finder
from cifar_pl.training.callbacks.epoch_log import COLUMNS
from tests.conftest import ROOT


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two epochs, interrupted."""
    values = [(1, 0.4, 0.4819), (2, 0.5, 0.6524)]
    rows = [{"epoch": e, "train/acc": t, "val/acc": v, "lr": 0.1} for e, t, v in values]
    files.write_csv(tmp_path / "metrics.csv", COLUMNS, rows)
    config = {"protocol": "published", "seed": 3, "trainer": {"max_epochs": 50}, "lr_finder": {"method": "valley"}}
    files.write(tmp_path / "config.yaml", OmegaConf.to_yaml(config))
    facts = {"overrides": ["experiment=genigarus", "seed=3"], "git": {"commit": "abc", "dirty": False}}
    files.write_json(tmp_path / "status.json", {"status": "interrupted", **facts})
    return tmp_path


def test_an_unfinished_run_is_read(run: Path) -> None:
    record = references.of_run(run)
    facts = {"experiment": "genigarus", "protocol": "published", "seed": 3, "commit": "abc"}
    assert facts.items() <= record.items()
    assert [(row["epoch"], row["train"], row["val"]) for row in record["curve"]] == [(1, 0.4, 0.4819), (2, 0.5, 0.6524)]
    assert record["test"] is None
    assert record["range_test"] is None


def test_runs_join_those_of_the_record(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    for seed in (3, 4, 3):  # the third replaces the first
        status = files.read_json(run / "status.json")
        files.write_json(run / "status.json", {**status, "git": {"commit": f"of {seed}", "dirty": False}})
        config = OmegaConf.load(run / "config.yaml")
        config.seed = seed
        files.write(run / "config.yaml", OmegaConf.to_yaml(config))
        references.add(path, [run], "official", "benchmarks.references")
    assert [(r["seed"], r["commit"]) for r in files.read_json(path)["runs"]] == [(3, "of 3"), (4, "of 4")]
    references.add(path, [run], "a copy", "benchmarks.references")
    assert [r["seed"] for r in files.read_json(path)["runs"]] == [3]  # other data, another record


def test_a_run_of_changed_code_is_no_record(run: Path) -> None:
    files.write_json(run / "status.json", {"status": "finished", "git": {"commit": "abc", "dirty": True}})
    with pytest.raises(SystemExit, match="commit"):
        references.of_run(run)


def test_what_lags_by_more_than_three_points_is_bold(run: Path) -> None:
    table = references.curves({"runs": [references.of_run(run)]})
    (line,) = [line for line in table.splitlines() if "genigarus" in line]
    assert line == "| `genigarus` | 54.2 / **48.2** | 65.2 / 65.2 |"  # 54.19 and 65.24 published


def test_the_old_finders_smoothing_lags() -> None:
    """A fall and a rise around 0.01: the moving average has its minimum later, and its steepest fall, too."""
    lr = np.logspace(-4, 0, 101)
    curve = lr_finder.Curve(lr, np.abs(np.log10(lr) + 2))
    minimum = published.lagging(curve, "minimum")
    assert minimum > 1.2 * lr_finder.suggest(curve, math.inf)["minimum"]
    assert published.lagging(curve, "below") == pytest.approx(minimum / 10**0.5)
    assert 1e-4 < published.lagging(curve, "steepest") < minimum


def test_published_curves_agree_with_the_claims() -> None:
    for name, project in published.PUBLISHED.items():
        assert (ROOT / f"conf/experiment/{name}.yaml").exists()
        curve = published.published_curve(name)
        if curve:
            assert max(row["test"] for row in curve.values()) == pytest.approx(project.best)
            assert curve[project.best_epoch]["test"] == pytest.approx(project.best)
            assert max(curve) == project.epochs


def test_test_selected_results_stand_in_red(run: Path) -> None:
    assert r"65.24 $\color{red}\textsf{test-selected}$" in references.protocols({"runs": [references.of_run(run)]})


def test_a_rate_that_never_falls_is_seen() -> None:
    """genigarus's rate fell after 46 epochs, from 88.68 to 92.88 %."""
    flat = [{"epoch": epoch, "val": 0.8, "lr": 0.1} for epoch in range(1, 51)]
    run = {"experiment": "genigarus", "protocol": "published", "seed": 0, "curve": flat}
    assert " | 46 | never | " in references.drops({"runs": [run]})
    assert " | 80.00 ± 0.00 | 93.67 | 80.00 |" in references.drops({"runs": [run]})
    flat[-1]["lr"] = 0.01
    assert " | 46 | 49 | " in references.drops({"runs": [run]})
    assert len(references.drops({"runs": [{**run, "curve": flat[:46]}]}).splitlines()) == 2  # nothing afterwards
