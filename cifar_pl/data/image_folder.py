"""Any images in `train/<class>/*` and `test/<class>/*`: decoded once, then read from a cache."""

import io
import logging
import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from tqdm import tqdm

from cifar_pl.data.cache import cached
from cifar_pl.data.images import Images, Source
from cifar_pl.data.pictures import fit_square
from cifar_pl.errors import UserError, checked, require

log = logging.getLogger(__name__)

PARTS = ("train", "test")
SUFFIXES, FORMATS = {".png", ".jpg", ".jpeg"}, ("PNG", "JPEG")
VERSION = 3  # of the decoding and the cache; raise it when the same files give other pixels, or are refused
MAX_BYTES = 1 << 28  # of a file: at least the raw pixels of the largest image that Pillow opens without a warning
MAX_NAMED = 5  # files in one message


@checked
def image_folder(root: str | Path, image_size: Annotated[int, Field(ge=1, le=1024)] = 32) -> Source:
    """Images of any size, centre-cropped to squares and resized to `image_size`; classes are folder names.

    The pixels are cached in `root/.cifar_pl` under a key made of every file's path, size and times and of
    `image_size`, so that a changed folder is decoded again. Hidden files are skipped; broken ones are refused by name.
    """
    root = Path(root)
    classes = _classes(root)
    train, test = ([path for name in classes for path in _images(root / part / name)] for part in PARTS)
    files, n = train + test, len(train)
    stamps = [
        (str(path.relative_to(root)), s.st_size, s.st_mtime_ns, s.st_ctime_ns)  # they change with the content
        for path, s in zip(files, _stats(files), strict=True)
    ]
    key = sha256(repr((VERSION, image_size, classes, stamps)).encode()).hexdigest()[:16]
    shape = (len(files), image_size, image_size, 3)
    pixels = cached(root / ".cifar_pl" / f"{key}.pixels", shape, lambda: _decode(files, image_size))
    labels = np.array([classes.index(path.parent.name) for path in files], np.int64)
    return Source(Images(pixels[:n], labels[:n], tuple(train)), Images(pixels[n:], labels[n:], tuple(test)), classes)


def _classes(root: Path) -> tuple[str, ...]:
    for part in PARTS:
        require(
            (root / part).is_dir(),
            f"data.root={root}: there is no directory {root / part}. It must hold train/<class>/* and test/<class>/*.",
        )
    train, test = (_folders(_visible(root / part)) for part in PARTS)
    require(
        train == test,
        f"data.root={root}: train and test must have the same class folders, but only one of them has "
        f"{', '.join(sorted(train ^ test))}.",
    )
    require(len(train) > 1, f"data.root={root}: there must be at least two class folders in train.")
    return tuple(sorted(train))


def _images(folder: Path) -> list[Path]:
    paths = _visible(folder)
    require(paths, f"{folder} is empty: each class needs images, or delete the folder in train and test.")
    return paths


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(paths: list[Path]) -> set[str]:
    return {path.name for path, s in zip(paths, _stats(paths), strict=True) if stat.S_ISDIR(s.st_mode)}


def _stats(paths: list[Path]) -> list[os.stat_result]:
    found, broken = [], []
    for path in paths:
        try:
            found.append(path.stat())
        except OSError as error:  # a link to itself or to nowhere
            broken.append(f"{path}: {error.strerror}")
    _refuse("these links lead nowhere, delete or replace them", broken)
    return found


def _decode(files: list[Path], size: int) -> NDArray[np.uint8]:
    """Every file, read once, as uint8 (N, size, size, 3)."""
    log.info("Decoding %d images", len(files))
    pixels = np.empty((len(files), size, size, 3), np.uint8)
    broken, copies, seen = [], [], dict[bytes, Path]()
    for row, path in enumerate(tqdm(files, unit=" images")):
        try:
            data = _read(path)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels[row] = fit_square(image, size)
        except UnidentifiedImageError:
            broken.append(f"{path}: its content is neither PNG nor JPEG")
        except Exception as error:  # noqa: BLE001  # Pillow's readers of broken files raise anything
            broken.append(f"{path}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")
        else:
            if (first := seen.setdefault(sha256(data).digest(), path)) != path:
                copies.append(f"{first} and {path}")
    _refuse("these files are not readable images, delete or replace them", broken)
    _refuse("these files hold the same image, which could be trained on and tested on; keep one of each pair", copies)
    return pixels


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in SUFFIXES:
        raise OSError("not a .png, .jpg or .jpeg file")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise OSError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise OSError(f"{status.st_size} bytes, more than {MAX_BYTES}")
    return path.read_bytes()


def _refuse(why: str, files: list[str]) -> None:
    if files:
        more = [f"and {len(files) - MAX_NAMED} more"] if len(files) > MAX_NAMED else []
        message = "\n  ".join([f"{why}:", *sorted(files)[:MAX_NAMED], *more])
        raise UserError(message.encode(errors="backslashreplace").decode())  # a file's name may be any bytes
