"""Many runs in one table and on one page."""

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from cifar_pl import report
from cifar_pl.reporting import comparison_page
from cifar_pl.runs.compare import Comparison
from cifar_pl.runs.record import list_runs
from tests.conftest import Ask, Make


@pytest.fixture
def sweep(make: Make, tmp_path: Path) -> Path:
    """Two schedules, two rates, two seeds; one run failed, one killed."""
    n = 0
    for scheduler in ("onecycle", "multistep"):
        for lr in ("0.01", "0.1"):
            for seed in (0, 1):
                status = {3: "failed", 6: "running"}.get(n, "finished")
                val = 0.9 + 0.01 * n
                typed = (
                    f"scheduler={scheduler}",
                    f"optimizer.lr={lr}",
                    f"seed={seed}",
                    "aug=<script>alert(1)</script>",
                )
                make(f"{n}-{scheduler}", *typed, val=val, test=val - 0.02, status=status)
                n += 1
    return tmp_path


def test_the_table_has_every_configuration_and_every_failure(
    sweep: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(report.main, sweep) == 0
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    finished = [row for row in rows if row["status"] == "finished"]
    assert [row["configuration"] for row in finished] == [
        "scheduler=multistep optimizer.lr=0.1",
        "scheduler=multistep optimizer.lr=0.01",
        "scheduler=onecycle optimizer.lr=0.1",
        "scheduler=onecycle optimizer.lr=0.01",
    ]
    assert [row["n"] for row in finished] == ["1", "2", "1", "2"]
    assert float(finished[1]["val_acc_mean"]) == pytest.approx(0.945)
    assert float(finished[1]["test_acc_mean"]) == pytest.approx(0.925)
    assert float(finished[1]["val_acc_std"]) == pytest.approx(0.01 / 2**0.5)
    assert finished[0]["val_acc_std"] == ""  # one run has no spread
    assert [(row["status"], row["runs"]) for row in rows[4:]] == [("failed", "3-onecycle"), ("killed", "6-multistep")]
    said = capsys.readouterr().out
    assert re.search(r"^2 +94\.50 ± 0\.71 +92\.50 ± 0\.71 +2 +scheduler=multistep optimizer\.lr=0\.01$", said, re.M)
    assert "fewer than two seeds in common" in said
    assert f"killed: {sweep}/6-multistep" in said


def test_the_page_is_whole_and_says_no_more_than_it_was_told(sweep: Path, ask: Ask, chromium: Browser) -> None:
    (sweep / "0-onecycle/report.html").write_text("a run's page")
    ask(report.main, sweep)
    for width, scheme in ((320, "light"), (1100, "dark")):
        tab = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        heard: list[str] = []
        tab.on("console", lambda message, heard=heard: heard.append(message.text))
        tab.on("request", lambda request, heard=heard: heard.append(request.url))
        address = (sweep / "sweep.html").as_uri()
        tab.goto(address)
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert heard == [address]
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        text = tab.inner_text("body")
        assert "<script>alert(1)</script>" in text  # as text
        assert "2 of 8 runs have no result" in text
        assert tab.locator("#table tbody tr").count() == 4
        assert tab.locator("#others tbody tr").all_inner_texts()[0].startswith("failed")
        assert tab.locator("#runs tbody tr").count() == 6
        assert tab.locator("#runs a").all_inner_texts() == ["0-onecycle"]  # the one that has a page
        assert tab.locator("svg").count() == 2
        tab.close()


def test_one_rate_needs_no_plot_over_rates(make: Make, tmp_path: Path) -> None:
    make("0-a", "scheduler=a", val=0.9)
    make("1-b", "scheduler=b", val=0.8)
    comparison_page.write(tmp_path, Comparison(list_runs([tmp_path])), ["how"])
    assert (tmp_path / "sweep.html").read_text().count("<svg") == 1


def test_several_directories_need_a_place_for_the_page(make: Make, tmp_path: Path, ask: Ask) -> None:
    runs = [make(f"{place}/0-a", f"seed={seed}", val=0.9) for seed, place in enumerate(("here", "there"))]
    assert ask(report.main, *runs) == 1
    assert not list(tmp_path.rglob("sweep.*"))
    assert ask(report.main, *runs, "--out", tmp_path / "both") == 0
    with (tmp_path / "both/sweep.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["n"] == "2"


def test_a_table_by_accuracy_of_runs_that_followed_the_loss_says_so(make: Make, tmp_path: Path) -> None:
    for name, monitor in (("0-a", "val/loss"), ("1-b", "val/acc")):
        make(f"{name}/{monitor[4:]}", f"seed={name[0]}", val=0.9, monitor=monitor)
        comparison = Comparison(list_runs([tmp_path / name]))
        comparison_page.write(tmp_path / name, comparison, [])
        for text in (comparison_page.text(comparison), (tmp_path / name / "sweep.html").read_text()):
            assert ("The runs monitored val/loss" in text) == (monitor == "val/loss")
