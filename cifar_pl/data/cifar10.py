"""CIFAR-10 and CIFAR-100 in the official format: the archive, or the folder that it extracts to."""

import pickle
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cifar_pl.data.download import download, md5_of
from cifar_pl.data.images import Images, Source
from cifar_pl.errors import UserError, require


class Official(NamedTuple):
    """A data set's files, with md5s as published (archive) and in torchvision (files); tests compare them."""

    name: str
    folder: str
    archive: str
    archive_md5: str
    files_md5: Mapping[str, str]  # the training part, the test part, the names of the classes
    labels: bytes
    names: bytes


CIFAR10 = Official(
    "CIFAR-10",  # https://www.cs.toronto.edu/~kriz/cifar.html
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    b"labels",
    b"label_names",
)
CIFAR100 = Official(
    "CIFAR-100",
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    b"fine_labels",
    b"fine_label_names",
)


def cifar10(
    root: str | Path,
    image_size: int = 32,
    mirrors: Sequence[str] = (),
    timeout: float = 30.0,
    min_speed: float = 20_000.0,
) -> Source:
    """CIFAR-10's 50,000 training and 10,000 test images, 32x32.

    Looks in `root` for the extracted folder, then for the archive, and else downloads that from the first mirror
    that works, see `download`. No file is unpickled unless its md5 is right.
    """
    return _read(CIFAR10, Path(root), image_size, mirrors, timeout, min_speed)


def cifar100(
    root: str | Path,
    image_size: int = 32,
    mirrors: Sequence[str] = (),
    timeout: float = 30.0,
    min_speed: float = 20_000.0,
) -> Source:
    """CIFAR-100's images with their fine labels, 100 classes, as `cifar10`."""
    return _read(CIFAR100, Path(root), image_size, mirrors, timeout, min_speed)


def _read(
    official: Official, root: Path, image_size: int, mirrors: Sequence[str], timeout: float, min_speed: float
) -> Source:
    require(image_size == 32, f"data.image_size={image_size}: {official.name} has 32; data=image_folder resizes.")
    place = root / official.folder
    if place.is_dir():
        contents = {name: (place / name).read_bytes() for name in official.files_md5 if (place / name).is_file()}
    else:
        place = root / official.archive
        if not place.exists():
            _download(official, place, mirrors, timeout, min_speed)
        contents = _unpack(official, place)

    def load(name: str) -> Any:
        way_out = f"Delete {place}: the archive is then downloaded, unless it is there."
        require(name in contents, f"{place / name} is missing. {way_out}")
        actual, right = md5(contents[name], usedforsecurity=False).hexdigest(), official.files_md5[name]
        require(actual == right, f"{place / name} is damaged or altered: its md5 is {actual}, not {right}. {way_out}")
        return pickle.loads(contents[name], encoding="bytes")  # noqa: S301, its md5 is right

    def images(*names: str) -> Images:
        batches = [load(name) for name in names]
        planes = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batch[official.labels] for batch in batches])
        return Images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)

    *train, test, meta = official.files_md5
    classes = tuple(name.decode() for name in load(meta)[official.names])
    return Source(images(*train), images(test), classes)


def _download(official: Official, archive: Path, mirrors: Sequence[str], timeout: float, min_speed: float) -> None:
    try:
        download(mirrors, archive, official.archive_md5, timeout, min_speed)
    except UserError as error:
        raise UserError(
            f"{official.name} is neither in {archive.with_name(official.folder)} nor in {archive}, and {error}\n"
            f"Three ways out: put the archive at {archive.resolve()}; train on a folder of images with "
            "data=image_folder data.root=FOLDER; or train on the bundled digits with data=digits."
        ) from None


def _unpack(official: Official, archive: Path) -> dict[str, bytes]:
    """The files in the archive by name."""
    require(archive.is_file(), f"{archive} is not a file. Delete it.")
    actual = md5_of(archive)
    require(
        actual == official.archive_md5,
        f"{archive} is not {official.name} or is damaged: its md5 is {actual}, not {official.archive_md5}. Delete it.",
    )
    with tarfile.open(archive) as tar:
        files = {Path(member.name).name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in files.items() if file is not None}
