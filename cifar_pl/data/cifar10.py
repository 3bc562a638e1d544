"""CIFAR-10 and CIFAR-100 in the official format: the archive, or the folder that it extracts to.

The names and md5s of their files are torchvision's.
"""

import pickle
import tarfile
from collections.abc import Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

from cifar_pl.data.download import download, md5_of
from cifar_pl.data.images import Images, Source
from cifar_pl.errors import UserError, require


def cifar10(root: str | Path, **options: Any) -> Source:
    """CIFAR-10's 50,000 training and 10,000 test images, 32x32; `options` are those of `images_of`."""
    return images_of(CIFAR10, Path(root), **options)


def cifar100(root: str | Path, **options: Any) -> Source:
    """CIFAR-100's images with their fine labels, 100 classes, as `cifar10`."""
    return images_of(CIFAR100, Path(root), **options)


def images_of(
    official: Any,
    root: Path,
    image_size: int = 32,
    mirrors: Sequence[str] = (),
    timeout: float = 30.0,
    min_speed: float = 20_000.0,
) -> Source:
    """The images of a data set of torchvision.

    Looks in `root` for the extracted folder, then for the archive, and else downloads that from the first mirror
    that works, see `download`. No file is unpickled unless its md5 is right.
    """
    called, meta = official.__name__.replace("CIFAR", "CIFAR-"), official.meta
    require(image_size == 32, f"data.image_size={image_size}: {called} has 32; data=image_folder resizes.")
    md5s = {**dict(official.train_list), **dict(official.test_list), meta["filename"]: meta["md5"]}
    folder, archive = root / official.base_folder, root / official.filename
    place = folder if folder.is_dir() else archive
    if not place.exists():
        try:
            download(mirrors, archive, official.tgz_md5, timeout, min_speed)
        except UserError as error:
            raise UserError(
                f"{called} is neither in {folder} nor in {archive}, and {error}\n"
                f"Three ways out: put the archive at {archive.resolve()}; train on a folder of images with "
                "data=image_folder data.root=FOLDER; or train on the bundled digits with data=digits."
            ) from None
    if place == folder:
        contents = {name: (folder / name).read_bytes() for name in md5s if (folder / name).is_file()}
    else:
        contents = _unpack(archive, called, official.tgz_md5)

    def load(name: str) -> Any:
        way_out = f"Delete {place}: the archive is then downloaded, unless it is there."
        require(name in contents, f"{place / name} is missing. {way_out}")
        actual, right = md5(contents[name], usedforsecurity=False).hexdigest(), md5s[name]
        require(actual == right, f"{place / name} is damaged or altered: its md5 is {actual}, not {right}. {way_out}")
        return pickle.loads(contents[name], encoding="bytes")  # noqa: S301, its md5 is right

    def images(listed: Sequence[Sequence[str]]) -> Images:
        batches = [load(name) for name, _ in listed]
        planes = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([batch.get(b"labels", batch.get(b"fine_labels")) for batch in batches])
        return Images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)

    classes = tuple(name.decode() for name in load(meta["filename"])[meta["key"].encode()])
    return Source(images(official.train_list), images(official.test_list), classes)


def _unpack(archive: Path, called: str, right: str) -> dict[str, bytes]:
    """The files in the archive by name."""
    require(archive.is_file(), f"{archive} is not a file. Delete it.")
    actual = md5_of(archive)
    way_out = f"its md5 is {actual}, not {right}. Delete it."
    require(actual == right, f"{archive} is not {called} or is damaged: {way_out}")
    with tarfile.open(archive) as tar:
        files = {Path(member.name).name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in files.items() if file is not None}
