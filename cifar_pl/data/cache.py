"""Decoded images on disk: a file with its sha256, a note and pixels, checked when it is read."""

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cifar_pl.errors import require
from cifar_pl.runs import files

log = logging.getLogger(__name__)

HEAD = sha256().digest_size
Pixels = NDArray[np.uint8]


def cached(path: Path, shape: tuple[int, ...], make: Callable[[], tuple[Pixels, Any]]) -> tuple[Pixels, Any]:
    """Images cached at `path`, uint8 (N, *shape), with a note, a JSON value; else what `make` returns, saved there.

    One process makes them while others wait for it, and deletes those beside them whose names differ after the last `-`
    only. If nothing can be written there, they are not saved.
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
        pixels, note = make()
        line = json.dumps(note).encode() + b"\n"
        try:
            with files.atomic(path) as file:
                file.write(_digest(line, pixels) + line)
                file.write(pixels.data)
        except OSError as error:
            log.warning("%s cannot be written (%s): the next run decodes again.", path, error.strerror)
        else:
            _delete_older(path)
        return pixels, note


def _delete_older(path: Path) -> None:
    what, _, _ = path.name.rpartition("-")
    with suppress(OSError):
        for other in path.parent.glob("*.pixels"):
            if other != path and other.name.rpartition("-")[0] == what:
                other.unlink()


def _load(path: Path, shape: tuple[int, ...]) -> tuple[Pixels, Any]:
    with path.open("rb") as file:
        digest, line, pixels = file.read(HEAD), file.readline(), np.fromfile(file, np.uint8)
    require(digest == _digest(line, pixels), f"{path} is damaged or altered: it has another sha256. Delete it.")
    return pixels.reshape(-1, *shape), json.loads(line)


def _digest(line: bytes, pixels: Pixels) -> bytes:
    digest = sha256(line)
    digest.update(pixels.data)
    return digest.digest()
