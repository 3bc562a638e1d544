"""Real transfers from real, bad servers on loopback."""

import hashlib
import http.server
import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cifar_pl.data.cifar10 import CIFAR10, cifar10
from cifar_pl.data.download import download
from cifar_pl.errors import UserError

DATA = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA at /good, and at other paths goes wrong in other ways."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/missing":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        try:
            if self.path == "/cut":
                self.wfile.write(DATA[: len(DATA) // 2])
            elif self.path == "/altered":
                self.wfile.write(DATA[:-1] + bytes([DATA[-1] ^ 1]))
            elif self.path == "/silent":
                time.sleep(3)
            elif self.path == "/trickle":
                for start in range(0, len(DATA), 100):
                    self.wfile.write(DATA[start : start + 100])
                    self.wfile.flush()
                    time.sleep(0.05)
            else:
                time.sleep(0.5)  # long enough for a second process to arrive
                self.wfile.write(DATA)
        except OSError:
            pass  # the client had enough
        return None

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def urls(server: http.server.ThreadingHTTPServer, *paths: str) -> list[str]:
    return [f"http://127.0.0.1:{server.server_port}/{path}" for path in paths]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("missing", "404"),
        ("cut", "cut off after"),
        ("altered", "its md5 is"),
        ("silent", "timed out"),
        ("trickle", "too slow"),
    ],
)
def test_a_bad_mirror_is_told_and_the_next_one_serves(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, path: str, complaint: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    download(urls(server, path, "good"), tmp_path / "file", MD5, timeout=0.7)
    assert (tmp_path / "file").read_bytes() == DATA
    assert server.requests == [f"/{path}", "/good"]  # type: ignore[attr-defined]
    assert complaint in caplog.text
    assert {p.name for p in tmp_path.iterdir()} <= {"file", "file.lock"}


def test_if_no_mirror_serves_each_one_is_named_and_nothing_is_left(
    server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"(?s)missing: .*404.*altered: .*md5"):
        download(urls(server, "missing", "altered"), tmp_path / "file", MD5)
    assert {p.name for p in tmp_path.iterdir()} <= {"file.lock"}


def test_two_processes_download_once(server: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    arguments = (urls(server, "good"), tmp_path / "file", MD5)
    processes = [context.Process(target=download, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert server.requests == ["/good"]  # type: ignore[attr-defined]
    assert (tmp_path / "file").read_bytes() == DATA


def test_offline_the_message_has_what_was_tried_and_three_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        cifar10(tmp_path, mirrors=["http://127.0.0.1:9/archive"], timeout=1)
    message = str(caught.value)
    assert "http://127.0.0.1:9/archive: " in message
    for way in (str(tmp_path / CIFAR10.filename), "data=image_folder data.root=", "data=digits"):
        assert way in message
