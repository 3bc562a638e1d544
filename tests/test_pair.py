"""Two runs image by image: counts, what is refused, and the page in a browser."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page

from cifar_pl import report
from cifar_pl.data.digits import digits
from cifar_pl.errors import UserError
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import pair
from cifar_pl.reporting import pair_page
from cifar_pl.reporting.pair_page import Compared, Counts
from cifar_pl.runs import files, rundir
from tests.conftest import Ask, Make, copy_run

EVIL = "<script>alert(1)</script>"
SOURCE = {"_target_": "cifar_pl.data.digits.digits", "image_size": 8}
DIGITS: dict[str, Any] = {
    "data": {"source": SOURCE, "image_size": 8},
    "datamodule": {"source": SOURCE, "val_size": 100, "batch_size": 32},
}
LABEL = torch.from_numpy(digits(8).test.labels)


def predictions(wrong: range, label: torch.Tensor = LABEL, classes: int = 10) -> Predictions:
    """Right and sure but for the images of `wrong`, which it takes for the next class."""
    said = label.clone()
    said[list(wrong)] = (said[list(wrong)] + 1) % 10
    return Predictions(5 * torch.eye(classes)[said], label, torch.arange(len(label)))


def kept(run: Path, wrong: range, classes: Sequence[str] = "0123456789", split: str = "test") -> Path:
    """Give a run without a checkpoint predictions."""
    files.write_npz(run / rundir.PREDICTIONS[split], predictions(wrong, classes=max(10, len(classes)))._asdict())
    summary = files.read_json(run / "summary.json")
    summary["test"]["acc_per_class"] = dict.fromkeys(classes, 1.0)
    files.write_json(run / "summary.json", summary)
    return run


@pytest.fixture
def runs(make: Make) -> tuple[Path, Path]:
    """A is wrong on images 0 to 29, B on 20 to 24: they share five, and A alone is wrong on 25."""
    return (
        kept(make("a/run", "aug=a", val=0.9, **DIGITS), range(30)),
        kept(make("b/run", f"aug={EVIL}", val=0.9, **DIGITS), range(20, 25)),
    )


def test_every_image_is_in_one_group_and_the_groups_are_in_order() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (Predictions(3 * torch.randn(90, 3, generator=rng), torch.arange(90) % 3, torch.arange(90)) for _ in "ab")
    found = Compared(a, b)
    right = [(p.predicted == p.label).numpy() for p in (a, b)]
    both = right[0] & right[1]
    groups = [both, right[0] & ~right[1], right[1] & ~right[0], ~right[0] & ~right[1]]
    assert found.counts() == Counts(*(int(group.sum()) for group in groups))
    for rows, group in zip(found.walls(), groups, strict=True):
        assert sorted(rows.tolist()) == np.flatnonzero(group).tolist()
    by_class = [found.counts(label) for label in range(3)]
    assert Counts(*np.sum(by_class, axis=0).tolist()) == found.counts()
    assert found.counts().difference[0] == pytest.approx(b.accuracy() - a.accuracy())
    p = [one.logits.double().softmax(1).numpy() for one in (a, b)]
    for rows in found.walls()[1:3]:
        apart = [np.abs(p[0][row] - p[1][row]).sum() / 2 for row in rows]
        assert apart == sorted(apart, reverse=True)
    assert all(a.predicted[row] != b.predicted[row] for row in found.explained())


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        (Counts(10, 5, 5, 0), "not tell"),
        (Counts(10, 0, 0, 3), "not tell"),
        (Counts(10, 5, 0, 0), "not tell"),  # p = 1/16
        (Counts(10, 6, 0, 0), "A is the better"),  # p = 1/32
        (Counts(10, 2, 20, 0), "B is the better"),
    ],
)
def test_the_verdict_is_mcnemars(counts: Counts, verdict: str) -> None:
    assert verdict in counts.verdict


def test_the_page_of_a_pair_by_its_default_place(
    runs: tuple[Path, Path], ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(report.main, *runs) == 0
    text = (runs[0] / "compared/b/run/pair.html").read_text()
    assert "B is 6.96 points above A" in text  # 25 of 359
    assert "0 images are right with A alone, 25 with B alone" in text
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count('<button type="button" class="tile"') == 25 + 5 + pair_page.WALL
    assert "Right with A alone" not in text
    assert "Where they differ most" not in text  # the runs have no checkpoints
    assert "329 both right, 0 A alone, 25 B alone, 5 both wrong; p < 0.0001" in capsys.readouterr().out
    assert not list(runs[1].glob("*.html"))


def test_runs_of_one_name_in_two_sweeps_have_a_page_each(runs: tuple[Path, Path], make: Make, ask: Ask) -> None:
    for other in (runs[1], kept(make("c/run", val=0.9, **DIGITS), range(3))):
        assert ask(report.main, runs[0], other) == 0
    assert len(list((runs[0] / "compared").rglob("pair.html"))) == 2


def test_without_its_images_the_numbers_stay(
    runs: tuple[Path, Path], ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for run in runs:
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            config.replace("digits.digits", "cifar10.cifar10").replace("_size: 8", "_size: 32")
        )
    assert ask(report.main, *runs, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out/pair.html").read_text()
    assert "points above A" in text
    assert 'class="tile"' not in text
    assert "<script" not in text
    assert "its images are not shown" in caplog.text


def test_two_equal_networks_and_a_class_that_is_not_there(make: Make, ask: Ask, tmp_path: Path) -> None:
    runs = [kept(make(name, val=0.9, **DIGITS), range(0), (*"0123456789", EVIL)) for name in "ab"]
    assert ask(report.main, *runs, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out/pair.html").read_text()
    assert "A and B get equally many right" in text
    assert "do not tell the two networks apart" in text
    assert "Right with both: 359" in text
    assert "Wrong with both" not in text
    assert EVIL not in text


def test_what_cannot_be_compared_is_refused_by_name(make: Make, runs: tuple[Path, Path], tmp_path: Path) -> None:
    def refused(other: Path) -> str:
        with pytest.raises(UserError) as error:
            pair.find([runs[0], other])
        assert str(other) in str(error.value)
        return str(error.value)

    assert "the same run" in refused(runs[0] / "../run")
    assert "other classes" in refused(kept(make("c", val=0.9, **DIGITS), range(3), "abcdefghij"))
    other = {**DIGITS, "data": {"source": {"_target_": "cifar_pl.data.cifar10.cifar10"}}}
    assert "other data, digits and cifar10" in refused(kept(make("d", val=0.9, **other), range(3)))
    assert "kept no predictions" in refused(make("e", val=0.9, **DIGITS))
    assert "kept no predictions" in refused(make("f", status="interrupted", **DIGITS))
    files.write_npz(
        kept(make("g", val=0.9, **DIGITS), range(3)) / "predictions.npz", predictions(range(3), LABEL[:99])._asdict()
    )
    assert "their test images are not the same" in refused(tmp_path / "g")
    (kept(make("h", val=0.9, **DIGITS), range(3)) / "predictions.npz").write_bytes(b"PK")
    assert "damaged" in refused(tmp_path / "h")
    validated = kept(make("i", val=0.9, **DIGITS), range(3), split="val")
    assert "none to compare" in refused(validated)
    (kept(make("j", val=0.9, **DIGITS), range(3)) / "summary.json").write_text("{")
    assert "damaged" in refused(tmp_path / "j")
    assert "not for its 3 classes" in refused(kept(make("k", val=0.9, **DIGITS), range(3), "abc"))


def test_folders_of_equal_names_and_labels_are_told_apart_by_their_pixels(make: Make, tmp_path: Path) -> None:
    from PIL import Image

    runs = []
    for shade, name in ((0, "a"), (0, "b"), (90, "c")):
        for part in ("train", "test"):
            for n in range(8):
                path = tmp_path / f"images-{name}/{part}/{'xy'[n % 2]}/{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8, 3), 10 * n + shade + 5 * (part == "test"), np.uint8)).save(path)
        source = {
            "_target_": "cifar_pl.data.image_folder.image_folder",
            "root": f"{tmp_path}/images-{name}",
            "image_size": 8,
        }
        config = {"data": {"source": source}, "datamodule": {"source": source, "val_size": 0, "batch_size": 2}}
        runs.append(kept(make(name, val=None, **config), range(0), "xy"))
        label = torch.arange(2).repeat_interleave(4)
        found = Predictions(torch.eye(2)[label], label, torch.arange(8))
        files.write_npz(runs[-1] / "predictions.npz", found._asdict())
    assert pair.find(runs[:2]).data is not None
    with pytest.raises(UserError, match="not the same"):
        pair.find(runs[::2])


@pytest.fixture
def other(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a real run that predicted otherwise."""
    run = copy_run(finished_run, tmp_path / "other")
    for file in rundir.PREDICTIONS.values():
        found = Predictions.load(run / file)
        noise = torch.randn(found.logits.shape, generator=torch.Generator().manual_seed(0))
        files.write_npz(run / file, found._replace(logits=found.logits + 2 * noise)._asdict())
    return run


