"""Pictures are looked at by people; these tests hold only what a person could not see."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cifar_pl.evaluation.cases import Case
from cifar_pl.evaluation.gallery import Gallery
from cifar_pl.reporting import comparison_figures, figures
from cifar_pl.runs import files

RNG = np.random.default_rng(0)


def pixels(n: int, size: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (n, size, size, 3), np.uint8)


def gallery(number: int, layers: list[str], classes: list[str]) -> Gallery:
    cases = [Case(n, 1, 0, 1, 0.1, 0.8, 0.1, 2.3) for n in range(number)]
    maps = RNG.random((len(layers), number, 2, 8, 8)).astype(np.float16)
    drops = RNG.random((len(layers), number, 2), np.float32)
    return Gallery("title", "val", classes, cases, pixels(number), "gradcam", layers, maps, drops, maps[:, :, 0])


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
    assert figures.png(figures.gallery(gallery(1, ["layer3"], ["$_$", "$^$"])))
    lines = {"$_$": np.ones((2, 2)), "$^$": np.ones((2, 2))}
    assert figures.png(comparison_figures.comparison(lines, "epoch", "accuracy"))


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
    figure = figures.gallery(gallery(number, ["layer3", "layer4"], ["cat", "dog"]))
    assert sum(len(ax.images) for ax in figure.axes) == 5 * number
    assert texts(figure) >= {f"image {n}" for n in range(number)} | {"said cat 80%\nlayer3", "is dog 10%\nlayer4"}


def test_curves_leave_gaps_where_there_was_no_validation() -> None:
    trained = {"train/loss": 1.0, "train/acc": 0.5, "lr": 0.1}
    rows = [{"epoch": e, **trained, **({"val/acc": 0.5, "val/loss": 1.0} if e % 2 else {})} for e in range(1, 6)]
    lines = {line.get_label(): line for line in figures.curves(rows).axes[1].lines}
    assert list(lines["train"].get_xdata()) == [1, 2, 3, 4, 5]
    assert list(lines["val"].get_xdata()) == [1, 3, 5]


def test_a_gallery_comes_back_from_its_file(tmp_path: Path) -> None:
    shown = gallery(3, ["layer3", "layer4"], ["cat", "dog"])
    files.write_npz(tmp_path / "gallery.npz", shown._asdict())
    again = Gallery.load(tmp_path / "gallery.npz")
    for name, value in again._asdict().items():
        np.testing.assert_array_equal(value, getattr(shown, name))
    assert again.cases == shown.cases


def test_ten_lines_of_a_comparison_have_colours_and_names() -> None:
    lines = {f"line {n}": np.array([[1.0, n, 0.1], [2.0, n, 0.1]]) for n in range(13)}
    figure = comparison_figures.comparison(lines, "rate", "accuracy", log=True)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*(f"line {n}" for n in range(10)), "3 others"]
    line, caps, _ = figure.axes[0].containers[12]
    assert {artist.get_color() for artist in (line, *caps)} == {"0.75"}


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
