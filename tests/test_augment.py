from collections.abc import Callable

import albumentations as A
import numpy as np
import pytest
from omegaconf import DictConfig

from cifar_pl.config.build import build
from cifar_pl.data.augment import Augment, cutout
from cifar_pl.errors import UserError

MEAN = (0.2, 0.4, 0.6)
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def standard(config: Callable[..., DictConfig], seed: int = 0, aug: str = "standard") -> Augment:
    return Augment(build(config(f"aug={aug}").aug), MEAN, seed)


def test_what_happens_depends_on_seed_epoch_and_index_alone(config: Callable[..., DictConfig]) -> None:
    one, other = standard(config, aug="cutout"), standard(config, aug="cutout")
    other(IMAGE, 5, 5)  # another history
    np.testing.assert_array_equal(one(IMAGE, 3, 7), other(IMAGE, 3, 7))
    for seed, epoch, index in ((1, 3, 7), (0, 4, 7), (0, 3, 8)):
        draw = standard(config, seed, "cutout")(IMAGE, epoch, index)
        assert not np.array_equal(draw, one(IMAGE, 3, 7))


def test_standard_is_a_crop_of_the_reflected_image_perhaps_mirrored(config: Callable[..., DictConfig]) -> None:
    augment = standard(config)
    padded = np.pad(IMAGE, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = {padded[y : y + 32, x : x + 32].tobytes(): (y, x, 0) for y in range(9) for x in range(9)}
    crops |= {padded[y : y + 32, x : x + 32][:, ::-1].tobytes(): (y, x, 1) for y in range(9) for x in range(9)}
    drawn = np.array([crops[augment(IMAGE, 0, index).tobytes()] for index in range(2000)])
    y, x, flip = drawn.T
    assert set(y) == set(x) == set(range(9))
    assert abs(flip.mean() - 0.5) < 0.05
    # One seed in every transform would couple the draws; 0.1 is 4.5 standard errors.
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.1


def test_cutout_hides_whole_squares_of_the_mean_colour() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    augment = Augment({"cutout": lambda fill: cutout(hole=16, fill=fill)}, MEAN, 0)
    for index in range(50):
        out = augment(white, 0, index)
        hidden = (out != white).any(axis=2)
        assert hidden.sum() == 16 * 16
        rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert len(rows) == len(columns) == 16
        assert (out[hidden] == [51, 102, 153]).all()  # 255 * MEAN


def test_cutout_takes_hole_number_and_probability() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    augment = Augment({"cutout": lambda fill: cutout(hole=2, number=3, p=0.5, fill=fill)}, MEAN, 0)
    areas = np.array([(augment(white, 0, index) != white).any(axis=2).sum() for index in range(400)])
    assert set(areas) <= {0, 4, 5, 6, 7, 8, 9, 10, 11, 12}
    assert areas.max() == 12
    assert abs((areas > 0).mean() - 0.5) < 0.1


@pytest.mark.parametrize("border", ["clipped", "half_clipped"])
def test_clipped_holes_lie_around_any_pixel(border: str) -> None:
    """Every span of 16 around a pixel of 32, cut at the border; the mean area is that of all 32 * 32 centres."""
    white = np.full((32, 32, 3), 255, np.uint8)
    starts = [max(c - 8, 0) for c in range(32)]
    ends = [min((c - 8 if border == "clipped" else start) + 16, 32) for c, start in enumerate(starts)]
    spans = {*zip(starts, ends, strict=True)}
    sides = [end - start for start, end in zip(starts, ends, strict=True)]
    augment = Augment({"cutout": lambda fill: cutout(hole=16, border=border, fill=fill)}, MEAN, 0)
    seen, areas = set(), []
    for index in range(3000):
        hidden = (augment(white, 0, index) != white).any(axis=2)
        areas.append(hidden.sum())
        for axis in (0, 1):
            at = np.flatnonzero(hidden.any(axis=axis))
            seen.add((int(at[0]), int(at[-1]) + 1))
        assert hidden.sum() == hidden.any(axis=0).sum() * hidden.any(axis=1).sum()  # a rectangle
    assert seen == spans
    area = np.mean(sides) ** 2  # (14)^2 and (15.125)^2
    assert abs(np.mean(areas) - area) < 4 * np.std(areas) / 3000**0.5


def test_none_changes_nothing(config: Callable[..., DictConfig]) -> None:
    np.testing.assert_array_equal(standard(config, aug="none")(IMAGE, 1, 2), IMAGE)


def test_null_leaves_a_transform_out(config: Callable[..., DictConfig]) -> None:
    augment = Augment(build(config("aug.pad=null", "aug.crop=null", "aug.flip.p=1.0").aug), MEAN, 0)
    np.testing.assert_array_equal(augment(IMAGE, 0, 0), IMAGE[:, ::-1])


def test_affine_never_mirrors(config: Callable[..., DictConfig]) -> None:
    ramp = np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], (32, 1, 3))
    augment = standard(config, aug="affine")
    for index in range(50):
        inner = augment(ramp, 0, index)[8:24, 8:24, 0].astype(int)
        assert inner[:, -1].mean() > inner[:, 0].mean()


@pytest.mark.parametrize("override", ["+aug.flip.prob=1.0", "+aug.crop.heigth=28", "aug.flip.p=3.0"])
def test_a_misspelt_or_impossible_argument_is_refused(config: Callable[..., DictConfig], override: str) -> None:
    with pytest.raises(UserError, match="aug"):
        build(config(override).aug)


def test_a_transform_may_change_the_size() -> None:
    assert Augment({"crop": A.RandomCrop(28, 28)}, MEAN, 0)(IMAGE, 0, 0).shape == (28, 28, 3)


def test_the_first_epochs_are_shrunk_by_area() -> None:
    augment = Augment({}, MEAN, 0, start_scale=0.5, start_epochs=2)
    blocks = IMAGE.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    for epoch in (0, 1):
        assert np.abs(augment(IMAGE, epoch, 0) - blocks).max() <= 0.5
    np.testing.assert_array_equal(augment(IMAGE, 2, 0), IMAGE)
    assert Augment({}, MEAN, 0, start_scale=0.75, start_epochs=1)(IMAGE, 0, 0).shape == (24, 24, 3)


def test_light_shifts_by_two_pixels(config: Callable[..., DictConfig]) -> None:
    augment = standard(config, aug="light")
    padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    crops = {padded[y : y + 32, x : x + 32].tobytes() for y in range(5) for x in range(5)}
    crops |= {padded[y : y + 32, x : x + 32][:, ::-1].tobytes() for y in range(5) for x in range(5)}
    assert {augment(IMAGE, 0, index).tobytes() for index in range(1000)} == crops
