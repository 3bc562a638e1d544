"""`minutes=`: what fits is chosen in closed form, planned once, and repeated bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from omegaconf import DictConfig

from cifar_pl.config import schema
from cifar_pl.errors import UserError
from cifar_pl.training import budget
from cifar_pl.training.costs import Costs
from tests.conftest import LEAN, TINY, Train

FAST = ("model._target_=tests.fuzzing.small", "whiten=false", "callbacks.misclassified=null", "callbacks.explore=null")


def test_time_is_the_sum_of_its_parts() -> None:
    costs = Costs(steps=10, small=1.0, full=2.0, epoch=5.0, once=100.0, start_share=0.5)
    assert costs.total(5) == 2 * 10 * 1.0 + 3 * 10 * 2.0 + 5 * 5.0 + 100
    assert costs.training(3, 5) == 2 * 10 * 1.0 + 1 * 10 * 2.0 + 3 * 5.0
    assert costs._replace(finder=50).total(5) - costs.total(5) == 50 * 2.0
    assert costs._replace(finder="auto").total(1) - costs.total(1) == 40 * 2.0
    again = costs._replace(image=0.5, passes=(50_000, 10_000)).total(10) - costs.total(10)
    assert again == 42_500 * 0.5  # 0.085 of ten times 50,000


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_as_many_epochs_as_end_in_time(share: float) -> None:
    costs = Costs(steps=7, small=0.3, full=0.5, epoch=0.2, once=11.0, start_share=share)
    for seconds in (1.0, 14.0, 15.0, 60.0, 61.0, 4000.0):
        epochs = costs.epochs(seconds)
        assert epochs == 0 or costs.total(epochs) <= seconds
        assert costs.total(epochs + 1) > seconds


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["minutes=0"], "minutes=0: it must be a number above 0"),
        (["minutes=long"], "minutes=long: it must be a number above 0"),
        (["minutes=9", "trainer.max_epochs=3"], "leave out trainer.max_epochs=3"),
        (["minutes=9", "trainer=ddp"], "one process only"),
        (["minutes=9", "compile=true"], "cannot be planned"),
        (["minutes=9", "monitor=test/acc"], "the test set selects nothing"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    config: Callable[..., DictConfig], overrides: list[str], message: str
) -> None:
    typed = [o for o in overrides if not o.startswith("minutes")]
    cfg = config(*TINY, *overrides)
    with initialize_config_dir(str(schema.CONF), version_base="1.3"), pytest.raises(UserError, match=message):
        budget.plan(cfg, [*TINY, *typed], sweep=False)


def test_recipes_that_contradict_what_is_typed_are_left_out(config: Callable[..., DictConfig]) -> None:
    config()  # Hydra's job
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        every = budget._options([], sweep=False)
        assert [overrides for overrides, _ in every] == [
            [f"experiment=epochs{n}"] for n in (10, 16, 200, 24, 30, 5, 80)
        ]
        assert [overrides for overrides, _ in budget._options(["scheduler=plateau"], False)] == [["scheduler=plateau"]]
        assert [overrides for overrides, _ in budget._options(["experiment=demo"], False)] == [["experiment=demo"]]
        affine = budget._options(["data=digits", "aug=affine"], sweep=False)
        assert {overrides[0] for overrides, _ in affine} == {
            "experiment=epochs10",
            "experiment=epochs16",
            "experiment=epochs5",
        }


@pytest.mark.slow
def test_a_planned_run_is_repeated_by_the_command_in_its_summary(train: Train, tmp_path: Path) -> None:
    lean = [o for o in LEAN if o not in FAST]
    asked = (*TINY, *lean, *FAST, "seed=3", "+trainer.limit_train_batches=3")
    result = train("-m", *asked, "minutes=0.3,0.4", "hydra.sweep.dir=sweep")
    assert result.returncode == 0, result.stderr
    planned, longer = sorted((tmp_path / "sweep").glob("?-minutes_0.?"))
    assert json.loads((longer / "summary.json").read_text())["planned_minutes"] <= 0.4
    summary = json.loads((planned / "summary.json").read_text())
    assert "minutes=0.3" in summary["overrides"]
    assert summary["planned_minutes"] <= 0.3
    assert "minutes=0.3" not in summary["planned"]
    assert f"trainer.max_epochs={summary['epochs']}" in summary["planned"]
    assert any(o.startswith("experiment=epochs") for o in summary["planned"])
    repeated = train(*summary["planned"], "hydra.run.dir=repeated")
    assert repeated.returncode == 0, repeated.stderr
    one, other = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (planned, tmp_path / "repeated")
    )
    assert all(torch.equal(one[key], value) for key, value in other.items())

    refused = train(*asked, "minutes=0.05", "hydra.run.dir=short")
    assert refused.returncode == 1
    assert "a run of one epoch takes 0." in refused.stderr
    assert json.loads((tmp_path / "short/status.json").read_text())["status"] == "failed"
