"""The page of a real run in a real browser."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from playwright.sync_api import Browser, Page

from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.images import Images, Source
from cifar_pl.evaluation.cases import Case, select, suspects
from cifar_pl.evaluation.features import Explored, Neighbours
from cifar_pl.evaluation.gallery import Gallery
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.reporting import figures, page
from cifar_pl.runs import files

MOST = 4_000_000  # bytes
WIDTHS = (320, 390, 1100)  # pixels


@contextmanager
def shown(chromium: Browser, page: Path, fragment: str = "") -> Iterator[Page]:
    """A page on a phone; afterwards, that it said nothing and asked for nothing but itself."""
    tab = chromium.new_page(viewport={"width": 390, "height": 844})
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith("data:") else heard.append(request.url))
    tab.goto(page.as_uri() + fragment)
    yield tab
    assert heard == [page.as_uri()]
    tab.close()


@pytest.fixture
def opened(chromium: Browser, finished_run: Path) -> Iterator[Page]:
    """The page of a real run."""
    with shown(chromium, finished_run / "report.html") as tab:
        yield tab


def mistakes(run: Path) -> list[dict[str, str]]:
    with (run / "misclassified.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_page_shows_the_runs_numbers(opened: Page, finished_run: Path) -> None:
    summary = files.read_json(finished_run / "summary.json")
    text = opened.inner_text("body")
    assert opened.inner_text("h1") == f"{summary['test']['acc']:.2%} of 359 test images right"
    for expected in (
        f"{summary['val']['best_acc']:.2%}",
        f"{summary['lr']['value']:.3g}",
        f"{summary['images_per_second']:,.0f} images/s",
        f"{summary['calibration']['test_ece']:.3g}",
        f"python train.py {' '.join(summary['overrides'][:3])}",
        "Range test: the loss falls from",
        f"torch {torch.__version__.partition('+')[0]}",
    ):
        assert expected in text
    counts = Predictions.load(finished_run / "predictions.npz").confusion(10)
    cells = opened.locator("table.matrix").first.locator("tbody td").all_inner_texts()
    assert [0 if cell == "·" else int(cell) for cell in cells] == counts.flatten().tolist()
    assert (finished_run / "report.html").stat().st_size < MOST


def test_every_mistake_is_there_and_every_picture_has_a_text(opened: Page, finished_run: Path) -> None:
    cases = mistakes(finished_run)
    assert opened.locator(".case").count() == len(cases)
    assert opened.locator(".case .tiles:first-child img").count() == 3 * len(cases)
    captions = opened.locator(".case .tiles:first-child figcaption").all_inner_texts()[::3]
    assert captions == [f"image {row['index']}" for row in cases]
    assert opened.locator("img:not([alt]), img[alt='']").count() == 0
    assert opened.locator("svg").count() == opened.locator("[role=img][aria-label] svg").count() == 3
    ids = re.findall(r'\bid="([^"]+)"', opened.content())
    assert len(ids) == len(set(ids))
    loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert opened.evaluate(loaded)


def test_nothing_is_cut_off_and_both_schemes_are_readable(opened: Page) -> None:
    for width in WIDTHS:
        opened.set_viewport_size({"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    luminance = "c => c.match(/\\d+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0)"
    for scheme, darker in (("light", "color"), ("dark", "backgroundColor")):
        opened.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        colors = opened.evaluate(
            f"(() => {{ const light = {luminance}, s = getComputedStyle(document.body);"
            " return {color: light(s.color), backgroundColor: light(s.backgroundColor)} })()"
        )
        other = {"color": "backgroundColor", "backgroundColor": "color"}[darker]
        assert colors[darker] + 400 < colors[other]


FACTS = {"status": "interrupted", "git": None}
GREY = np.full((60, 8, 8, 3), 128, np.uint8)


def small_run(directory: Path) -> Predictions:
    """The least that a run directory holds, and predictions for three classes."""
    files.write(directory / "config.yaml", "aug: <script>alert(1)</script>\n")
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    return Predictions(logits, torch.arange(60) % 3, torch.arange(60))


def images(
    classes: Sequence[str] = "abc",
    pixels: np.ndarray = GREY,
    protocol: str = "honest",
    files: Sequence[Path] = (),
) -> DataModule:
    part = Images(pixels, np.arange(len(pixels)) % len(classes), tuple(files))
    data = DataModule(lambda: Source(part, part, tuple(classes)), {}, val_size=9, batch_size=1, protocol=protocol)
    data.load()
    return data


def gallery(cases: list[Case], pixels: np.ndarray, classes: Sequence[str] = "abc", title: str = "", layer: str = "l"):
    maps = np.random.default_rng(0).random((1, len(cases), 2, *pixels.shape[1:3]), np.float32).astype(np.float16)
    drops = np.zeros((1, len(cases), 3), np.float32)
    return Gallery(title, "val", classes, cases, pixels[: len(cases)], "gradcam", [layer], maps, drops, maps[:, :, 0])


def neighbours(n: int) -> Neighbours:
    """Of each of n images: itself, the next two, and how alike they are."""
    near = (np.arange(n)[:, None] + np.arange(3)) % n
    return Neighbours(np.arange(n), near, np.tile(np.float32([1, 0.5, -1]), (n, 1)), np.zeros(n, bool))


def test_a_mistake_stands_beside_the_nearest_training_images(tmp_path: Path) -> None:
    predictions = small_run(tmp_path)
    examples = gallery(select(predictions, 4), GREY)
    explored = Explored({"val": neighbours(60)}, 51, np.arange(0), np.zeros((0, 2), np.float32), 60)
    page.write(tmp_path, tmp_path / "report.html", FACTS, {"val": predictions}, images(), examples, explored)
    text = (tmp_path / "report.html").read_text()
    for case in examples.cases:
        for step, cosine in enumerate(("1.00", "0.50", "-1.00")):
            other = (case.index + step) % 60
            assert f"training image {other}, {'abc'[other % 3]}, cosine {cosine}" in text
    doubted = [case.index for case in suspects(predictions)]
    for case in examples.cases:
        if case.index in doubted:
            assert f"suspect label no. {doubted.index(case.index) + 1} of {len(doubted)}" in text
    assert "of 51 training images" in text
    assert 'id="map"' not in text


def test_names_from_outside_are_text_and_never_code(tmp_path: Path) -> None:
    evil = "<script>alert(2)</script>"
    predictions = small_run(tmp_path)
    classes = [evil, "b", "c"]
    examples = gallery(select(predictions, 4), GREY, classes, evil, evil)
    page.write(tmp_path, tmp_path / "report.html", FACTS, {"val": predictions}, images(classes), examples)
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(2)" in text


def test_an_unfinished_runs_page_says_what_was_not_read(tmp_path: Path) -> None:
    predictions = small_run(tmp_path)
    page.write(tmp_path, tmp_path / "report.html", FACTS, {"val": predictions}, images())
    text = (tmp_path / "report.html").read_text()
    assert "These weights were not tested" in text
    assert "interrupted" in text
    assert "test-selected" not in text
    page.write(tmp_path, tmp_path / "report.html", FACTS, {"test": predictions}, images(protocol="published"))
    text = (tmp_path / "report.html").read_text()
    assert 'class="warn">test-selected' in text
    assert "right, test-selected</title>" in text
    page.write(tmp_path, tmp_path / "report.html", FACTS, {"test": predictions}, images())
    assert "not the weights that the run tested" in (tmp_path / "report.html").read_text()


def test_a_run_without_a_mistake_has_no_section_of_mistakes_or_suspect_labels(tmp_path: Path) -> None:
    predictions = small_run(tmp_path)
    right = torch.nn.functional.one_hot(predictions.label, 3) * 9.0
    for logits, there in ((predictions.logits, True), (right, False)):
        shown = {"val": predictions._replace(logits=logits)}
        page.write(tmp_path, tmp_path / "report.html", FACTS, shown, images())
        text = (tmp_path / "report.html").read_text()
        assert all((f'id="{section}"' in text) == there for section in ("mistakes", "labels"))
    assert (tmp_path / "suspect_labels_val.csv").read_text().count("\n") == 1  # its header


def test_photographs_do_not_make_the_page_large(tmp_path: Path) -> None:
    predictions = small_run(tmp_path)
    photograph = Image.open(Path(sklearn.datasets.__file__).parent / "images/china.jpg").crop((0, 0, 224, 224))
    many = np.stack([np.asarray(photograph)] * 60)
    examples = gallery(select(predictions, 25), many)
    near = Explored({"val": neighbours(60)}, 60, np.arange(60), np.zeros((60, 2), np.float32), 60)
    files.write(tmp_path / "figures/augmentations.png", figures.png(figures.augmentations(many[:8], [many[:8]] * 8)))
    page.write(tmp_path, tmp_path / "report.html", FACTS, {"val": predictions}, images(pixels=many), examples, near)
    assert (tmp_path / "report.html").stat().st_size < MOST


def test_a_page_without_any_predictions_still_opens(tmp_path: Path) -> None:
    small_run(tmp_path)
    page.write(tmp_path, tmp_path / "report.html", FACTS, {}, images())
    assert "No predictions were kept" in (tmp_path / "report.html").read_text()
    diverged = Predictions(torch.full((6, 3), torch.nan), torch.arange(6) % 3, torch.arange(6))
    page.write(tmp_path, tmp_path / "report.html", FACTS, {"val": diverged, "test": diverged}, images())
    assert "n/a" in (tmp_path / "report.html").read_text()
