"""The screenshots of the documents: a run's page on a desk and on a phone, and TensorBoard.

`python -m benchmarks.screenshots RUN` writes them to `benchmarks/results/`. It needs Chromium: the system's, or
`playwright install chromium`.
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.common import RESULTS

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
Scheme = Literal["light", "dark"]
VIEWS: tuple[tuple[str, int, int, Scheme, str], ...] = (  # name, width, height, section at the top
    ("desk", 1100, 900, "light", ""),
    ("wall", 1100, 560, "light", "mistakes"),
    ("phone", 390, 844, "dark", "cases"),
    ("map", 1100, 620, "dark", "map"),
    ("labels", 1100, 560, "light", "labels"),
)
COLORS = 128  # of a screenshot as a palette PNG


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window.

    Raises:
        FileNotFoundError: it is not installed.
    """
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), None) or playwright.chromium.executable_path
        if not Path(path).exists():
            raise FileNotFoundError("No Chromium: apt install chromium, or playwright install chromium.")
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # Chromium refuses its sandbox to root
        chromium = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *sandbox])
        yield chromium
        chromium.close()


def save(page: Page, path: Path, full_page: bool = False) -> None:
    """A screenshot as a small PNG."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=full_page)))
    image.convert("RGB").quantize(COLORS).save(path, optimize=True)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """TensorBoard's address while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        logdir.resolve().name,
        "--host",
        "127.0.0.1",
        "--port",
    ]
    # Started in its parent directory, so that the page shows a name and not a path.
    process = subprocess.Popen([*command, str(port)], cwd=logdir.resolve().parent, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}").close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--whole", action="store_true", help="the whole pages, and every tab of TensorBoard")
    ask = parser.parse_args()
    with browser() as chromium:
        for name, width, height, scheme, section in VIEWS:
            page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto((ask.run / "report.html").resolve().as_uri())
            page.evaluate("id => document.getElementById(id)?.scrollIntoView()", section)
            save(page, ask.out / f"page_{name}.png", ask.whole)
        with tensorboard(ask.run) as address:
            tabs = ["timeseries", "images", "custom_scalars", "hparams", "text"] if ask.whole else ["custom_scalars"]
            for tab in tabs:
                page = chromium.new_page(viewport={"width": 1300, "height": 850})
                page.goto(f"{address}/#{tab}&_smoothingWeight=0")
                page.wait_for_timeout(6000)
                save(page, ask.out / f"tensorboard_{tab}.png")


if __name__ == "__main__":
    main()
