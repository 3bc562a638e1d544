"""Your own images as they are: in folders by class, or named by a CSV file; decoded once, then read from a cache."""

import csv
import io
import json
import logging
from collections import defaultdict
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field, NonNegativeInt
from tqdm import tqdm

from cifar_pl.data.cache import cached
from cifar_pl.data.images import Images, Source, check_memory
from cifar_pl.data.pictures import fit_square, read
from cifar_pl.errors import checked, require
from cifar_pl.runs import files

log = logging.getLogger(__name__)

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}  # by folder, in order
LAYOUTS = "It must hold a folder for each class, or train and test with such folders, or one CSV file: path,label."
FORMATS = ("PNG", "JPEG")
VERSION = 4  # of the decoding and the cache; raise it when the same files give other pixels, or are left out
MAX_NAMED = 5  # files in one message


class File(NamedTuple):
    """What should be an image."""

    path: Path
    name: str  # its path from the root, with /
    label: str
    part: str  # train, val or test


@checked
def image_folder(
    root: str | Path,
    image_size: Annotated[int, Field(ge=1, le=1024)] = 32,
    strict: bool = False,
    test_size: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    test_seed: NonNegativeInt = 0,
) -> Source:
    """Images of any size, centre-cropped to squares and resized to `image_size`.

    `root` holds `<class>/*`, or such folders in `train`, `test` and perhaps `val`, or one CSV file, or is that file,
    with the columns `path`, from its folder, and `label`. If nothing says what to test on, that is a share of each
    class, `test_size`, drawn by the files' names and `test_seed` and kept in a list in `.cifar_pl`: images that are
    added later are trained on. Files that are no images and copies of others are left out with a warning, or refused
    if `strict`; of copies in two parts, the one in `test` goes, or the one in `train` if the test part was drawn.
    Hidden files are skipped.

    The pixels are cached in `.cifar_pl` under a key made of every file's path, size and times and of `image_size`, so
    that a changed folder is decoded again; those of the folder as it was are deleted.
    """
    root = Path(root)
    place = (root.parent if root.is_file() else root) / ".cifar_pl"
    found = _files(root)
    classes = tuple(sorted({file.label for file in found if file.part == "train"}))
    require(len(classes) > 1, f"data.root={root}: there are not two classes to train on. {LAYOUTS}")
    if not any(file.part == "test" for file in found):
        found = _held_out(found, place / f"test-{test_size}-{test_seed}.json", test_size, test_seed)
    check_memory(len(found), image_size)
    key = sha256(repr((VERSION, image_size, [_stamp(file) for file in found])).encode()).hexdigest()[:16]
    shape = (image_size, image_size, 3)
    name = f"{root.name if root.is_file() else ''}-{image_size}-{test_size}-{test_seed}-{key}.pixels"
    pixels, left_out = cached(place / name, shape, lambda: _decode(found, image_size))
    _tell([f"{found[row].path}: {why}" for row, why in left_out], len(found), place / "left_out.txt", strict)
    gone = {row for row, _ in left_out}
    kept = [file for row, file in enumerate(found) if row not in gone]
    trained = {file.label for file in kept if file.part == "train"}
    missing = ", ".join(sorted({file.label for file in found} - trained))
    require(
        not missing, f"data.root={root}: there is nothing to train on of {missing}. Add images, or delete its folders."
    )
    number = {label: n for n, label in enumerate(classes)}

    def images(*parts: str) -> Images:
        rows = [row for row, file in enumerate(kept) if file.part in parts]  # without a gap
        chosen = slice(rows[0], rows[-1] + 1) if rows else slice(0)
        labels = np.array([number[file.label] for file in kept[chosen]], np.int64)
        return Images(pixels[chosen], labels, tuple(file.path for file in kept[chosen]))

    return Source(images("train", "val"), images("test"), classes, sum(file.part == "val" for file in kept))


def _files(root: Path) -> list[File]:
    """All that is there, in the order of `PARTS`; in `train` if nothing says otherwise."""
    require(root.exists(), f"data.root={root}: there is no such folder or file. {LAYOUTS}")
    if root.is_file():
        return _table(root)
    folders, tables = _folders(root), [path for path in _visible(root) if path.suffix.lower() == ".csv"]
    if "train" in folders and ("test" in folders or PARTS.keys() >= {*folders}):
        return [file for name, part in PARTS.items() if name in folders for file in _by_class(root, root / name, part)]
    return _table(tables[0]) if len(tables) == 1 else _by_class(root, root, "train")


