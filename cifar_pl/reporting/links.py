"""From a page to the pages of its runs."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from cifar_pl.runs import rundir
from cifar_pl.runs.record import Record


def links(out: Path) -> dict[str, Callable[[Record], str]]:
    """What the templates of pages in `out` call: the `place` of a run, and the `link` to its page, else empty."""

    def link(run: Record) -> str:
        page = run.directory / rundir.PAGE
        return "./" + quote(relative(page, out)) if page.is_file() else ""

    return {"place": lambda run: relative(run.directory, out), "link": link}


def relative(path: Path, out: Path) -> str:
    """The way from `out` to `path`, with slashes on every system."""
    return Path(os.path.relpath(path, out)).as_posix()
