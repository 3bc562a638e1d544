"""Time and memory of `python -m cifar_pl.predict` on a folder against the network alone.

`python -m benchmarks.predict RUN [--rounds N] [--out FILE]`

The folder has the run's test images, as PNG files. Processes take turns: the folder, one file of it (what starting
costs), and here the network on as many images that are in memory already, in the batches and the precision of the run.
Medians count.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from benchmarks.common import ROOT, head, median, save, table, write_images
from cifar_pl.data.pictures import collect
from cifar_pl.inference import saved
from cifar_pl.machine import hardware


def process(run: Path, images: Path) -> tuple[float, float]:
    """Seconds and peak memory in GiB of one `python -m cifar_pl.predict`."""
    command = [sys.executable, "-m", "cifar_pl.predict", str(run.resolve()), str(images.resolve()), "--csv"]
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{command} failed"
    return time.perf_counter() - begin, usage.ru_maxrss * 1024 / 2**30


def forward(run: saved.Saved, number: int) -> float:
    """Seconds of the network alone on `number` images."""
    size, batch = run.config["data"]["image_size"], run.config["data"]["batch_size"]
    images = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    begin = time.perf_counter()
    for start in range(0, number, batch):
        run.logits(images[: number - start])
    return time.perf_counter() - begin


def main() -> None:
    """Measure and compare."""
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    hardware.keep_memory()
    run = saved.find(str(args.run))
    source = run.data().load()
    forward(run, run.config["data"]["batch_size"])  # warms up
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, source.test, source.classes)
        first = collect(folder, run.classes)[0].path
        turns = [
            (*process(args.run, folder), process(args.run, first)[0], forward(run, len(source.test)))
            for _ in range(args.rounds)
        ]
    seconds, memory, start, network = (median(column) for column in zip(*turns, strict=True))
    ratio = median([(whole - begin) / alone for whole, _, begin, alone in turns])
    record = {
        "benchmark": "predict",
        **head("benchmarks.predict", run.device.type),
        "files": len(source.test),
        "seconds": {"folder": seconds, "one_file": start, "network": network},
        "ratio": ratio,
        "peak_memory_gib": memory,
        "rounds": args.rounds,
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """One row."""
    seconds = [f"{r['seconds'][name]:.1f}" for name in ("folder", "one_file", "network")]
    row = (f"{r['files']:,}", *seconds, f"{r['ratio']:.2f}", f"{r['peak_memory_gib']:.2f}")
    header = ("files", "seconds", "of which to start", "network alone", "files over network", "peak memory, GiB")
    return f"{table(header, [row])}\n\nMedians of {r['rounds']} turns."


if __name__ == "__main__":
    main()
