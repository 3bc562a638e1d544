"""Decoded images on disk: a file with their sha256 and their bytes, checked when it is read."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cifar_pl.errors import require
from cifar_pl.runs import files

log = logging.getLogger(__name__)

HEAD = sha256().digest_size


def cached(path: Path, shape: tuple[int, ...], make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pixels cached at `path`, uint8 of `shape`; if there are none, what `make` returns, saved there if possible.

    One process makes them while others wait for it.
    """
    lock: AbstractContextManager[object]
    try:
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path.with_suffix(".lock")).acquire()
    except OSError:  # nothing can be written there
        lock = nullcontext()
    with lock:
        if path.is_file():
            return _load(path, shape)
        pixels = make()
        try:
            with files.atomic(path) as file:
                file.write(sha256(pixels.data).digest())
                file.write(pixels.data)
        except OSError as error:
            log.warning("%s cannot be written (%s): the next run decodes again.", path, error.strerror)
        return pixels


def _load(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    size, expected = path.stat().st_size, HEAD + prod(shape)
    require(size == expected, f"{path} is damaged or altered: it has {size} bytes, not {expected}. Delete it.")
    content = np.fromfile(path, np.uint8)
    pixels = content[HEAD:].reshape(shape)
    altered = sha256(pixels.data).digest() != content[:HEAD].tobytes()
    require(not altered, f"{path} is damaged or altered: its pixels have another sha256. Delete it.")
    return pixels
