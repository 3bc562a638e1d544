"""Each rule on both sides of its threshold."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from cifar_pl.cli import command
from cifar_pl.evaluation import advice
from cifar_pl.evaluation.advice import Advice, advise
from cifar_pl.evaluation.metrics import interval
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.reporting import page
from tests.conftest import ROOT

CONFIG: dict[str, Any] = {
    "aug": {"pad": {}, "crop": {}, "flip": {}},
    "optimizer": {"weight_decay": 5e-4},
    "lr_finder": {"enabled": False},
    "classifier": {"label_smoothing": 0.1},
    "data": {"batch_size": 128},
    "trainer": {"max_epochs": 2, "check_val_every_n_epoch": 1},
}


def again(*changes: str) -> str:
    return " ".join(["python train.py", *changes])


def change(found: Advice | None) -> str | None:
    assert found is not None
    return found.command and found.command.removeprefix("python train.py ")


def curve(*accuracies: float | None, train: float = 0.9, lr: float = 0.1) -> list[dict[str, float]]:
    rows = []
    for epoch, accuracy in enumerate(accuracies, 1):
        row = {"epoch": epoch, "train/acc": train, "lr": lr, "images_per_second": 1000.0, "seconds": 45.0}
        rows.append(row if accuracy is None else {**row, "val/acc": accuracy})
    return rows


def predictions(right: int, n: int, confidence: float, of_wrong: float | None = None) -> Predictions:
    """The first `right` of `n` images are right; all predictions have one probability, or two."""
    label, classes = torch.arange(n) % 4, 4
    said = torch.where(torch.arange(n) < right, label, (label + 1) % classes)
    p = torch.where(torch.arange(n) < right, confidence, of_wrong or confidence)[:, None]
    logits = ((1 - p) / (classes - 1)).log().expand(n, classes).scatter(1, said[:, None], p.log())
    return Predictions(logits, label, torch.arange(n))


def test_over_and_under_fitting_is_the_larger_of_two_errors() -> None:
    over = advice.fit(curve(0.9, train=0.96), 5000, CONFIG, again)
    assert over is not None
    low, high = interval(4500, 5000)
    assert f"96.0% right in training, 90.0% in validation (95 % interval {low:.1%} to {high:.1%})" in over.text
    assert change(over) == "aug=cutout"
    under = advice.fit(curve(None, 0.9, None, train=0.94), 5000, CONFIG, again)  # 6 % wrong in training, 4 % more
    assert under is not None
    assert under.text.startswith("It under-fits")
    assert change(under) == "trainer.max_epochs=6"
    assert advice.fit(curve(0.9, train=0.96), 40, CONFIG, again) is None  # the interval of 40 images has 96 %
    assert advice.fit(curve(0.998, train=0.998), 5000, CONFIG, again) is None
    assert advice.fit(curve(None, None), 0, CONFIG, again) is None


@pytest.mark.parametrize(
    ("aug", "expected"),
    [
        ({}, "aug=affine"),
        ({"flip": {}}, "aug=cutout"),
        ({"flip": {}, "cutout": {}}, "optimizer.weight_decay=0.001"),
        ({"affine": {}}, "optimizer.weight_decay=0.001"),
    ],
)
def test_what_regularises_more_depends_on_what_is_there(aug: dict[str, Any], expected: str) -> None:
    assert change(advice.fit(curve(0.9, train=1.0), 5000, {**CONFIG, "aug": aug}, again)) == expected


@pytest.mark.parametrize(
    ("used", "source", "expected"),
    [
        (0.031, "from the config", "optimizer.lr=0.01"),
        (0.0031, "from the config; range test, auto: 0.01", "optimizer.lr=0.01"),
        (0.0029, "range test, steepest", "lr_finder.method=auto"),
        (0.029, "from the config", None),
    ],
)
def test_a_rate_is_wrong_beyond_a_factor_of_three(used: float, source: str, expected: str | None) -> None:
    finder = {"lr": used, "source": source, "suggestions": {"auto": 0.01, "minimum": 1.0}}
    found = advice.rate(finder, again)
    inside = 1 / 3 <= used / 0.01 <= 3
    assert (found is None) == inside
    if not inside:
        assert change(found) == expected
        assert f"too {'high' if used > 0.01 else 'low'}" in found.text  # type: ignore[union-attr]


def test_no_rate_is_advised_from_a_hopeless_curve_or_another_optimizer() -> None:
    assert advice.rate({"lr": 1.0, "source": "", "suggestions": {}}, again) is None
    finder = {"lr": 1.0, "source": "from the config", "suggestions": {"auto": 0.01}}
    for optimizer, said in (({}, True), ({"momentum": 0.0}, False)):
        config = {**CONFIG, "lr_finder": {"optimizer": optimizer}}
        assert any("range test" in one.text for one in judge(config=config, finder=finder)) == said


def test_a_schedule_ended_after_or_before_the_curve_flattened() -> None:
    after = advice.length(curve(0.5, 0.9, 0.902, 0.901, 0.903, 0.902), 5000, again)
    assert change(after) == "trainer.max_epochs=2"
    assert after is not None
    assert "Epoch 2 of 6 was as good as the best, 90.3%" in after.text
    assert advice.length(curve(0.5, 0.7, 0.8, 0.9, 0.902, 0.901), 5000, again) is None
    rising = curve(*np.linspace(0.5, 0.9, 10))
    assert change(advice.length(rising, 5000, again)) == "trainer.max_epochs=20"
    rising[-1]["lr"] = 0.009  # below a tenth of the highest: the schedule ended the rise
    assert advice.length(rising, 5000, again) is None
    assert advice.length(curve(0.5, 0.9, 0.902, 0.901), 60, again) is None  # too few images to call it flat
    assert advice.length(curve(None, None), 5000, again) is None


def test_labels_are_doubtful_beyond_a_third_of_the_mistakes_of_a_good_network() -> None:
    counts = np.diag([90] * 10)
    counts[0, 1] = 100  # mistakes, of 1,000 images
    found = advice.labels(45, counts, "val", "my run")
    assert found is not None
    assert "45 validation images, 45% of its mistakes" in found.text
    assert found.command == "python -m cifar_pl.explain 'my run' --by loss"
    assert advice.labels(40, counts, "val", "run") is None  # its interval has a third
    assert advice.labels(0, np.diag([90] * 10), "val", "run") is None
    assert advice.labels(45, counts[:9, :9], "val", "run") is None  # fewer classes
    counts[2, 3] = 100  # 82 % right
    assert advice.labels(190, counts, "val", "run") is None


def test_classes_need_data_whose_interval_lies_below_that_of_the_others() -> None:
    counts = np.array([[95, 5, 0, 0], [4, 80, 16, 0], [3, 2, 95, 0], [0, 0, 0, 0]])
    found = advice.classes(counts, ["a", "b ; rm", "c", "none"], "val", "run")
    assert found is not None
    low, high = interval(80, 100, 1 - 0.05 / 4)
    assert f": b ; rm 80.0% ({low:.1%} to {high:.1%})." in found.text
    assert shlex.split(found.command or "")[-3:] == ["--pair", "b ; rm", "c"]
    counts[1] = [2, 90, 8, 0]
    assert advice.classes(counts, ["a", "b", "c", "none"], "val", "run") is None
    assert advice.classes(np.diag([9, 0]), ["a", "b"], "val", "run") is None


def test_a_class_whose_name_is_like_an_option_gets_no_command() -> None:
    counts = np.array([[99, 1], [40, 60]])
    assert advice.classes(counts, ["a", "-b"], "val", "run").command is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("confidence", "smoothing", "expected"),
    [
        (0.99, 0.0, "classifier.label_smoothing=0.1"),
        (0.99, 0.1, None),
        (0.8, 0.1, None),
        (0.8, 0.0, None),
    ],
)
def test_confidence_outside_the_interval_of_the_accuracy_is_told(
    confidence: float, smoothing: float, expected: str | None
) -> None:
    found = advice.calibration(predictions(900, 1000, confidence), smoothing, again)
    assert change(found) == expected
    assert found is not None
    assert f"{'over' if confidence > 0.9 else 'under'}-confident: {confidence:.1%} sure on average" in found.text
    # The temperature at which each probability is 0.9.
    odds = np.log(3 * confidence / (1 - confidence)) / np.log(3 * 0.9 / 0.1)
    assert f"Divide the logits by {odds:.2f}" in found.text


def test_confidence_inside_the_interval_is_not_told() -> None:
    assert advice.calibration(predictions(900, 1000, 0.91), 0.0, again) is None
    broken = predictions(900, 1000, 0.9)
    assert advice.calibration(broken._replace(logits=torch.full((1000, 4), torch.nan)), 0.0, again) is None


def test_time_that_was_not_training_is_told_above_a_tenth() -> None:
    rows = curve(*[0.9] * 6)  # 45 s each
    whole = 39 * 1024  # images of whole batches that take 40 s
    assert advice.idle([{**row, "images_per_second": whole / 41} for row in rows], whole + 1000, 1024, 1, again) is None
    found = advice.idle([{**row, "images_per_second": whole / 40} for row in rows], whole + 1000, 1024, 1, again)
    assert change(found) == "trainer.check_val_every_n_epoch=3"  # of six epochs: five would leave the last one out
    assert found is not None
    assert found.text.startswith("11% of")
    assert advice.idle([{**row, "images_per_second": whole / 40} for row in rows], whole + 1000, 1024, 5, again) is None
    assert advice.idle(curve(None, None), 10, 1, 1, again) is None
    assert advice.idle([], 10, 1, 1, again) is None


def judge(
    val: int = 5000,
    selected: bool = False,
    rows: Any = None,
    facts: Any = None,
    config: Any = CONFIG,
    finder: Any = None,
    epochs: int | None = None,
) -> list[Advice]:
    summary = {
        "test": {"acc": 0.9, "acc_tta": 0.91},
        "protocol": {"test_selected": selected, "images": {"train": 45_000, "val": val, "test": 1000}},
    }
    known = {"test": predictions(900, 1000, 0.99)}
    if val and not selected:
        known["val"] = predictions(900, 1000, 0.99)
    rows = curve(0.9, 0.9, train=0.99) if rows is None else rows
    config = {**config, "trainer": {**config["trainer"], "max_epochs": epochs or len(rows)}}
    return advise("run", facts or summary, config, rows, finder, known, "abcd", again)


def test_the_test_images_judge_no_setting() -> None:
    alone = judge(val=0, rows=curve(None, None, train=1.0))
    assert change(alone[0]) == "data.val_size=4500"
    assert "hold some out" in alone[0].text
    assert not any("over-fits" in one.text or "sure" in one.text for one in alone)
    assert any("90.00% without" in one.text for one in alone)  # mirror images are described
    # With protocol=published the rows have the test as their validation.
    selected = judge(val=1000, selected=True)
    assert change(selected[0]) == "protocol=honest data.val_size=4500"
    assert not any("%" in one.text for one in selected)


def test_there_are_at_most_five_in_their_order_and_each_command_once() -> None:
    finder = {"lr": 1.0, "source": "from the config", "suggestions": {"auto": 0.1}}
    found = judge(rows=curve(0.5, *[0.9] * 9, train=0.99), finder=finder)
    assert [one.text.partition(" ")[0] for one in found] == ["It", "The", "Epoch", "It", "With"]
    rising = judge(rows=curve(*np.linspace(0.5, 0.8, 10), train=0.7))  # both rules want more epochs
    assert sum(one.command == again("trainer.max_epochs=20") for one in rising) == 1
    flat = judge(rows=curve(0.5, *[0.7] * 9, train=0.69))  # it under-fits, but the length is not why
    assert [one.command for one in flat if "max_epochs" in str(one.command)] == [again("trainer.max_epochs=2")]
    stopped = judge(rows=curve(*np.linspace(0.5, 0.8, 10), train=0.7), epochs=200)
    assert not any("max_epochs" in str(one.command) for one in stopped)
    commands = [one.command for one in found if one.command]
    assert len(commands) == len(set(commands)) <= advice.MOST


def test_nothing_is_said_of_weights_that_were_not_tested_or_without_a_reason() -> None:
    assert judge(facts={"status": "interrupted"}) == []
    quiet = {
        "test": {"acc": 0.9},
        "protocol": {"test_selected": False, "images": {"train": 45_000, "val": 1000, "test": 1000}},
    }
    p = predictions(900, 1000, 0.94, of_wrong=0.5)
    assert advise("run", quiet, CONFIG, [], None, {"val": p, "test": p}, "abcd", again) == []


def test_the_page_shows_text_and_nothing_without_advice() -> None:
    text = page.render("next.html", advice=[Advice("<b>cat</b>", "python '<i>'"), Advice("Wait.", None)])
    assert "&lt;b&gt;cat" in text
    assert "<i>" not in text
    assert text.count("<code>") == 1
    assert page.render("next.html", advice=[]).strip() == ""


CHANGES = (
    "aug=cutout",
    "aug=affine",
    "optimizer.weight_decay=0.001",
    "lr_finder.method=auto",
    "optimizer.lr=0.01",
    "data.val_size=4500",
    "protocol=honest",
    "trainer.max_epochs=32",
    "trainer.check_val_every_n_epoch=5",
    "classifier.label_smoothing=0.1",
)


@pytest.mark.parametrize("experiment", ["demo", "epochs10", "genigarus", "rishabh_bhardwaj"])
def test_every_change_composes_with_a_recipe(experiment: str) -> None:
    source = Path(advice.__file__).read_text()
    command.register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for one in CHANGES:
            assert one.partition("=")[0] + "=" in source
            needs = ["lr_finder=range_test"] if one.startswith("lr_finder") else []
            compose("config", [f"experiment={experiment}", *needs, one])
