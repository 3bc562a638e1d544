"""How good the range test's rate is: beside the best of a grid of real runs.

`python -m benchmarks.rates DIRECTORY [--data ROOT] [--out FILE]`

1. **The ground truth**: a sweep of real short runs over rates a factor of two apart, for each schedule and two seeds, on
   official images shrunk to 8 pixels, judged on held-out training images. Accuracy over the rate, the mean of the
   seeds, straight between the rates, is the grid's curve; its highest point is the best rate.
2. **The range test alone**, with 10 seeds, three batch sizes and two augmentations, on the same images.
3. Of each suggestion: how far it lies from the best rate (a factor), and what it would lose (its regret, in points), both
   read off the grid's curve.

Everything is kept in DIRECTORY: begun again, it goes on with what is missing. The test images are not read.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT, config, head, save
from cifar_pl import experiment, hardware, lr_finder, rate, rundir
from cifar_pl.build import build
from cifar_pl.sources import Images, Source
from cifar_pl.sources.cifar10 import cifar10

PIXELS, HELD_OUT = 8, 10_000
SEEDS, TESTS = (0, 1), range(10)
BATCHES, AUGMENTATIONS = (64, 128, 512), ("light", "cutout")
RATES = [0.005 * 2**n for n in range(9)]
SCHEDULES: Mapping[str, tuple[Sequence[float], Sequence[str]]] = {
    "plateau": (RATES[:8], ("scheduler=plateau", "scheduler.patience=1")),
    "multistep": (RATES[:8], ("scheduler=multistep",)),
    "onecycle": (RATES[1:], ("scheduler=onecycle",)),
    "plateau, no warm-up": (RATES[:7], ("scheduler=plateau", "scheduler.patience=1", "scheduler.warmup=0")),
}
SMALL = (
    "data.source._target_=benchmarks.rates.part",
    f"data.image_size={PIXELS}",
    "data.val_size=1000",
    "data.start_share=0",
    "aug.pad.padding=1",
    "trainer=cpu",
)
SHORT = ("+data.source.number=5000", "trainer.max_epochs=6", "callbacks=none", "logger=none")
LONG = ("+data.source.number=40000",)  # a range test sees most images once


def part(image_size: int, number: int, **official: Any) -> Source:
    """`number` of CIFAR-10's training images, shrunk by area; as its test part 10,000 others of them."""
    source = cifar10(**official)
    rows = np.random.default_rng(0).permutation(len(source.train))

    def chosen(rows: NDArray[np.int64]) -> Images:
        images = source.train.pixels[rows]
        small = [cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_AREA) for image in images]
        return Images(np.stack(small), source.train.labels[rows])

    return Source(chosen(rows[:number]), chosen(rows[-HELD_OUT:]), source.classes)


def grid(directory: Path, root: Path) -> dict[str, dict[float, list[float]]]:
    """Accuracy on the held-out images by schedule and rate, one value for each seed; trains what is missing."""
    found: dict[str, dict[float, list[float]]] = {}
    for name, (rates, overrides) in SCHEDULES.items():
        sweep = directory / name.replace(", ", "-").replace(" ", "-")
        go_on = (sweep / "multirun.yaml").exists()
        typed = [*overrides, *SMALL, *SHORT, f"data.root={root}", f"hydra.sweep.dir={sweep}"]
        lists = [f"optimizer.lr={','.join(map(str, rates))}", f"seed={','.join(map(str, SEEDS))}"]
        two = ("hydra/launcher=local", f"sweep.at_once={hardware.cores()}")  # one thread each: faster than one run with all
        arguments = [f"sweep.resume={sweep}"] if go_on else ["-m", *two, *typed, *lists]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], cwd=ROOT, check=True)
        found[name] = {lr: [] for lr in rates}
        for file in sorted(sweep.glob(f"*/{rundir.SUMMARY}")):
            facts = rundir.read_json(file)
            found[name][facts["lr"]["value"]].append(facts["test"]["acc"])
    return found


if __name__ == "__main__":
    grid(Path(sys.argv[1]).resolve(), Path("data").resolve())
