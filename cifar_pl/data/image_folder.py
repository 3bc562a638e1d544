"""Any images in `train/<class>/*` and `test/<class>/*`: decoded once, then read from a cache."""

import io
import logging
import stat
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from cifar_pl.data.cache import cached
from cifar_pl.data.images import Images, Source
from cifar_pl.errors import UserError, require

log = logging.getLogger(__name__)

SUFFIXES, FORMATS = {".png", ".jpg", ".jpeg"}, ("PNG", "JPEG")
VERSION = 2  # of the decoding below; raise it when the same files give other pixels, or are refused
LARGEST = 1 << 28  # bytes of a file: no less than the raw pixels of the largest image that Pillow opens without a word
NAMED = 5  # how many files one message names


class File(NamedTuple):
    """A file of a class folder; its size and times, which change with its content."""

    path: Path
    label: int
    stamp: tuple[int, ...]


def image_folder(root: str | Path, image_size: int = 32) -> Source:
    """Images of any size, shrunk by area and centre-cropped to `image_size` squares; classes are folder names.

    The pixels are cached in `root/.cifar_pl` under a key made of every file's path, size and times and
    of `image_size`, so a changed folder is decoded again. Hidden files are passed over.

    Raises:
        UserError: the layout is another, the class folders differ, files cannot be read, are copies of others or change
            while they are read, or the cache is damaged; the files are named.
    """
    root = Path(root)
    require(image_size > 0, f"data.image_size={image_size}: it must be at least 1.")
    classes, train, test = _list(root)
    files = train + test
    content = [(str(file.path.relative_to(root)), file.stamp) for file in files]
    key = sha256(repr((VERSION, image_size, classes, content)).encode()).hexdigest()

    def decode() -> NDArray[np.uint8]:
        log.info("Decoding %d images in %s", len(files), root)
        pixels = _decode(files, image_size)
        _, *now = _list(root)
        changed = {str(file.path) for file in {*files} ^ {file for part in now for file in part}}
        _refuse("these files changed while they were read; start again when nothing writes there", changed)
        return pixels

    pixels = cached(root / ".cifar_pl" / f"{key[:16]}.npz", (len(files), image_size, image_size, 3), decode)
    labels, n = np.array([file.label for file in files], np.int64), len(train)
    return Source(Images(pixels[:n], labels[:n]), Images(pixels[n:], labels[n:]), classes)


def fit_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An image as uint8 (size, size, 3): RGB, upright, centre-cropped to a square, resized by area.

    Raises:
        ValueError: its pixels are real numbers, or whole ones above 16 bits: nobody knows what white is.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or (upright.mode == "I" and upright.getextrema()[1] > 0xFFFF):  # type: ignore[operator]
        raise ValueError(f"its pixels (mode {upright.mode}) have no known range; save it with 8 or 16 bits")
    if upright.mode.startswith("I"):  # 16 bits, which convert() would cut off at 255
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    upright = upright.convert("RGB")
    method = Image.Resampling.BOX if min(upright.size) >= size else Image.Resampling.BICUBIC
    return np.asarray(ImageOps.fit(upright, (size, size), method), np.uint8)


def _list(root: Path) -> tuple[tuple[str, ...], list[File], list[File]]:
    """The classes, the files of train, the files of test, in a fixed order."""
    names = {}
    for part in ("train", "test"):
        require(
            (root / part).is_dir(),
            f"data.root={root}: there is no directory {root / part}. It must hold train/<class>/* and test/<class>/*.",
        )
        names[part] = {path.name for path in _visible(root / part) if _is_folder(path)}
    only = [
        f"{part} alone has {', '.join(sorted(names[part] - names[other]))}"
        for part, other in (("train", "test"), ("test", "train"))
        if names[part] - names[other]
    ]
    require(not only, f"data.root={root}: train and test must have the same class folders, but {'; '.join(only)}.")
    require(len(names["train"]) > 1, f"data.root={root}: there must be at least two class folders in train.")
    classes = tuple(sorted(names["train"]))
    return classes, _files(root / "train", classes), _files(root / "test", classes)


def _files(folder: Path, classes: tuple[str, ...]) -> list[File]:
    files = []
    for label, name in enumerate(classes):
        inside = _visible(folder / name)
        require(inside, f"{folder / name} is empty: each class needs images, or delete the folder in train and test.")
        files += [File(path, label, _stamp(path)) for path in inside]
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:  # a link to itself or to nowhere, which is_dir() would pass over, a class with it
        raise UserError(f"{path}: {error.strerror}. Delete or replace it.") from error


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        now = path.stat()
    except OSError:  # who reads it will say why
        return ()
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _decode(files: list[File], size: int) -> NDArray[np.uint8]:
    """Every file, read once, as uint8 (N, size, size, 3)."""
    pixels = np.empty((len(files), size, size, 3), np.uint8)
    broken, copies, seen = [], [], dict[bytes, Path]()
    for row, (path, _, _) in enumerate(tqdm(files, unit=" images")):
        try:
            data = _read(path)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels[row] = fit_square(image, size)
        except UnidentifiedImageError:
            broken.append(f"{path}: its content is neither PNG nor JPEG")
        except Exception as error:  # noqa: BLE001  # Pillow's readers of broken files raise what they like
            broken.append(f"{path}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")
        else:
            if (first := seen.setdefault(sha256(data).digest(), path)) != path:
                copies.append(f"{first} and {path}")
    _refuse("these files are no readable images, delete or replace them", broken)
    _refuse("these files hold the same image, which could be trained on and tested on; keep one of each pair", copies)
    return pixels


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in SUFFIXES:
        raise OSError("not a .png, .jpg or .jpeg file")
    now = path.stat()
    if not stat.S_ISREG(now.st_mode):  # a pipe would keep us waiting
        raise OSError("not a regular file")
    if now.st_size > LARGEST:
        raise OSError(f"{now.st_size} bytes, {LARGEST} is the most")
    return path.read_bytes()


def _refuse(why: str, files: Collection[str]) -> None:
    if files:
        more = [f"and {len(files) - NAMED} more"] if len(files) > NAMED else []
        message = "\n  ".join([f"{why}:", *sorted(files)[:NAMED], *more])
        raise UserError(message.encode(errors="backslashreplace").decode())  # a file's name may be any bytes
