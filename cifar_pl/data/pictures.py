"""A user's own pictures: which files, and their pixels as a network is trained on them."""

import logging
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cifar_pl.errors import require

log = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg"}  # of images to train on
MAX_BYTES = 1 << 28  # of a file: at least the raw pixels of the largest image that Pillow opens without a warning
Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]  # a file; in memory; uint8 (H, W, 3), RGB


class File(NamedTuple):
    """A picture to predict."""

    path: Path
    label: str | None  # its class, if it is in a folder of that name


def collect(path: Path, classes: Sequence[str]) -> list[File]:
    """A file, or every image below a folder, sorted; those in a sub-folder named like a class have its label."""
    require(path.exists(), f"{path}: there is no such file or folder.")
    if not path.is_dir():
        return [File(path, None)]
    formats = readable()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    files = []
    for file in sorted(path.rglob("*")):
        first, *_ = parts = file.relative_to(path).parts
        if file.suffix.lower() in suffixes and not any(p.startswith(".") for p in parts) and file.is_file():
            files.append(File(file, first if first in classes else None))
    require(files, f"{path}: there are no images in this folder.")
    return files


def load(path: Path, size: int) -> NDArray[np.uint8] | None:
    """An image as uint8 (size, size, 3), RGB; None, with a warning, if it cannot be read. Logs what else is lost."""
    try:
        with Image.open(path, formats=readable()) as image:
            frames, mode = getattr(image, "n_frames", 1), image.mode
            pixels = fit_square(image, size)
    except Exception as error:  # noqa: BLE001  # Pillow's readers of broken files raise anything
        log.warning("skipped %s: %s", path, str(error).replace(f" {str(path)!r}", "") or type(error).__name__)
        return None
    if frames > 1:
        log.info("note: %s has %d frames; the first is used", path, frames)
    if mode.startswith("I"):
        log.info("note: %s has 16 bits; the upper 8 are used", path)
    elif mode not in ("RGB", "L", "1", "P"):
        log.info("note: %s is %s, taken as RGB", path, mode)
    return pixels


def squares(images: Iterable[Picture], size: int) -> NDArray[np.uint8]:
    """Images of any kind and size, or one, as uint8 (N, size, size, 3), RGB."""
    several: Iterable[Any] = [images] if isinstance(images, (str, Path, Image.Image)) else images
    made = [_square(image, size) for image in several]
    require(made, "There is no image to look at.")
    return np.stack(made)


def _square(image: Any, size: int) -> NDArray[np.uint8]:
    if isinstance(image, (str, Path)):
        pixels = load(Path(image), size)
        require(pixels is not None, f"{image}: it is missing, or no image that can be read.")
        return np.asarray(pixels)
    if isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        require(fits, f"An image of {image.dtype} {image.shape}: an array must be uint8 (H, W, 3), RGB, from 0 to 255.")
        image = Image.fromarray(image)
    require(isinstance(image, Image.Image), f"{type(image).__name__} is no image: a file, an array, or one of Pillow.")
    return fit_square(image, size)


def read(path: Path) -> bytes:
    """The content of a file to train on.

    Raises:
        OSError: there is no such file, or it is too large, of another kind, or no file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise OSError("not a regular file")
    if path.suffix.lower() not in SUFFIXES:
        raise OSError("not a .png, .jpg or .jpeg file")
    if status.st_size > MAX_BYTES:
        raise OSError(f"{status.st_size} bytes, more than {MAX_BYTES}")
    return path.read_bytes()


def fit_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An image as uint8 (size, size, 3): RGB, upright, centre-cropped to a square, resized by area.

    Raises:
        ValueError: its pixels are floats, or integers of more than 16 bits, whose range is unknown.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or (upright.mode == "I" and upright.getextrema()[1] > 0xFFFF):  # type: ignore[operator]
        raise ValueError(f"its pixels (mode {upright.mode}) have no known range; save it with 8 or 16 bits")
    if upright.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    upright = upright.convert("RGB")
    method = Image.Resampling.BOX if min(upright.size) >= size else Image.Resampling.BICUBIC
    return np.asarray(ImageOps.fit(upright, (size, size), method), np.uint8)


def readable() -> list[str]:
    """All that Pillow reads except EPS, which is a program that Ghostscript would run, whatever the file's name."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]
