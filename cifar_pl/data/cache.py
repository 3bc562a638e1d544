"""Decoded images on disk: one array, whole or not there, checked when it is read."""

import io
import logging
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cifar_pl.errors import UserError, require
from cifar_pl.runs import files

log = logging.getLogger(__name__)

NAME = "pixels.npy"  # in the file, as numpy.savez has it


def cached(path: Path, shape: tuple[int, ...], make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What is cached at `path`, uint8 of `shape`; else what `make` returns, which is kept there where that can be done.

    Of several processes one makes it, and the others wait for it.

    Raises:
        UserError: the cache is damaged, or holds something else.
    """
    if not path.is_file():
        with _locked(path):
            if not path.is_file():  # now, no other process has made it meanwhile
                pixels = make()
                _save(path, pixels)
                return pixels
    return _load(path, shape)


def _locked(path: Path) -> AbstractContextManager[object]:
    """A lock beside the cache; none where nothing can be written anyway."""
    try:
        path.parent.mkdir(exist_ok=True)
        return FileLock(path.with_suffix(".lock")).acquire()
    except OSError:
        return nullcontext()


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, pixels=pixels)
    try:
        files.write(path, buffer.getvalue())
    except OSError as error:
        log.warning("%s cannot be written (%s): the next run decodes again.", path, error.strerror)


def _load(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Nothing in the file is run, no more is unpacked than the pixels take, and their checksum is compared."""
    try:
        with zipfile.ZipFile(path) as file, file.open(NAME) as member:
            require(file.getinfo(NAME).file_size < prod(shape) + 1024, "its content is too large")
            pixels: NDArray[np.uint8] = np.lib.format.read_array(member, allow_pickle=False)
        found = f"{pixels.dtype} {pixels.shape}"
        require(pixels.dtype == np.uint8 and pixels.shape == shape, f"it holds {found}, not uint8 {shape}")
    except Exception as error:  # noqa: BLE001  # zipfile and numpy raise what they like
        raise UserError(f"{path} is damaged or altered ({error}). Delete it.") from None
    return pixels
