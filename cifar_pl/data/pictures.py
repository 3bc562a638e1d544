"""A user's own pictures: which files, and their pixels as the network was trained on them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_pl.data.image_folder import fit_square
from cifar_pl.errors import require

log = logging.getLogger(__name__)


class File(NamedTuple):
    """A file to look at, and its class where its folder says so."""

    path: Path
    label: str | None


def collect(path: Path, classes: Sequence[str]) -> list[File]:
    """A file, or every image below a folder, in order; those in a sub-folder named like a class have its label.

    Raises:
        UserError: there is no such path, or no file below the folder is an image by its name.
    """
    require(path.exists(), f"{path}: there is no such file or folder.")
    if not path.is_dir():
        return [File(path, None)]
    formats = _formats()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    require(found, f"{path}: there are no images in this folder.")
    tops = [file.relative_to(path).parts[0] for file in found]
    return [File(file, top if top in classes else None) for file, top in zip(found, tops, strict=True)]


def load(path: Path, size: int) -> NDArray[np.uint8] | None:
    """An image as the network was trained on them, uint8 (size, size, 3), RGB; None, and its name in the log, if not.

    What else than size and shape is changed is logged as well: colours, bits, frames.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            frames, mode = getattr(image, "n_frames", 1), image.mode
            pixels = fit_square(image, size)
    except Exception as error:  # noqa: BLE001  # Pillow's readers of broken files raise what they like
        log.warning("skipped %s: %s", path, str(error).replace(f" {str(path)!r}", "") or type(error).__name__)
        return None
    if frames > 1:
        log.info("note: %s has %d frames; the first is used", path, frames)
    if mode.startswith("I"):
        log.info("note: %s has 16 bits; the upper 8 are used", path)
    elif mode not in ("RGB", "L", "1", "P"):
        log.info("note: %s is %s, taken as RGB", path, mode)
    return pixels


def _formats() -> list[str]:
    """What Pillow reads, but for EPS: that is a program, which it has Ghostscript run, whatever the file is called."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]
