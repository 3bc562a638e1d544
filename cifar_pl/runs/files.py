"""Files that appear complete or not at all; JSON, CSV, NumPy archives."""

import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cifar_pl.errors import UserError, reason, require

PART = ".part"  # ends the name of a file that is being written


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears at `path` complete or not at all: a neighbour, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes private files
        _rename(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _rename(name: str, path: Path) -> None:
    """Rename over `path`; on Windows a virus scanner or a reader may hold it for a moment."""
    for wait in (0.1, 0.2, 0.4, 0.8, 1.6, None):
        try:
            os.replace(name, path)
            break
        except PermissionError:
            if os.name != "nt" or wait is None:
                raise
            time.sleep(wait)


def write(path: Path, content: str | bytes) -> None:
    """Write `content` with `atomic`."""
    data = content.encode() if isinstance(content, str) else content
    with atomic(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity, which JSON lacks, become null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    write(path, json.dumps(finite, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The mapping in a JSON file."""
    with reading(path) as file:
        value = json.load(file)
        json.dumps(value, ensure_ascii=False).encode()  # refuses text that no file can hold
        require(isinstance(value, dict), "it holds no mapping")
    return value


@contextmanager
def reading(path: Path) -> Iterator[IO[str]]:
    """The open text file; an error in reading its content becomes a `UserError` with its name."""
    with path.open(encoding="utf-8", newline="") as file:
        try:
            yield file
        except OSError:
            raise
        except Exception as error:
            raise UserError(f"{path} cannot be read: {reason(error)}. It is damaged.") from error


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as NumPy's compressed archive."""
    import numpy as np  # here, because --help does without: 0.1 s

    with atomic(path) as file:
        np.savez_compressed(file, **arrays)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `csv_text` to `path`."""
    write(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a table with a header; numbers keep all their digits, what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
