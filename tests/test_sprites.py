import base64
import io

import numpy as np
from PIL import Image

from cifar_pl.reporting import sprites


def picture(sheet: sprites.Sheet) -> np.ndarray:
    data = sheet.url.removeprefix("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)), formats=["WEBP"])).astype(int)


def test_tile_n_is_image_n() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (7, 1, 1, 3), np.uint8)
    sheet = sprites.sheet(np.broadcast_to(colors, (7, 16, 16, 3)))
    assert (sheet.side, sheet.columns) == (16, 3)
    whole = picture(sheet)
    assert whole.shape == (48, 48, 3)
    for n, color in enumerate(colors):
        row, column = divmod(n, sheet.columns)
        middle = whole[16 * row + 4 : 16 * row + 12, 16 * column + 4 : 16 * column + 12]
        assert np.abs(middle - color).max() < 8


def test_a_sheet_has_no_more_bytes_than_it_may() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    sides = []
    for most in (1_000_000, 50_000, 10_000, 2_000):
        sheet = sprites.sheet(noise, most)
        assert len(base64.b64decode(sheet.url.partition(",")[2])) <= most
        assert picture(sheet).shape[1] == sheet.side * sheet.columns
        sides.append(sheet.side)
    assert sides[0] == sides[1] == sprites.MAX_SIDE  # the quality first
    assert sides[-1] < sides[1]
