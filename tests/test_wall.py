"""Every mistake of a run and the map of its test images, in a real browser."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from cifar_pl.data.datamodule import DataModule
from cifar_pl.evaluation.calibration import reliability
from cifar_pl.evaluation.features import Explored
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.reporting import page
from tests.test_page import FACTS, MOST, WIDTHS, images, small_run
from tests.test_page import shown as opened

# Some would run as code, some mean something in an address, and two pairs are "a-b-dog" when joined.
CLASSES = ["cat", "dog", "a", "a-b", "b-dog", "labels", "</script><img src=x onerror=alert(1)>", "50%&bin=1/?#é"]


def guesses(n: int, classes: int, seed: int = 0) -> Predictions:
    logits = 2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))
    return Predictions(logits, torch.arange(n) % classes, torch.arange(n))


def noise(n: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def explored(mapped: Sequence[int]) -> Explored:
    """A map on which the images are in a circle."""
    angles = np.linspace(0, 2 * np.pi, len(mapped), endpoint=False)
    place = np.stack([np.cos(angles), np.sin(angles)], 1) / 2 + 0.5
    return Explored({}, 0, np.array(mapped), place.clip(0, 1).astype(np.float32), 0)


def write(out: Path, predictions: dict[str, Predictions], data: DataModule, explored: Explored | None = None) -> Path:
    small_run(out)
    page.write(out, out / "report.html", FACTS, predictions, data, None, explored)
    return out / "report.html"


@pytest.fixture(scope="module")
def predictions() -> dict[str, Predictions]:
    return {"test": guesses(240, len(CLASSES)), "val": guesses(160, len(CLASSES), seed=1)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, predictions: dict[str, Predictions]) -> Path:
    return write(tmp_path_factory.mktemp("run"), predictions, images(CLASSES, noise(240)), explored(range(100)))


def numbers(tab: Page) -> list[int]:
    """The images on the wall in their order, all of them; none is there without a text."""
    tab.locator("#mistakes .more").evaluate("button => { while (!button.hidden) button.click() }")
    texts = tab.locator("#mistakes li .tile").evaluate_all("tiles => tiles.map(tile => tile.ariaLabel)")
    return [int(re.match(r"image (\d+)\b", text)[1]) for text in texts]  # type: ignore[index]


def wrong(of: Predictions, true: int | None = None, predicted: int | None = None) -> set[int]:
    chosen = of.predicted != of.label
    if true is not None:
        chosen &= of.label == true
    if predicted is not None:
        chosen &= of.predicted == predicted
    return set(of.index[chosen].tolist())


def count(tab: Page) -> str:
    return tab.locator("#mistakes output").inner_text()


# Click every link of the tables; what each opened, by the table's split and kind and the place of the cell in it.
CLICK = """async () => {
  const found = {};
  for (const link of document.querySelectorAll("td a")) {
    const opened = new Promise(done => addEventListener("hashchange", done, {once: true}));
    link.click();
    await opened;
    const cell = link.closest("td"), row = link.closest("tr"), table = link.closest("table");
    const place = [table.dataset.split, table.className, row.sectionRowIndex, cell.cellIndex - 1].join(" ");
    found[place] = [...document.querySelectorAll("#mistakes li .tile")].map(tile => tile.ariaLabel.match(/\\d+/)[0]);
    found[place].push(document.querySelector("#mistakes output").textContent);
  }
  return found;
}"""


def test_every_figure_of_the_tables_opens_its_images(
    chromium: Browser, written: Path, predictions: dict[str, Predictions]
) -> None:
    everything = sum(len(wrong(of)) for of in predictions.values())
    expected = {}
    for (split, of), true in product(predictions.items(), range(len(CLASSES))):
        expected[f"{split} scores {true} 0"] = wrong(of, true)  # its accuracy: what it was taken for
        expected[f"{split} scores {true} 1"] = wrong(of, None, true)  # its precision: what was taken for it
        for predicted in range(len(CLASSES)):
            expected[f"{split} matrix {true} {predicted}"] = wrong(of, true, predicted)
    expected = {place: images for place, images in expected.items() if images}
    with opened(chromium, written) as tab:
        found = tab.evaluate(CLICK)
        assert found.keys() == expected.keys()
        for place, (*numbers, count) in found.items():
            assert sorted(map(int, numbers)) == sorted(expected[place])
            assert count == f"{len(numbers)} of {everything} mistakes"


def test_the_bins_of_the_reliability_open_their_mistakes(
    chromium: Browser, written: Path, predictions: dict[str, Predictions]
) -> None:
    test = predictions["test"]
    bins = reliability(test)
    expected = (bins[:, 0] * (1 - bins[:, 2])).round().astype(int)
    with opened(chromium, written) as tab:
        links = tab.locator("#bins a")
        found = []
        for n in range(links.count()):
            links.nth(n).click()
            bin_ = str(links.nth(n).get_attribute("href")).partition("bin=")[2]
            expect(tab.locator("[name=bin]")).to_have_value(bin_)
            found.append(len(numbers(tab)))
        assert found == expected[expected > 0].tolist()
        assert sum(found) == len(wrong(test))


def test_an_address_opens_its_images_at_once_and_the_way_back_too(
    chromium: Browser, written: Path, predictions: dict[str, Predictions]
) -> None:
    test, val = predictions["test"], predictions["val"]
    with opened(chromium, written, "#cat-dog") as tab:
        assert set(numbers(tab)) == wrong(test, 0, 1)
        assert tab.locator("#mistakes h2").bounding_box()["y"] < 100  # type: ignore[index]
        tab.evaluate("location.hash = '#-dog&split=val&sort=loss'")
        expect(tab.locator("[name=split]")).to_have_value("val")
        assert set(numbers(tab)) == wrong(val, None, 1)
        tab.go_back()
        expect(tab.locator("[name=split]")).to_have_value("test")
        assert set(numbers(tab)) == wrong(test, 0, 1)
        tab.select_option("[name=predicted]", "")  # the form writes the address, too
        again = tab.locator(".matrix[data-split=test] td a[href='#cat-dog']")
        for _ in range(2):  # the second time the address stays the same
            tab.evaluate("scrollTo(0, 0)")
            again.click()
            expect(tab.locator("#mistakes h2")).to_be_focused()
            assert set(numbers(tab)) == wrong(test, 0, 1)
            tab.locator("[name=true]").focus()
        everywhere = len(wrong(test, 0, 1)) + len(wrong(val, 0, 1))
        tab.evaluate("location.hash = '#cat-dog&split=any'")
        expect(tab.locator("#mistakes output")).to_contain_text(f"{everywhere} of")


@pytest.mark.parametrize("fragment", ["#labels", "#cat-wolf", "#%", "#a-b-dog", "#-&bin=77&split=x&true=0"])
def test_an_address_that_names_no_images_changes_nothing(
    chromium: Browser, written: Path, predictions: dict[str, Predictions], fragment: str
) -> None:
    with opened(chromium, written, fragment) as tab:
        assert set(numbers(tab)) == wrong(predictions["test"])


def test_the_form_filters_sorts_and_keeps_the_address(
    chromium: Browser, written: Path, predictions: dict[str, Predictions]
) -> None:
    test = predictions["test"]
    log_p = test.logits.double().log_softmax(1)
    loss, sure = -log_p[torch.arange(240), test.label], log_p.amax(1)
    with opened(chromium, written) as tab:
        for order, score in (("confidence", sure), ("loss", loss)):
            tab.select_option("[name=sort]", order)
            found = numbers(tab)
            assert set(found) == wrong(test)
            assert (score[found].diff() < 1e-4).all()  # the page has four digits
        tab.select_option("[name=true]", label=CLASSES[-1])
        tab.select_option("[name=predicted]", label=CLASSES[-2])
        assert set(numbers(tab)) == wrong(test, 7, 6)
        address = tab.url
    with opened(chromium, written, "#" + address.partition("#")[2]) as tab:
        assert set(numbers(tab)) == wrong(test, 7, 6)
        assert tab.locator("[name=sort]").input_value() == "loss"
        tab.focus("[name=true]")
        tab.keyboard.press("Home")  # to "any"
        assert set(numbers(tab)) == wrong(test, None, 6)


def test_a_wall_is_one_stop_of_the_keyboard_and_shows_what_has_the_focus(chromium: Browser, written: Path) -> None:
    with opened(chromium, written) as tab:
        tiles, detail = tab.locator("#mistakes li .tile"), tab.locator("#mistakes .detail")
        expect(tiles).to_have_count(120)
        assert not detail.is_visible()
        tab.locator("[name=sort]").focus()
        tab.keyboard.press("Tab")
        across = tiles.evaluate_all("tiles => tiles.filter(tile => tile.offsetTop === tiles[0].offsetTop).length")
        for key, place in (("ArrowRight", 1), ("ArrowDown", 1 + across), ("ArrowLeft", across), ("ArrowUp", 0)):
            tab.keyboard.press(key)
            expect(tiles.nth(place)).to_be_focused()
            expect(detail).to_have_text(str(tiles.nth(place).get_attribute("aria-label")))
        assert tab.locator("#mistakes li .tile[tabindex='0']").count() == 1
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")  # the button for more
        expect(tiles.nth(120)).to_be_focused()
        tiles.nth(5).hover()
        expect(detail).to_have_text(str(tiles.nth(5).get_attribute("aria-label")))


def test_nothing_is_cut_off_at_any_width(chromium: Browser, written: Path) -> None:
    with opened(chromium, written) as tab:
        for width, scheme in product(WIDTHS, ("light", "dark")):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            tab.locator("#mistakes li .tile").first.hover()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_map_shows_the_image_that_is_pointed_to(
    chromium: Browser, written: Path, predictions: dict[str, Predictions]
) -> None:
    test = predictions["test"]
    with opened(chromium, written) as tab:
        canvas, detail = tab.locator("canvas"), tab.locator("#map .detail")
        canvas.scroll_into_view_if_needed()
        painted = (
            "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
        )
        assert canvas.evaluate(painted) > len(CLASSES)
        before = canvas.screenshot()
        side = canvas.evaluate("canvas => canvas.clientWidth")
        # Image 0 is at the right, 25 on top, 50 at the left, 75 at the foot.
        for index, (x, y) in {0: (1, 0.5), 25: (0.5, 0), 50: (0, 0.5), 75: (0.5, 1)}.items():
            canvas.hover(position={"x": 9 + x * (side - 18), "y": 9 + y * (side - 18)})
            expect(detail).to_contain_text(f"image {index} (test): {CLASSES[index % 8]}")
            said = CLASSES[int(test.predicted[index])]
            expect(detail).to_contain_text("right" if said == CLASSES[index % 8] else f"taken for {said}")
        canvas.focus()
        tab.keyboard.press("ArrowUp")
        expect(detail).not_to_contain_text("image 75 ")
        tab.locator("#map select").select_option(label="dog")
        assert canvas.screenshot() != before
        assert tab.locator(".legend span").all_inner_texts() == [f" {name}" for name in CLASSES]


def test_a_run_without_mistakes_has_a_map_but_no_wall(chromium: Browser, tmp_path: Path) -> None:
    label = torch.arange(60) % 3
    right = Predictions(9 * torch.nn.functional.one_hot(label).float(), label, torch.arange(60))
    with opened(chromium, write(tmp_path, {"test": right}, images(), explored(range(60)))) as tab:
        assert tab.locator("#map .detail").inner_text().endswith("right")
        assert tab.locator("#mistakes, td a, #bins").count() == 0
    write(tmp_path, {"test": right}, images())
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_images_from_files_are_called_by_their_names(chromium: Browser, tmp_path: Path) -> None:
    files = [Path(f"/data/test/cat/<b>{n} caf\udce9.png") for n in range(60)]  # not UTF-8
    with opened(chromium, write(tmp_path, {"test": guesses(60, 3)}, images(files=files))) as tab:
        tab.locator("#mistakes li .tile").first.hover()
        expect(tab.locator("#mistakes .detail")).to_contain_text(re.compile(r"^\s*cat/<b>\d+ caf\\udce9\.png: [abc] "))


def test_a_network_that_diverged_has_a_wall(chromium: Browser, tmp_path: Path) -> None:
    nothing = Predictions(torch.full((60, 3), torch.nan), torch.arange(60) % 3, torch.arange(60))
    with opened(chromium, write(tmp_path, {"test": nothing}, images(), explored(range(60)))) as tab:
        assert set(numbers(tab)) == wrong(nothing)
        assert "n/a" in tab.locator("#map .detail").inner_text()


@pytest.mark.parametrize("classes", [2, 100])
def test_two_classes_and_a_hundred(chromium: Browser, tmp_path: Path, classes: int) -> None:
    of, names = guesses(400, classes), [f"class {n}" for n in range(classes)]
    written = write(tmp_path, {"test": of}, images(names, noise(400)), explored(range(400)))
    with opened(chromium, written, "#class%201-class%200") as tab:
        assert set(numbers(tab)) == wrong(of, 1, 0)
        assert tab.locator(".legend").count() == (classes == 2)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "side"), [(10, 32), (100, 64)])
def test_a_page_of_ten_thousand_images_is_small_however_wrong_it_is(
    chromium: Browser, tmp_path: Path, classes: int, side: int
) -> None:
    """Noise is the least compressible; what else the page may hold, with photographs, is in test_page.py."""
    names = [f"{n:03}" + "x" * 20 for n in range(classes)]
    of = {"test": guesses(10_000, classes), "val": guesses(5_000, classes, 1)}
    files = [Path(f"/{n:05}{'y' * 40}.png") for n in range(10_000)]
    data = images(names, noise(10_000, side), files=files)
    written = write(tmp_path, of, data, explored(range(2000)))
    assert written.stat().st_size < MOST - 1_000_000
    with opened(chromium, written) as tab:
        total = len(wrong(of["test"])) + len(wrong(of["val"]))
        assert f"Of {total:,} misclassified images the 4,000 surest" in tab.inner_text("#mistakes")
        assert count(tab).endswith(f"of 4000 shown mistakes; there are {total} in all")