def _table(path: Path) -> list[File]:
    """The rows of a CSV file. Spreadsheets write a mark at its beginning."""
    with files.reading(path) as file:
        rows = list(csv.DictReader(line.removeprefix("\ufeff") for line in file))
    for n, row in enumerate(rows, start=1):
        require(
            row.get("path") and row.get("label"),
            f"{path}: row {n} has no path or no label. It must have columns of these names, separated by commas. To "
            "take the class folders beside it, put it elsewhere.",
        )
    return [File(path.parent / row["path"], row["path"], row["label"], "train") for row in rows]


def _by_class(root: Path, folder: Path, part: str) -> list[File]:
    return [
        File(path, path.relative_to(root).as_posix(), name, part)
        for name in _folders(folder)
        for path in _visible(folder / name) or [folder / name]  # so that an empty folder is named with what is no image
    ]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folders(folder: Path) -> list[str]:
    lost = [str(path) for path in _visible(folder) if not path.exists()]
    require(not lost, _listed("these links lead nowhere, delete or replace them", lost))
    return [path.name for path in _visible(folder) if path.is_dir()]


def _held_out(found: list[File], path: Path, share: float, seed: int) -> list[File]:
    """The files, those to test on first: what the list at `path` names, or if there is none of it, a new list."""
    listed, names = set[str](), defaultdict[str, set[str]](set)
    for file in found:
        if file.part == "train":
            names[file.label].add(file.name)
    if path.is_file():
        with files.reading(path) as text:
            listed = {*json.load(text)}
    if not listed & {file.name for file in found}:
        for own in names.values():
            drawn = sorted(own, key=lambda name: sha256(repr((seed, name)).encode()).digest())
            listed |= {*drawn[: min(max(round(share * len(own)), 1), len(own) - 1)]}
        try:
            files.write_json(path, sorted(listed))
        except OSError as error:
            log.warning("!! %s cannot be written (%s): with more images, others are tested on.", path, error.strerror)
    test = [file._replace(part="test") for file in found if file.name in listed]
    log.info("Test part: %d of %d files, held out by the list in %s", len(test), len(found), path)
    return test + [file for file in found if file.name not in listed]


def _stamp(file: File) -> tuple[object, ...]:
    """Changes with the file's content."""
    try:
        s = file.path.stat()
    except (OSError, ValueError):  # a link to nowhere; a name that no file can have
        return (file.name,)
    return file.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _decode(found: list[File], size: int) -> tuple[NDArray[np.uint8], list[tuple[int, str]]]:
    """What can be read as uint8 (N, size, size, 3), each file read once; the other rows, and why."""
    log.info("Decoding %d images", len(found))
    pixels = np.empty((len(found), size, size, 3), np.uint8)
    left_out, seen = list[tuple[int, str]](), dict[bytes, int]()
    for row, file in enumerate(tqdm(found, unit=" images")):
        try:
            data = read(file.path)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels[row - len(left_out)] = fit_square(image, size)
        except UnidentifiedImageError:
            left_out.append((row, "its content is neither PNG nor JPEG"))
        except Exception as error:  # noqa: BLE001  # Pillow's readers of broken files raise anything
            left_out.append((row, getattr(error, "strerror", None) or str(error) or type(error).__name__))
        else:
            if (first := seen.setdefault(sha256(data).digest(), row)) != row:
                left_out.append((row, f"the same image as {found[first].name}"))
    return pixels[: len(found) - len(left_out)], left_out


def _tell(left_out: list[str], number: int, path: Path, strict: bool) -> None:
    """Name what is left out, in a file at `path` too."""
    if left_out:
        require(not strict, _listed("data.strict=true: these files are no images, or copies; delete them", left_out))
        with suppress(OSError):
            files.write(path, "\n".join([*left_out, ""]).encode(errors="backslashreplace"))
        log.warning("!! %s", _listed(f"{len(left_out)} of {number} files are left out, all named in {path}", left_out))


def _listed(what: str, lines: list[str]) -> str:
    more = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    message = "\n  ".join([f"{what}:", *lines[:MAX_NAMED], *more])
    return message.encode(errors="backslashreplace").decode()  # a file's name may be any bytes
