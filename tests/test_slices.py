import numpy as np
import pytest
from scipy.stats import chi2

from cifar_pl.evaluation import slices
from cifar_pl.evaluation.metrics import interval
from cifar_pl.evaluation.predictions import SPLITS
from cifar_pl.evaluation.slices import Slice
from cifar_pl.reporting import page

GREY = np.full((1, 8, 8, 3), 51, np.uint8)


def look(name: str, *images: np.ndarray) -> list[float]:
    return slices.looks(images)[name].tolist()


def test_brightness_is_the_mean_luma() -> None:
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert look("brightness", GREY, red) == pytest.approx([0.2, 0.299], abs=1e-6)


def test_contrast_is_the_standard_deviation() -> None:
    halves = np.zeros((1, 8, 8, 3), np.uint8)
    halves[:, :4] = 255
    assert look("contrast", GREY, halves) == pytest.approx([0, 0.5], abs=1e-6)


def test_sharpness_is_zero_on_a_slope_and_highest_on_a_checkerboard() -> None:
    slope = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None] * 20, (1, 8, 8, 3))
    checks = np.indices((8, 8)).sum(0) % 2 * 255
    board = np.repeat(checks[None, :, :, None].astype(np.uint8), 3, axis=3)
    assert look("sharpness", GREY, slope, board) == pytest.approx([0, 0, 16], abs=1e-5)  # the Laplacian is 4 or -4


def test_saturation_is_that_of_hsv() -> None:
    pink = np.full((1, 8, 8, 3), 200, np.uint8)
    pink[..., 1] = 50
    assert look("saturation", GREY, pink, np.zeros_like(GREY)) == pytest.approx([0, 0.75, 0], abs=1e-6)


def test_batches_do_not_show() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    whole, parts = slices.looks([images]), slices.looks(np.split(images, [7]))
    for name in slices.LOOKS:
        np.testing.assert_array_equal(whole[name], parts[name])


def test_fifths_hold_each_image_once_in_order_of_their_values() -> None:
    values = np.random.default_rng(0).permutation(102) / 100
    right = values < 0.205  # the lowest 21 images
    parts = slices.fifths("brightness", values, right)
    assert [one.n for one in parts] == [21, 21, 20, 20, 20]
    assert [one.right for one in parts] == [21, 0, 0, 0, 0]
    assert [one.part for one in parts][:2] == ["0 to 0.2", "0.21 to 0.41"]
    assert parts[0].accuracy == 1
    assert parts[1].interval == interval(0, 21)


def test_there_are_no_fifths_of_four_images_or_of_what_is_all_the_same() -> None:
    assert slices.fifths("contrast", np.arange(4.0), np.ones(4, bool)) == []
    assert slices.fifths("saturation", np.zeros(50), np.ones(50, bool)) == []
    assert slices.fifths("saturation", np.append(np.zeros(30), np.arange(20.0)), np.ones(50, bool)) == []


def test_near_duplicates_are_counted_apart() -> None:
    right = np.array([True, True, False, True, False])
    twice = np.array([True, False, True, False, False])
    assert slices.duplicates(twice, right) == [
        Slice("duplicates", "near-duplicates", 2, 1),
        Slice("duplicates", "others", 3, 2),
    ]
    assert slices.duplicates(np.zeros(5, bool), right) == slices.duplicates(np.ones(5, bool), right) == []


def test_the_chance_of_a_difference_is_that_of_chi_square() -> None:
    parts = [Slice("", "", 100, right) for right in (80, 90, 85, 95, 100)]
    statistic = sum((one.right - 90) ** 2 * (1 / 90 + 1 / 10) for one in parts)
    assert slices.chance(parts) == pytest.approx(chi2(4).sf(statistic))
    assert slices.chance([Slice("", "", 100, 90)] * 5) == 1
    assert slices.chance([Slice("", "", 10, 10), Slice("", "", 10, 10)]) == 1


def shown(looks: list[list[Slice]], twice: list[Slice], compared: int = 45_000) -> str:
    run = {"protocol": {"images": {"train": 45_000}}}
    sliced = "test", looks, twice
    return page.render("slices.html", sliced=sliced, splits=SPLITS, chance=slices.chance, compared=compared, run=run)


def test_the_page_has_rows_for_what_matters_and_a_sentence_for_the_rest() -> None:
    dark = [Slice("brightness", "", 1000, right) for right in (800, 900, 900, 900, 900)]
    flat = [Slice("contrast", "", 1000, 900)] * 5
    text = shown([dark, flat], [])
    assert text.count("<td") == 5
    assert '<th scope="row">brightness</th>' in text
    low, high = interval(800, 1000)
    assert f"80.0%<small>{100 * low:.1f} to {100 * high:.1f}</small>" in text
    assert "No difference shown by contrast (p = 1)" in text
    assert "training image" not in text


def test_the_page_says_the_accuracy_without_near_duplicates() -> None:
    twice = [Slice("duplicates", "", 300, 285), Slice("duplicates", "", 9700, 8730)]
    text = shown([], twice)
    assert "300 of the images show almost the same as one of 45,000 training images: 95.0% of them are right" in text
    assert "Without them the accuracy is 90.00% (" in text
    assert "<table" not in text
    assert "Without them" not in shown([], twice, compared=2000)  # others may have theirs among the rest
    assert shown([], []).strip() == ""
