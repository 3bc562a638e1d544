"""One file from the first of several mirrors that delivers it complete and unaltered."""

import errno
import hashlib
import logging
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from cifar_pl.errors import UserError
from cifar_pl.runs import files

log = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes
LOCAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}  # another mirror cannot help


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(
    mirrors: Sequence[str], target: Path, md5: str, timeout: float = 30.0, min_speed: float = 20_000.0
) -> None:
    """Put the file with this md5 at `target`, unless it is there already; a second process waits and finds it.

    The mirrors are tried in turn, each twice. An attempt ends when nothing arrives for `timeout` seconds, or less than
    `min_speed` bytes/s over such a span.

    Raises:
        UserError: no mirror delivered; the message says what each of them did.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        if target.exists() and md5_of(target) == md5:
            return None
        failures: list[str] = []
        for url in [*mirrors, *mirrors]:
            try:
                return _fetch(url, target, md5, timeout, min_speed)
            except (OSError, HTTPException, ValueError) as error:
                if getattr(error, "errno", None) in LOCAL_ERRORS:
                    raise
                failures.append(f"{url}: {error}")
                log.warning("Download failed. %s", failures[-1])
        raise UserError("\n  ".join(["no mirror delivered the file:", *dict.fromkeys(failures)]))


def _fetch(url: str, target: Path, md5: str, timeout: float, min_speed: float) -> None:
    log.info("Downloading %s", url)
    with (
        urllib.request.urlopen(url, timeout=timeout) as response,  # noqa: S310, the user's own URL
        files.atomic(target) as file,
    ):
        size = int(response.headers.get("Content-Length", 0)) or None
        digest = hashlib.md5(usedforsecurity=False)
        recent, since = 0, time.monotonic()
        with tqdm(total=size, unit="B", unit_scale=True, desc=target.name) as bar:
            while chunk := response.read1(CHUNK):  # what has arrived; read() would wait for all of it
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
                recent += len(chunk)
                if (span := time.monotonic() - since) > timeout:
                    if recent < min_speed * span:
                        raise ValueError(f"too slow: {recent / span:.0f} bytes/s, less than {min_speed:.0f}")
                    recent, since = 0, time.monotonic()
        if size is not None and file.tell() != size:
            raise ValueError(f"cut off after {file.tell()} of {size} bytes")
        if digest.hexdigest() != md5:
            raise ValueError(f"its md5 is {digest.hexdigest()}, not {md5}")
