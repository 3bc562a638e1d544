"""Many small images as one picture on a page: a sheet of tiles. `templates/tiles.html` shows them."""

import base64
import io
import math
from collections.abc import Iterable
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


def sheet(images: Iterable[NDArray[np.uint8]], most: int = MAX_BYTES, side: int = MAX_SIDE) -> Sheet:
    """At least one image, each uint8 (H, H, 3), as tiles of at most `side` pixels.

    If the picture has more than `most` bytes, its quality is lowered, and then the side of its tiles.
    """
    tiles = [Image.fromarray(one).resize((min(side, len(one)),) * 2, Image.Resampling.BOX) for one in images]
    columns = math.ceil(math.sqrt(len(tiles)))
    while True:
        side = tiles[0].width
        whole = Image.new("RGB", (columns * side, -(-len(tiles) // columns) * side))
        for n, tile in enumerate(tiles):
            whole.paste(tile, (n % columns * side, n // columns * side))
        for quality in QUALITIES:
            buffer = io.BytesIO()
            whole.save(buffer, "WEBP", quality=quality)
            if buffer.tell() <= most or side == 1:
                url = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
                return Sheet(url, side, columns)
        tiles = [tile.reduce(2) for tile in tiles]
