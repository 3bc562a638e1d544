"""The study of rates: its record agrees with the present rule, and it reads no test image."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import RESULTS
from benchmarks.rates import judging, measuring
from cifar_pl.data import cifar10 as official
from cifar_pl.runs import files
from cifar_pl.training import lr_finder
from tests.test_sources import known, write_batches


def test_the_rule_still_gives_the_rates_of_the_record() -> None:
    """A change of the rule has to be judged on these sixty measured curves, and recorded."""
    record = files.read_json(RESULTS / "rates.json")
    tests = [{**test, **vars(judging.curve(test))} for test in record["range_tests"]]
    assert len(tests) == 60
    again = judging.judged(record["grid"], tests)
    for schedule, methods in record["judged"].items():
        now, then = (np.array(m["auto"]["rates"].split(), float) for m in (again[schedule], methods))
        # One step of the curve at most: the record has the losses rounded, and of the rates the first and the last.
        np.testing.assert_allclose(now, then, rtol=0.2)


def test_the_grids_curve_is_straight_between_its_rates_on_the_log_scale() -> None:
    accuracies = {"one": {0.01: [0.4, 0.5], 0.02: [0.5, 0.5], 0.08: [0.3, 0.3]}}
    facts = judging.truth(accuracies)["one"]
    assert (facts["best"], facts["points"]) == (0.02, pytest.approx([45, 50, 30]))
    low, high = facts["band"]
    assert low == pytest.approx(0.02 / 2 ** (1 / 5), rel=0.01)  # five points in one doubling below
    assert high == pytest.approx(0.02 * 2 ** (1 / 10), rel=0.01)  # twenty points in two doublings above
    assert judging.at(0.04, facts) == pytest.approx(40)


def test_a_suggestion_is_judged_by_factor_and_points() -> None:
    facts = {name: {"lr": [0.01, 0.1, 1.0], "points": [40.0, 50.0, 30.0], "best": 0.1} for name in measuring.SWEEPS}
    x = np.linspace(-3, 0, 160)
    falls = np.log(10) - np.interp(x, [-3, -2.5, -1.5, 0], [0, 0, 0.5, -1])
    judged = judging.judged(facts, [{"lr": 10**x, "loss": falls, "batch": 128}])["onecycle"]["auto"]
    rate = float(judged["rates"])
    assert rate == pytest.approx(lr_finder.PASSES * 10**-1.5, rel=0.25)
    assert judged["largest_factor"] == pytest.approx(max(rate / 0.1, 0.1 / rate), rel=1e-3)
    assert judged["mean_regret"] == pytest.approx(abs(np.log10(rate / 0.1)) * (20 if rate > 0.1 else 10), rel=1e-2)


def test_the_study_reads_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "HELD_OUT", 4)
    _, files_md5, _ = write_batches(tmp_path)
    known(monkeypatch, official.CIFAR10, files_md5)
    whole = measuring.cifar10(tmp_path)
    source = measuring.part(32, 3, root=tmp_path)
    assert (len(source.train), len(source.test)) == (3, 4)
    taken = np.concatenate([source.train.pixels, source.test.pixels])
    assert len(np.unique(taken.reshape(7, -1), axis=0)) == 7
    training = {image.tobytes() for image in whole.train.pixels}
    assert all(image.tobytes() in training for image in taken)
    assert measuring.part(8, 3, root=tmp_path).train.pixels.shape == (3, 8, 8, 3)
