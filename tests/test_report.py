"""Many runs in one table and on one page."""

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from playwright.sync_api import Browser

from cifar_pl import report
from cifar_pl.config import resume
from cifar_pl.reporting import comparison_page
from cifar_pl.runs import files, rundir
from cifar_pl.runs.compare import Comparison
from cifar_pl.runs.record import list_runs
from tests.conftest import Ask, Make
from tests.test_pair import DIGITS, EVIL, kept


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
        assert tab.locator("#table a").all_inner_texts() == ["seed 0"]
        assert tab.locator("svg").count() == 2
        tab.close()


def test_one_rate_needs_no_plot_over_rates(make: Make, tmp_path: Path) -> None:
    make("0-a", "scheduler=a", val=0.9)
    make("1-b", "scheduler=b", val=0.8)
    comparison_page.write(tmp_path, Comparison(list_runs([tmp_path])), ["how"])
    assert (tmp_path / "sweep.html").read_text().count("<svg") == 1


def test_several_directories_need_a_place_for_the_page(make: Make, tmp_path: Path, ask: Ask) -> None:
    sweeps = [make(f"{place}/0-a", f"seed={seed}", val=0.9).parent for seed, place in enumerate(("here", "there"))]
    assert ask(report.main, *sweeps) == 1
    assert not list(tmp_path.rglob("sweep.*"))
    assert ask(report.main, *sweeps, "--out", tmp_path / "both") == 0
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


def page_of(directory: Path) -> str:
    comparison_page.write(directory, Comparison(list_runs([directory])), [])
    return (directory / "sweep.html").read_text()


def test_what_every_run_gets_wrong_is_a_wall_and_seeds_are_an_ensemble(make: Make, tmp_path: Path) -> None:
    for n, (name, wrong) in enumerate((("a", range(30)), ("a", range(30)), (EVIL, range(20, 50)))):
        kept(make(f"{n}", f"aug={name}", f"seed={n % 2}", val=0.9 - n / 10, aug=name, **DIGITS), wrong)
    make("3", "aug=a", status="failed", **DIGITS)
    kept(make("4", f"aug={EVIL}", "seed=1", val=0.7, aug=EVIL, **DIGITS), range(9))
    (tmp_path / "4/predictions.npz").write_bytes(b"damaged")
    text = page_of(tmp_path)
    assert "10 of 359 test images are wrong in all 3 runs" in text
    assert text.count('<button type="button" class="tile"') == 10
    assert text.count("3 of 3 say") == 10
    assert f"{1 - 30 / 359:.2%}</td>" in text  # the ensemble of a
    assert "Predictions of 1 run could not be used" in text
    assert f"{tmp_path}/4/predictions.npz" in text
    assert EVIL not in text


