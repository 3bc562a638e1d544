"""CIFAR-10 in the official format: the archive, or the folder that it extracts to."""

import io
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np

from cifar_pl.errors import UserError, require
from cifar_pl.sources import Images, Source
from cifar_pl.sources.download import download, md5_of

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
        UserError: a file is missing or altered, or no mirror delivered.
    """
    require(image_size == 32, f"data.image_size={image_size}: CIFAR-10 has 32; data=image_folder resizes.")
    root = Path(root)
    if (root / FOLDER).is_dir():
        return _source(_read_folder(root / FOLDER, files_md5))
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
    found = md5_of(archive)
    require(
        found == archive_md5,
        f"{archive} is not CIFAR-10 or is damaged: its md5 is {found}, not {archive_md5}. Delete it.",
    )
    return _source(_read_archive(archive, files_md5))


def _read_folder(folder: Path, files_md5: Mapping[str, str]) -> dict[str, bytes]:
    contents = {}
    for name, right in files_md5.items():
        require(
            (folder / name).is_file(), f"{folder / name} is missing: delete {folder} and extract the archive again."
        )
        contents[name] = (folder / name).read_bytes()
        found = md5(contents[name], usedforsecurity=False).hexdigest()
        require(found == right, f"{folder / name} is damaged or altered: its md5 is {found}, not {right}.")
    return contents


def _read_archive(archive: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}
        missing = [name for name in names if name not in members]
        require(not missing, f"{archive} lacks {', '.join(missing)}.")
        return {name: file.read() for name in names if (file := tar.extractfile(members[name])) is not None}


def _source(contents: Mapping[str, bytes]) -> Source:
    """Decode files whose md5 was right."""
    meta = _unpickle(contents["batches.meta"])
    train = [_unpickle(contents[name]) for name in sorted(contents) if name.startswith("data_batch_")]
    return Source(
        _images(train),
        _images([_unpickle(contents["test_batch"])]),
        tuple(name.decode() for name in meta[b"label_names"]),
    )


def _unpickle(data: bytes) -> dict[bytes, Any]:
    value: dict[bytes, Any] = pickle.load(io.BytesIO(data), encoding="bytes")  # noqa: S301, its md5 was right
    return value


def _images(batches: Sequence[Mapping[bytes, Any]]) -> Images:
    planes = np.concatenate([batch[b"data"] for batch in batches])  # (N, 3072): red, green, blue planes of 32x32
    pixels = np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Images(pixels, np.concatenate([np.asarray(batch[b"labels"], np.int64) for batch in batches]))