@pytest.fixture
def opened(chromium: Browser, finished_run: Path, other: Path, ask: Ask, tmp_path: Path) -> Iterator[Page]:
    """The page of a real pair; afterwards, that it said and asked for nothing."""
    assert ask(report.main, finished_run, other, "--out", tmp_path / "out") == 0
    tab = chromium.new_page(viewport={"width": 390, "height": 844})
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith("data:") else heard.append(request.url))
    address = (tmp_path / "out/pair.html").as_uri()
    tab.goto(address)
    yield tab
    assert heard == [address]
    tab.close()


def test_a_real_pair_in_a_browser(opened: Page, finished_run: Path, other: Path) -> None:
    a, b = (Predictions.load(run / "predictions_val.npz") for run in (finished_run, other))
    counts = Compared(a, b).counts()
    assert opened.locator(".quarters").count() == 2  # validation and test
    cells = opened.locator(".quarters").first.locator("td").all_inner_texts()
    assert [int(cell) for cell in cells] == [counts.both, counts.only_a, counts.only_b, counts.neither]
    opened.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert opened.locator(".wall .tile[aria-label]").count() == sum(min(n, pair_page.WALL) for n in counts)
    tile = opened.locator(".wall .tile[aria-label]").first
    tile.focus()
    assert opened.locator(".detail .text").first.inner_text() == tile.get_attribute("aria-label")
    assert opened.locator(".case").count() == pair_page.EXPLAINED
    assert opened.locator(".case img").count() == 3 * pair_page.EXPLAINED
    assert opened.locator("img:not([alt]), img[alt='']").count() == 0
    for width in (320, 390, 1100):
        opened.set_viewport_size({"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_an_interrupted_run_is_compared_by_its_last_validation(other: Path, finished_run: Path, tmp_path: Path) -> None:
    files.write_json(other / "status.json", {"status": "interrupted", "overrides": []})
    found = pair.find([finished_run, other])
    assert found.splits == ["val"]
    pair_page.write(tmp_path / "out", found, [])
    text = (tmp_path / "out/pair.html").read_text()
    assert "interrupted in epoch" in text
    assert "A and B get equally many right" in text  # its checkpoint is that of the finished run


def test_a_test_selected_run_is_compared_by_the_test_images_and_marked(
    other: Path, finished_run: Path, tmp_path: Path
) -> None:
    summary = files.read_json(other / "summary.json")
    summary["protocol"]["test_selected"] = True
    files.write_json(other / "summary.json", summary)
    config = (other / "config.yaml").read_text().replace("protocol: honest", "protocol: published")
    files.write(other / "config.yaml", config)
    found = pair.find([finished_run, other])
    assert found.splits == ["test"]
    pair_page.write(tmp_path / "out", found, [])
    assert "B is test-selected" in (tmp_path / "out/pair.html").read_text()
