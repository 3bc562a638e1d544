"""Groups, intervals and verdicts, on run directories as runs leave them."""

from pathlib import Path

import pytest

from cifar_pl.errors import UserError
from cifar_pl.runs import rundir
from cifar_pl.runs.compare import Comparison
from cifar_pl.runs.record import list_runs
from tests.conftest import Make


def test_runs_group_by_what_ran_not_by_what_was_typed(make: Make, tmp_path: Path) -> None:
    make("0-a", "seed=0", val=0.90)
    make("1-b", "optimizer.lr=0.1", "seed=1", val=0.92)  # the default, typed
    make("2-c", "optimizer.lr=0.2", "seed=0", val=0.97)
    make("10-d", "optimizer.lr=0.2", "seed=1", val=0.95)
    found = Comparison(list_runs([tmp_path]))
    assert [run.directory.name for run in found.runs] == ["0-a", "1-b", "2-c", "10-d"]
    assert [one.name for one in found.configurations] == ["optimizer.lr=0.2", "defaults"]
    assert [sorted(one.runs) for one in found.configurations] == [[(0, None), (1, None)]] * 2
    best = found.configurations[0].accuracy["val"]
    assert best is not None
    assert (best.mean, best.n) == pytest.approx((0.96, 2))
    assert found.configurations[0].seconds == 20


def test_folds_repeat_a_configuration_as_seeds_do(make: Make, tmp_path: Path) -> None:
    for fold in range(3):
        make(f"{fold}-x", f"data.fold={fold}", "scheduler=plateau", val=0.9 + fold / 100, fold=fold)
    (only,) = Comparison(list_runs([tmp_path])).configurations
    assert len(only.runs) == 3
    assert only.overrides == ("scheduler=plateau",)


def test_the_same_seed_again_counts_once(make: Make, tmp_path: Path) -> None:
    for name in ("0-first", "1-again"):
        make(name, "seed=3", val=0.9)
    (only,) = Comparison(list_runs([tmp_path])).configurations
    assert len(only.runs) == 1


@pytest.mark.parametrize(
    ("gaps", "told"),
    [([0.010, 0.011, 0.012], True), ([0.03, -0.01, 0.01], False), ([0.0, 0.0], False), ([0.01, 0.01], True)],
)
def test_the_best_two_are_told_apart_by_their_pairs(make: Make, tmp_path: Path, gaps: list[float], told: bool) -> None:
    for seed, gap in enumerate(gaps):
        low = 0.5 + 0.1 * seed  # seeds differ far more than the two do: only pairs can tell
        make(f"a{seed}", f"seed={seed}", "scheduler=good", val=low + gap, test=low)
        make(f"b{seed}", f"seed={seed}", "scheduler=less", val=low, test=low)
    found = Comparison(list_runs([tmp_path]))
    assert found.differences["val"].mean == pytest.approx(sum(gaps) / len(gaps))
    assert found.differences["test"].mean == 0
    assert ("are distinguishable" in found.verdict) == told
    assert ("not distinguishable" in found.verdict) == (not told)
    assert ("in four of five attempts" in found.verdict) == (not told)
    assert (found.needed is None) == (told or not any(gaps))  # two that are equal are never told apart
    assert sum(found.chances.values()) == pytest.approx(1)


def test_the_chances_are_of_configurations_with_several_runs(make: Make, tmp_path: Path) -> None:
    make("best0", "seed=0", "scheduler=once", val=0.99)
    assert Comparison(list_runs([tmp_path])).chances == {}
    for seed in range(3):
        make(f"good{seed}", f"seed={seed}", "scheduler=good", val=0.9)
        make(f"less{seed}", f"seed={seed}", "scheduler=less", val=0.8 + seed / 100)
    found = Comparison(list_runs([tmp_path]))
    assert found.configurations[0].name == "scheduler=once"
    assert found.chances == {"scheduler=good": 1, "scheduler=less": 0}


