"""One file from the first of several mirrors that delivers it whole and unaltered."""

import errno
import hashlib
import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from cifar_pl.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes
OURS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}  # no mirror can help


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(
    mirrors: Sequence[str],
    target: Path,
    md5: str,
    timeout: float = 30.0,
    min_speed: float = 20_000.0,
    attempts: int = 2,
) -> None:
    """Put the file with this md5 at `target`, unless it is there already.

    Each mirror is tried `attempts` times (once if it answers with an HTTP error). An attempt ends
    when nothing arrives for `timeout` seconds, or less than `min_speed` bytes/s over such a span.
    What arrives goes to a temporary file beside `target`, which is checked and then renamed. A file
    lock makes a second process wait, and then find the file.

    Raises:
        UserError: no mirror delivered; the message says what each of them did.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        if target.exists() and md5_of(target) == md5:
            return None
        failures: list[str] = []
        for url in mirrors:
            for _ in range(attempts):
                try:
                    return _attempt(url, target, md5, timeout, min_speed)
                except (OSError, HTTPException, ValueError) as error:
                    if getattr(error, "errno", None) in OURS:
                        raise
                    failures.append(f"{url}: {error}")
                    log.warning("Download failed. %s", failures[-1])
                    if isinstance(error, urllib.error.HTTPError):
                        break
        raise UserError("\n  ".join(["no mirror delivered the file:", *failures]))


def _attempt(url: str, target: Path, md5: str, timeout: float, min_speed: float) -> None:
    """Fetch into a temporary file, check it, rename it; on any error nothing is left behind."""
    log.info("Downloading %s", url)
    with (
        urllib.request.urlopen(url, timeout=timeout) as response,  # noqa: S310, the address is the user's own
        tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder,
    ):
        part = Path(folder, "part")
        size = int(response.headers.get("Content-Length", 0)) or None
        seen, since = 0, time.monotonic()
        with part.open("wb") as file, tqdm(total=size, unit="B", unit_scale=True, desc=target.name) as bar:
            while chunk := response.read1(CHUNK):  # what has arrived; read() would wait for all of it
                file.write(chunk)
                bar.update(len(chunk))
                seen += len(chunk)
                if (span := time.monotonic() - since) > timeout:
                    if seen < min_speed * span:
                        raise ValueError(f"too slow, {seen / span:.0f} bytes/s where {min_speed:.0f} is the least")
                    seen, since = 0, time.monotonic()
        if size is not None and part.stat().st_size != size:
            raise ValueError(f"cut off after {part.stat().st_size} of {size} bytes")
        if (found := md5_of(part)) != md5:
            raise ValueError(f"its md5 is {found}, not {md5}")
        os.replace(part, target)
