"""A search: its space, and what a resumed one does, on a launcher that trains nothing."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cifar_pl.errors import UserError
from cifar_pl.runs import files, rundir
from cifar_pl.sweeps import sweep


def test_the_space_of_a_search_is_what_the_overrides_say() -> None:
    study = pytest.importorskip("cifar_pl.sweeps.study")
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    parsed = OverridesParser.create().parse_overrides(
        ["a=tag(log, interval(0.001, 1.0))", "b=int(interval(1, 5))", "c=x,y", "d=range(3)"]
    )
    assert [study.distribution(override) for override in parsed] == [
        FloatDistribution(0.001, 1.0, log=True),
        IntDistribution(1, 5),
        CategoricalDistribution(["x", "y"]),
        CategoricalDistribution(["0", "1", "2"]),
    ]


class Launcher:
    """Leaves what a run would leave; `say` is the status of each, or an accuracy."""

    def __init__(self, *say: str | float) -> None:
        self.say = list(say)
        self.launched: list[list[str]] = []

    def launch(self, jobs: list[list[str]], number: int) -> None:
        for overrides in jobs:
            self.launched.append(overrides)
            typed = dict(o.lstrip("+").split("=", 1) for o in overrides)
            run = Path(typed["hydra.sweep.dir"].strip("'")) / typed["hydra.sweep.subdir"]
            end = self.say.pop(0)
            files.write(run / rundir.CONFIG, f"run_dir: {run}")
            facts = {"overrides": [o for o in overrides if "hydra" not in o]}
            files.write_json(run / rundir.STATUS, {"status": end if isinstance(end, str) else "finished", **facts})
            if not isinstance(end, str):
                summary = {"val": {"best_acc": end}, "test": {"acc": 0.5}, "protocol": {"test_selected": False}}
                files.write_json(run / rundir.SUMMARY, {**summary, "lr": {"value": 0.1}})


def searched(directory: Path, launcher: Launcher, *typed: str, trials: int = 4) -> Any:
    """The study after `python train.py -m sweep=search sweep.trials=... ...` in `directory`."""
    search, study = (pytest.importorskip(f"cifar_pl.sweeps.{name}") for name in ("search", "study"))
    cfg = {
        "sweep": {"trials": trials, "seed": 0, "startup": 5, "warmup": 0, "space": {}, "at_once": None},
        "protocol": "honest",
        "monitor": "val/acc",
        "mode": "max",
        "data": {"val_size": 100, "fold": None},
        "callbacks": {"epoch_log": {"_target_": "x"}},
        "hydra": {"sweep": {"dir": str(directory)}, "overrides": {"task": list(typed), "hydra": []}},
    }
    overrides = OverridesParser.create().parse_overrides(list(typed))
    kind: Any = launcher
    try:
        sweep.run(search.trials, OmegaConf.create(cfg), kind, overrides, len)
    except UserError as error:
        if "no result" not in str(error):
            raise
    return study.load(directory / rundir.STUDY, "val/acc")


BasicLauncher = type("BasicLauncher", (Launcher,), {})  # by its name, Hydra's own


@pytest.mark.slow
def test_a_resumed_search_may_propose_what_ran_before(tmp_path: Path) -> None:
    searched(tmp_path, BasicLauncher(*[0.9] * 4), "a=x,y")
    study = searched(tmp_path, again := BasicLauncher(*[0.8] * 4), "a=x,y", trials=8)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
    assert len(again.launched) == 4
    assert len(list(tmp_path.glob("*/summary.json"))) == 8


@pytest.mark.slow
def test_what_failed_is_replaced_and_what_was_interrupted_goes_on(tmp_path: Path) -> None:
    study = searched(tmp_path, BasicLauncher(0.9, "failed", "pruned", "interrupted"), "a=interval(0.0, 1.0)")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "PRUNED", "RUNNING"]
    study = searched(tmp_path, again := BasicLauncher(0.7, 0.8), "a=interval(0.0, 1.0)")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
    assert [trial.value for trial in study.trials[3:]] == [0.7, 0.8]
    assert f"a={study.trials[3].params['a']}" in again.launched[0]
    assert len({trial.params["a"] for trial in study.trials}) == 5


def test_a_search_goes_on_only_as_it_began(tmp_path: Path) -> None:
    searched(tmp_path, BasicLauncher(0.9), "a=x,y", "trainer.max_epochs=16", trials=1)
    with pytest.raises(UserError, match="a search continues as it started"):
        searched(tmp_path, BasicLauncher(0.9), "a=x,y", "trainer.max_epochs=20", trials=2)
    with pytest.raises(UserError, match="lists may not: start another search"):
        searched(tmp_path, BasicLauncher(0.9), "a=x,y,z", "trainer.max_epochs=16", trials=2)


def test_a_run_that_is_still_there_is_left_alone(tmp_path: Path) -> None:
    study = searched(tmp_path, BasicLauncher("interrupted"), "a=x,y", trials=1)
    (run,) = (path.parent for path in tmp_path.glob("*/status.json"))
    with rundir.tracked(run):
        study = searched(tmp_path, BasicLauncher(), "a=x,y", trials=1)
        assert rundir.state(run)["status"] == "running"
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
