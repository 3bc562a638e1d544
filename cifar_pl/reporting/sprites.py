"""Many small images as one picture on a page: a sheet of tiles. `templates/tiles.html` shows them."""

import base64
import io
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_SIDE = 48  # pixels of a tile
MAX_BYTES = 1_200_000  # 5,000 images of CIFAR-10 fit in at a quality of 40 or 60
QUALITIES = (80, 60, 40, 20)


class Sheet(NamedTuple):
    """A WebP picture as data URL. Tile n is in row n // columns and column n % columns."""

    url: str
    side: int  # pixels of a tile, which is square
    columns: int


def sheet(images: NDArray[np.uint8], most: int = MAX_BYTES, side: int = MAX_SIDE) -> Sheet:
    """Images, uint8 (N > 0, H, W, 3), as tiles of at most `side` pixels.

    If the picture has more than `most` bytes, its quality is lowered, and then the side of its tiles.
    """
    side = min(side, max(images.shape[1:3]))
    columns = math.ceil(math.sqrt(len(images)))
    whole = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for n, pixels in enumerate(images):
        tile = Image.fromarray(pixels)
        tile = tile if tile.size == (side, side) else tile.resize((side, side), Image.Resampling.BOX)
        whole.paste(tile, (n % columns * side, n // columns * side))
    for quality in QUALITIES:
        buffer = io.BytesIO()
        whole.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= most or side == 1:
            return Sheet("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(), side, columns)
    return sheet(images, most, side // 2)