def test_the_wall_in_a_browser(make: Make, tmp_path: Path, chromium: Browser) -> None:
    for n in range(2):
        kept(make(str(n), f"seed={n}", val=0.9, **DIGITS), range(150))
    assert "the 100 on which they agree most" in page_of(tmp_path)
    tab = chromium.new_page(viewport={"width": 320, "height": 800})
    errors: list[str] = []
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto((tmp_path / "sweep.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320
    tile = tab.locator(".wall .tile[aria-label]").nth(1)
    tile.click()
    assert tab.locator(".detail .text").inner_text() == tile.get_attribute("aria-label")
    assert not errors
    tab.close()


def test_a_wall_needs_several_runs_and_mistakes_in_common(make: Make, tmp_path: Path) -> None:
    kept(make("0", "aug=a", val=0.9, **DIGITS), range(9))
    assert "What every run gets wrong" not in page_of(tmp_path)
    kept(make("1", "aug=b", val=0.9, aug="b", **DIGITS), range(9, 18))
    text = page_of(tmp_path)
    assert "What every run gets wrong" not in text
    assert "ensemble" not in text  # a single run each
    assert "<script" not in text


def test_time_is_drawn_where_it_differs(make: Make, tmp_path: Path) -> None:
    for n, seconds in enumerate((60, 90)):
        run = make(f"{n}", f"scheduler={n}", val=0.8 + n / 10)
        files.write_json(run / "summary.json", {**files.read_json(run / "summary.json"), "seconds": seconds})
    assert "minutes of a run" in page_of(tmp_path)
    files.write_json(run / "summary.json", {**files.read_json(run / "summary.json"), "seconds": 60})
    assert "minutes of a run" not in page_of(tmp_path)


def sweep_of(make: Make, tmp_path: Path, gaps: list[float], *typed: str, seeds: bool = True) -> Comparison:
    """Two schedules that differ by these gaps at one of two rates, and are far better there than at the other."""
    files.write(tmp_path / rundir.SWEEP, "")
    for seed, gap in enumerate(gaps):
        for scheduler, lr, val in (("good", 0.1, 0.9 + gap), ("less", 0.1, 0.9), ("good", 0.2, 0.5)):
            own = (f"seed={seed}",) if seeds else ()
            make(f"{scheduler}{lr}{seed}", *typed, f"scheduler={scheduler}", f"optimizer.lr={lr}", *own, val=val)
    return Comparison(list_runs([tmp_path]))


def test_the_line_to_type_adds_the_seeds_that_the_best_two_lack(make: Make, tmp_path: Path) -> None:
    comparison = sweep_of(make, tmp_path, [0.03, -0.01, 0.02])
    (line,) = comparison_page.more_seeds(tmp_path, comparison)
    needed = comparison.needed
    assert needed is not None
    assert needed > 3
    program, script, *arguments = shlex.split(line)
    assert (program, script, arguments[0]) == ("python", "train.py", "-m")
    assert arguments[1:] == [
        f"sweep.resume={tmp_path}",
        "scheduler=good,less",
        "optimizer.lr=0.1",
        f"seed=range({needed})",
    ]
    parsed = {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(arguments[1:])}
    assert list(parsed["seed"].sweep_string_iterator()) == [str(n) for n in range(needed)]
    assert line.replace("'", "&#39;") in page_of(tmp_path)


def test_the_line_resumes_the_sweep_with_what_it_had(make: Make, tmp_path: Path) -> None:
    comparison = sweep_of(make, tmp_path, [0.03, -0.01, 0.02], "trainer.max_epochs=3")
    task = ["trainer.max_epochs=3", "scheduler=good,less", "optimizer.lr=0.1,0.2", "seed=0,1,2"]
    overrides: dict[str, Any] = {"hydra": {"overrides": {"task": task, "hydra": []}}}
    files.write_json(tmp_path / rundir.SWEEP, overrides)  # JSON is YAML, too
    (line,) = comparison_page.more_seeds(tmp_path, comparison)
    expanded = resume.arguments(shlex.split(line)[2:])
    assert expanded[:2] == ["-m", "trainer.max_epochs=3"]
    assert set(expanded[2:5]) == {"scheduler=good,less", "optimizer.lr=0.1", f"seed=range({comparison.needed})"}


def test_two_that_differ_in_two_keys_have_a_line_each(make: Make, tmp_path: Path) -> None:
    files.write(tmp_path / rundir.SWEEP, "")
    for seed, gap in enumerate((0.03, -0.01, 0.02)):
        for scheduler, lr, val in (("good", 0.1, 0.9 + gap), ("less", 0.2, 0.9), ("good", 0.2, 0.5)):
            make(f"{scheduler}{lr}{seed}", f"scheduler={scheduler}", f"optimizer.lr={lr}", f"seed={seed}", val=val)
    lines = comparison_page.more_seeds(tmp_path, Comparison(list_runs([tmp_path])))
    chosen = [shlex.split(line)[4:-1] for line in lines]
    assert chosen == [["scheduler=good", "optimizer.lr=0.1"], ["scheduler=less", "optimizer.lr=0.2"]]


@pytest.mark.parametrize("gaps", [[0.010, 0.011, 0.012], [0.0, 0.0]], ids=["told apart", "equal"])
def test_there_is_no_line_where_no_seeds_would_help(make: Make, tmp_path: Path, gaps: list[float]) -> None:
    assert comparison_page.more_seeds(tmp_path, sweep_of(make, tmp_path, gaps)) == []


def test_a_sweep_without_seeds_keeps_its_own_and_a_search_tells_each_alone(make: Make, tmp_path: Path) -> None:
    comparison = sweep_of(make, tmp_path, [0.03], seeds=False)
    (line,) = comparison_page.more_seeds(tmp_path, comparison)
    assert line.endswith("'seed=range(1,3)'")  # seed 0 has run without being named
    (tmp_path / rundir.STUDY).touch()
    lines = [shlex.split(line) for line in comparison_page.more_seeds(tmp_path, comparison)]
    assert [line[2:] for line in lines] == [
        ["-m", f"scheduler={name}", "optimizer.lr=0.1", "seed=range(1,3)"] for name in ("good", "less")
    ]


def test_every_run_failed(make: Make, tmp_path: Path) -> None:
    for n in range(2):
        make(str(n), f"seed={n}", status="failed")
    text = page_of(tmp_path)
    assert "No run has a result" in text
    assert "<svg" not in text
    assert "<h2>The best two" not in text
