"""scikit-learn's bundled handwritten digits: 1,797 real images, no download."""

import cv2
import numpy as np
from sklearn.datasets import load_digits

from cifar_pl.data.images import Images, Source
from cifar_pl.errors import require

TEST_FRACTION = 0.2
TEST_SEED = 0  # the bundle has no official test part; this one never changes


def digits(image_size: int = 32) -> Source:
    """The digits 0 to 9 as grey RGB images of `image_size`; a fifth of them is the test part."""
    require(image_size >= 8, f"data.image_size={image_size}: the digits are 8x8, give 8 or more.")
    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # 0 to 16 in the bundle
    size = (image_size, image_size)
    pixels = np.stack([np.repeat(cv2.resize(g, size)[..., None], 3, axis=2) for g in grey])
    images = Images(pixels.astype(np.uint8), bunch.target.astype(np.int64))
    order = np.random.default_rng(TEST_SEED).permutation(len(images))
    test, train = np.split(order, [round(TEST_FRACTION * len(images))])
    return Source(
        Images(images.pixels[train], images.labels[train]),
        Images(images.pixels[test], images.labels[test]),
        tuple(str(d) for d in range(10)),
    )
