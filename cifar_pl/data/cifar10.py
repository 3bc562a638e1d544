"""CIFAR-10 in the official format: the archive, or the folder that it extracts to."""

import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cifar_pl.data.download import download, md5_of
from cifar_pl.data.images import Images, Source
from cifar_pl.errors import UserError, require

T = TypeVar("T")

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
# As published on https://www.cs.toronto.edu/~kriz/cifar.html (archive) and in torchvision's
# datasets/cifar.py (files); tests compare them with the installed torchvision.
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FILES_MD5 = {
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def cifar10(
    root: str | Path,
    image_size: int = 32,
    mirrors: Sequence[str] = (),
    timeout: float = 30.0,
    min_speed: float = 20_000.0,
    archive_md5: str = ARCHIVE_MD5,
    files_md5: Mapping[str, str] = FILES_MD5,
) -> Source:
    """CIFAR-10's 50,000 training and 10,000 test images, 32x32.

    Looks in `root` for the extracted folder, then for the archive, then downloads the archive. The
    archive is read where it lies. Nothing is unpickled before its md5 is right.

    Args:
        root: The directory that holds `cifar-10-batches-py` or `cifar-10-python.tar.gz`.
        image_size: Must be 32; other sizes need `image_folder`, which resizes.
        mirrors: Addresses of the archive, in the order in which they are tried.
        timeout: Seconds without a byte, or below `min_speed`, after which an attempt is given up.
        min_speed: Bytes per second.
        archive_md5: Of the archive.
        files_md5: Of each file in the folder.

    Raises:
        UserError: a file is missing, altered or in another format, or no mirror delivered.
    """
    require(image_size == 32, f"data.image_size={image_size}: CIFAR-10 has 32; data=image_folder resizes.")
    names = sorted(FILES_MD5)
    require(sorted(files_md5) == names, f"files_md5={dict(files_md5)}: it must name {', '.join(names)}, and no more.")
    root = Path(root)
    if (root / FOLDER).is_dir():
        return _source(root / FOLDER, _read_folder(root / FOLDER), files_md5)
    archive = root / ARCHIVE
    if not archive.exists():
        try:
            download(mirrors, archive, archive_md5, timeout, min_speed)
        except UserError as error:
            raise UserError(
                f"CIFAR-10 is neither in {root / FOLDER} nor in {archive}, and {error}\n"
                f"Three ways out: put the archive at {archive.resolve()}; train on a folder of images with "
                "data=image_folder data.root=FOLDER; or train on the bundled digits with data=digits."
            ) from None
    require(archive.is_file(), f"{archive} is not a file. Delete it.")
    found = md5_of(archive)
    require(
        found == archive_md5,
        f"{archive} is not CIFAR-10 or is damaged: its md5 is {found}, not {archive_md5}. Delete it.",
    )
    return _source(archive, _read_archive(archive), files_md5)


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES_MD5 if (folder / name).is_file()}


def _read_archive(archive: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(archive) as tar:
            members = {Path(member.name).name: member for member in tar if member.isfile()}
            files = {name: tar.extractfile(members[name]) for name in FILES_MD5 if name in members}
            return {name: file.read() for name, file in files.items() if file is not None}
    except Exception as error:  # tarfile and its decompressors raise what they like
        raise UserError(f"{archive} is no whole tar archive ({error}). Delete it.") from error


def _source(place: Path, contents: Mapping[str, bytes], files_md5: Mapping[str, str]) -> Source:
    """Decode the files of a folder or an archive. The very bytes that are unpickled have the right md5."""

    def decode(name: str, read: Callable[..., T], *keys: bytes) -> T:
        file, way_out = place / name, f"Delete {place}: the archive is then downloaded, unless it is there."
        require(name in contents, f"{file} is missing. {way_out}")
        found, right = md5(contents[name], usedforsecurity=False).hexdigest(), files_md5[name]
        require(found == right, f"{file} is damaged or altered: its md5 is {found}, not {right}. {way_out}")
        try:
            content = pickle.loads(contents[name], encoding="bytes")  # noqa: S301, its md5 was right
            wanted = f"it must be a dictionary with {b', '.join(keys).decode()}"
            require(isinstance(content, dict) and content.keys() >= {*keys}, wanted)
            return read(*(content[key] for key in keys))
        except Exception as error:  # an md5 that the user gave may be of anything
            raise UserError(f"{file} has the md5 that was given, but is not in CIFAR-10's format ({error}).") from error

    classes = decode("batches.meta", _names, b"label_names")
    read = partial(_images, classes=len(classes))
    train = [decode(name, read, b"data", b"labels") for name in sorted(FILES_MD5) if name.startswith("data_batch_")]
    test = decode("test_batch", read, b"data", b"labels")
    together = Images(np.concatenate([t.pixels for t in train]), np.concatenate([t.labels for t in train]))
    return Source(together, test, classes)


def _names(names: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(name.decode() for name in names)


def _images(data: Any, numbers: Any, classes: int) -> Images:
    planes, labels = np.asarray(data), np.asarray(numbers)
    require(planes.shape[1:] == (3072,), f"its images must be (N, 3072), red, green, blue of 32x32, not {planes.shape}")
    images = Images(np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)
    low, high = labels.min(), labels.max()
    require(low >= 0 and high < classes, f"its labels run from {low} to {high}, but there are {classes} classes")
    return images
