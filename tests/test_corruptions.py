from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from cifar_pl.evaluation import corruptions
from cifar_pl.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from cifar_pl.evaluation.metrics import interval
from cifar_pl.evaluation.slices import Slice


def photographs() -> np.ndarray:
    """Parts of two photographs, as small as CIFAR-10's."""
    folder = Path(sklearn.datasets.__file__).parent / "images"
    return np.stack(
        [
            np.asarray(Image.open(folder / name).crop((x, 100, x + 256, 356)).resize((32, 32)))
            for name in ("china.jpg", "flower.jpg")
            for x in (0, 150, 300)
        ]
    )


IMAGES = photographs()


def distance(images: np.ndarray, others: np.ndarray) -> float:
    return float(np.abs(images.astype(float) - others).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_shape_and_type_and_grows_with_its_strength(name: str) -> None:
    before = IMAGES.copy()
    made = [corrupt(IMAGES, name, strength) for strength in STRENGTHS]
    assert all(one.shape == IMAGES.shape and one.dtype == np.uint8 for one in made)
    far = [distance(IMAGES, one) for one in made]
    assert 0 < far[0] < far[1] < far[2]
    np.testing.assert_array_equal(IMAGES, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_alone_decides(name: str) -> None:
    first, again, other = (corrupt(IMAGES, name, 2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == (name in ("noise", "fog", "shift"))


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "JPEG"])
def test_large_images_are_corrupted_as_much_as_small_ones(name: str) -> None:
    large = IMAGES.repeat(4, axis=1).repeat(4, axis=2)
    small, same = (distance(images, corrupt(images, name, 3)) for images in (IMAGES, large))
    assert same == pytest.approx(small, rel=0.15)


def test_noise_has_the_deviation_that_it_says() -> None:
    grey = np.full((20, 32, 32, 3), 128, np.uint8)
    assert corrupt(grey, "noise", 2).std() == pytest.approx(0.04 * 255, rel=0.02)


def test_what_is_flat_stays_flat_under_blur_contrast_pixelation_and_shift() -> None:
    grey = np.full((2, 9, 7, 3), 77, np.uint8)
    for name in ("blur", "contrast", "pixelation", "shift"):
        np.testing.assert_array_equal(corrupt(grey, name, 3), grey)
    np.testing.assert_array_equal(corrupt(grey, "brightness", 2), grey + 51)


def test_a_shift_moves_pixels_and_loses_none() -> None:
    shifted = corrupt(IMAGES, "shift", 3)
    moves = set()
    for image, moved in zip(IMAGES, shifted, strict=True):
        (found,) = [(y, x) for y in (-8, 8) for x in (-8, 8) if (np.roll(image, (y, x), (0, 1)) == moved).all()]
        moves.add(found)
    assert len(moves) > 1


def test_pixelation_makes_blocks() -> None:
    blocks = corruptions.pixelation(IMAGES, np.random.default_rng(0), 16).reshape(len(IMAGES), 16, 2, 16, 2, 3)
    assert (blocks == blocks[:, :, :1, :, :1]).all()


def test_contrast_keeps_the_mean_and_shrinks_the_deviation() -> None:
    weak = corrupt(IMAGES, "contrast", 3)
    np.testing.assert_allclose(weak.mean((1, 2, 3)), IMAGES.mean((1, 2, 3)), atol=0.5)
    np.testing.assert_allclose(weak.std((1, 2, 3)), 0.25 * IMAGES.std((1, 2, 3)), rtol=0.03)


def test_accuracy_is_counted_under_every_corruption() -> None:
    labels = (IMAGES.mean((1, 2, 3)) > 128).astype(np.int64)
    found = list(corruptions.measure(lambda images: (images.mean((1, 2, 3)) > 128).astype(np.int64), IMAGES, labels))
    assert [(one.what, one.part) for one in found] == [("none", "0")] + [
        (c, str(s)) for c in CORRUPTIONS for s in STRENGTHS
    ]
    right = {(one.what, one.part): one.right for one in found}
    assert right["none", "0"] == right["shift", "3"] == len(IMAGES)
    assert right["brightness", "3"] == labels.sum() < len(IMAGES)
    sizes: list[int] = []

    def first(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return np.zeros(len(images), np.int64)

    many = IMAGES.repeat(50, axis=0)
    assert [one.n for one in corruptions.measure(first, many, np.zeros(300, np.int64))] == [300] * 25
    assert sizes == [250, 50] * 25
    low, high = interval(3, 6)
    assert corruptions.row(Slice("fog", "1", 6, 3)) == {
        "corruption": "fog", "strength": "1", "n": 6, "right": 3, "accuracy": 0.5, "low": low, "high": high
    }  # fmt: skip