def test_without_two_seeds_in_common_nothing_is_distinguishable(make: Make, tmp_path: Path) -> None:
    for name, seed, val in (("a", 0, 0.9), ("a", 1, 0.91), ("b", 1, 0.2), ("b", 2, 0.2)):
        make(f"{name}{seed}", f"seed={seed}", f"scheduler={name}", val=val)
    found = Comparison(list_runs([tmp_path]))
    assert not found.differences
    assert "fewer than two seeds" in found.verdict


def test_validation_orders_and_the_test_set_only_where_nothing_else_can(make: Make, tmp_path: Path) -> None:
    make("a", "scheduler=a", val=0.9, test=0.1)
    make("b", "scheduler=b", val=0.8, test=0.9)
    found = Comparison(list_runs([tmp_path]))
    assert (found.judge, found.configurations[0].name) == ("val", "scheduler=a")
    make("c", "scheduler=c", val=None, test=0.5)
    found = Comparison(list_runs([tmp_path]))
    assert (found.judge, found.configurations[0].name) == ("test", "scheduler=b")
    assert not found.test_selected
    make("d", "scheduler=d", val=0.95, test=0.95, test_selected=True)
    found = Comparison(list_runs([tmp_path]))
    assert found.test_selected
    assert found.configurations[0].accuracy["val"] is None


def test_what_has_no_result_is_named_with_its_reason(make: Make, tmp_path: Path) -> None:
    make("0-good", "seed=0", val=0.9)
    make("1-bad", "seed=1", status="failed")
    make("2-dead", "seed=2", status="running")
    found = Comparison(list_runs([tmp_path]))
    assert [(run.directory.name, run.status) for run in found.others] == [("1-bad", "failed"), ("2-dead", "killed")]


def test_a_run_that_goes_on_is_not_killed(tmp_path: Path) -> None:
    with rundir.tracked(tmp_path):
        assert rundir.state(tmp_path)["status"] == "running"
    assert rundir.state(tmp_path)["status"] == "finished"


def test_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run"):
        list_runs([tmp_path])
    with pytest.raises(UserError, match="no such directory"):
        list_runs([tmp_path / "nowhere"])


def test_a_fold_repeats_folds_and_not_runs_without(make: Make, tmp_path: Path) -> None:
    make("a", "seed=0", val=0.9)
    make("b", "data.fold=0", val=0.9, fold=0)
    assert len(Comparison(list_runs([tmp_path])).configurations) == 2


def test_loggers_make_no_other_configuration_and_equal_names_are_told_apart(make: Make, tmp_path: Path) -> None:
    make("a", "seed=0", val=0.9, logger={})
    make("b", "seed=1", val=0.9, logger={"tensorboard": {"save_dir": "x"}})
    for n, val in enumerate((0.8, 0.7)):  # a default that changed twice; sweeps give their runs the same names
        make(f"c{n}/same", "seed=0", val=val, momentum=val)
    found = Comparison(list_runs([tmp_path])).configurations
    others = [(f"(as {tmp_path / n / 'same'})", 1) for n in ("c0", "c1")]
    assert [(one.name, len(one.runs)) for one in found] == [("defaults", 2), *others]


@pytest.mark.parametrize("file", ["config.yaml", "summary.json", "status.json"])
def test_a_damaged_run_is_a_row_and_no_end(make: Make, tmp_path: Path, file: str) -> None:
    make("a", val=0.9)
    (make("b", val=0.9) / file).write_text("{ [")
    found = Comparison(list_runs([tmp_path]))
    assert [run.status for run in found.others] == ["unreadable"]
    assert found.others[0].error
    assert len(found.finished) == 1


@pytest.mark.parametrize(("source", "configurations"), [("cifar10.cifar10", 1), ("image_folder.image_folder", 2)])
def test_the_same_images_elsewhere_are_no_other_configuration(
    make: Make, tmp_path: Path, source: str, configurations: int
) -> None:
    for seed, root in enumerate(("/here", "/there")):
        data = {"root": root, "source": {"_target_": f"cifar_pl.data.{source}", "root": root}}
        make(str(seed), f"seed={seed}", val=0.9, data=data)
    assert len(Comparison(list_runs([tmp_path])).configurations) == configurations
