"""Pictures are looked at by people; these tests hold only what a person could not see."""

import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cifar_pl.reporting import figures

RNG = np.random.default_rng(0)


def pixels(n: int, size: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (n, size, size, 3), np.uint8)


def texts(figure: Figure) -> set[str]:
    return {t.get_text() for ax in figure.axes for t in [*ax.texts, ax.title]}


def test_the_confusion_matrix_shows_every_count() -> None:
    counts = np.arange(9).reshape(3, 3)
    figure = figures.confusion_matrix(counts, ["a", "b", "c"], "title")
    assert texts(figure) >= {str(n) for n in range(9)}
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]


def test_a_name_with_dollars_is_no_mathematics() -> None:
    figure = figures.confusion_matrix(np.eye(2, dtype=int), ["$_$", "b"], "title")
    assert figures.png(figure)
    maps = {"layer3": (np.zeros((1, 8, 8), np.float32),) * 2}
    assert figures.png(figures.gallery(pixels(1), maps, [("image 0", "said $_$", "is $^$")], "t"))


def test_svgs_share_no_id_and_take_the_pages_colours() -> None:
    one, other = (
        figures.svg(figures.curves([{"epoch": 1, "train/loss": 1.0, "train/acc": 0.5, "lr": 0.1}]), name)
        for name in "ab"
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', one))
    assert used
    assert used <= ids[0]
    assert "currentColor" in one
    assert "#000000" not in one


@pytest.mark.parametrize("number", [1, 2, 25])
def test_the_gallery_has_three_tiles_per_image_and_layer(number: int) -> None:
    maps = {layer: (RNG.random((number, 8, 8), np.float32),) * 2 for layer in ("layer3", "layer4")}
    figure = figures.gallery(pixels(number), maps, [(f"image {n}", f"said {n}", f"is {n}") for n in range(number)], "t")
    assert sum(len(ax.images) for ax in figure.axes) == 5 * number
    assert texts(figure) >= {f"image {n}" for n in range(number)} | {f"is {n}\nlayer4" for n in range(number)}


def test_curves_leave_gaps_where_there_was_no_validation() -> None:
    trained = {"train/loss": 1.0, "train/acc": 0.5, "lr": 0.1}
    rows = [{"epoch": e, **trained, **({"val/acc": 0.5, "val/loss": 1.0} if e % 2 else {})} for e in range(1, 6)]
    lines = {line.get_label(): line for line in figures.curves(rows).axes[1].lines}
    assert list(lines["train"].get_xdata()) == [1, 2, 3, 4, 5]
    assert list(lines["val"].get_xdata()) == [1, 3, 5]


def test_a_cold_heat_map_leaves_the_image_grey_and_a_hot_one_colours_it() -> None:
    image = pixels(1)[0]
    cold, hot = (figures.overlay(image, np.full((8, 8), v, np.float32)) for v in (0.0, 1.0))
    np.testing.assert_allclose(cold[..., 0], image.mean(axis=2), atol=1)
    assert (cold[..., 0] == cold[..., 2]).all()
    assert (hot[..., 0].astype(int) - hot[..., 2]).min() > 20


def test_png_is_a_png() -> None:
    figure = figures.augmentations(pixels(2), [pixels(2), pixels(2)])
    with Image.open(io.BytesIO(figures.png(figure))) as image:
        assert image.format == "PNG"
