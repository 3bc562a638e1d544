"""scikit-learn's bundled handwritten digits: 1,797 real images, no download."""

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field
from sklearn.datasets import load_digits

from cifar_pl.data.images import Images, Source
from cifar_pl.errors import checked

TEST_SEED = 0  # the bundle has no official test part; this one never changes


@checked
def digits(image_size: Annotated[int, Field(ge=8, le=1024)] = 32) -> Source:
    """The digits 0 to 9 as grey RGB images of `image_size`; a fifth of them is the test part."""
    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # 0 to 16 in the bundle
    pixels = np.stack([np.repeat(cv2.resize(g, (image_size, image_size))[..., None], 3, axis=2) for g in grey])
    labels = bunch.target.astype(np.int64)
    test, train = np.split(np.random.default_rng(TEST_SEED).permutation(len(grey)), [round(len(grey) / 5)])
    names = tuple(str(digit) for digit in range(10))
    return Source(Images(pixels[train], labels[train]), Images(pixels[test], labels[test]), names)
