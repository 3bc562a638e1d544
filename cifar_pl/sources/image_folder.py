"""Any images in `train/<class>/*` and `test/<class>/*`: decoded once, then read from a cache."""

import hashlib
import io
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from cifar_pl import rundir
from cifar_pl.errors import UserError, require
from cifar_pl.sources import Images, Source

log = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg"}
VERSION = 1  # of the decoding below; raise it when the same files give other pixels
NAMED = 5  # how many broken files one message names


def image_folder(root: str | Path, image_size: int = 32) -> Source:
    """Images of any size, shrunk by area and centre-cropped to `image_size` squares; classes are folder names.

    The pixels are cached in `root/.cifar_pl` under a key made of every file's path, size and time and
    of `image_size`, so a changed folder is decoded again. Hidden files are passed over.

    Raises:
        UserError: the layout is another, the class folders differ, or files cannot be read (named).
    """
    root = Path(root)
    require(image_size > 0, f"data.image_size={image_size}: it must be at least 1.")
    classes = _classes(root)
    files = {part: _files(root / part, classes) for part in ("train", "test")}
    key = hashlib.sha256(f"{VERSION} {image_size} {classes}".encode())
    for path, _ in files["train"] + files["test"]:
        stat = path.stat()
        key.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    cache = root / ".cifar_pl" / f"{key.hexdigest()[:16]}.npz"
    if not cache.exists():
        with _locked(cache):
            if not cache.exists():  # now, no other process has made it meanwhile
                train, test = (_decode(files[part], image_size) for part in ("train", "test"))
                try:
                    _save(cache, train, test)
                except OSError as error:
                    log.warning("%s cannot be written (%s): the next run decodes again.", cache, error.strerror)
                    return Source(train, test, classes)
    with np.load(cache, allow_pickle=False) as arrays:
        train, test = (Images(arrays[f"{part}_pixels"], arrays[f"{part}_labels"]) for part in files)
    return Source(train, test, classes)


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


def _locked(cache: Path) -> AbstractContextManager[object]:
    """A lock beside the cache; none where nothing can be written anyway."""
    try:
        cache.parent.mkdir(exist_ok=True)
        return FileLock(cache.with_suffix(".lock")).acquire()
    except OSError:
        return nullcontext()


def _classes(root: Path) -> tuple[str, ...]:
    names = {}
    for part in ("train", "test"):
        require(
            (root / part).is_dir(),
            f"data.root={root}: there is no directory {root / part}. It must hold train/<class>/* and test/<class>/*.",
        )
        names[part] = {d.name for d in (root / part).iterdir() if d.is_dir() and not d.name.startswith(".")}
    only = [
        f"{part} alone has {', '.join(sorted(names[part] - names[other]))}"
        for part, other in (("train", "test"), ("test", "train"))
        if names[part] - names[other]
    ]
    require(not only, f"data.root={root}: train and test must have the same class folders, but {'; '.join(only)}.")
    require(len(names["train"]) > 1, f"data.root={root}: there must be at least two class folders in train.")
    return tuple(sorted(names["train"]))


def _files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, label) of every image of a part, in a fixed order."""
    files = []
    for label, name in enumerate(classes):
        inside = sorted(p for p in (folder / name).iterdir() if not p.name.startswith("."))
        require(inside, f"{folder / name} is empty: each class needs images, or delete the folder in train and test.")
        files += [(path, label) for path in inside]
    return files


def _decode(files: list[tuple[Path, int]], size: int) -> Images:
    pixels = np.empty((len(files), size, size, 3), np.uint8)
    broken = []
    log.info("Decoding %d images in %s", len(files), files[0][0].parents[1])
    for row, (path, _) in enumerate(tqdm(files, unit=" images", desc=files[0][0].parts[-3])):
        try:
            if path.suffix.lower() not in SUFFIXES:
                raise OSError("not a .png, .jpg or .jpeg file")
            with Image.open(path) as image:
                pixels[row] = fit_square(image, size)
        except Exception as error:  # noqa: BLE001  # Pillow's readers of broken files raise what they like
            broken.append(f"{path}: {error}")
    if broken:
        more = f"\n  and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise UserError(
            "these files are no readable images, delete or replace them:\n  " + "\n  ".join(broken[:NAMED]) + more
        )
    return Images(pixels, np.array([label for _, label in files], np.int64))


def _save(cache: Path, train: Images, test: Images) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer, train_pixels=train.pixels, train_labels=train.labels, test_pixels=test.pixels, test_labels=test.labels
    )
    rundir.write(cache, buffer.getvalue())
