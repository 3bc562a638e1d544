"""What is measured: a grid of real short runs, and range tests on the same images."""

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT, config
from cifar_pl.config import parts
from cifar_pl.data.cifar10 import cifar10
from cifar_pl.data.images import Images, Source
from cifar_pl.machine import hardware
from cifar_pl.runs import files, rundir
from cifar_pl.training import range_test

PIXELS, HELD_OUT = 8, 10_000
SEEDS, TESTS = (0, 1), range(10)
BATCHES, AUGMENTATIONS = (64, 128, 512), ("light", "cutout")
RATES = [0.005 * 2**n for n in range(9)]
SHORT = ("+data.source.number=5000", "trainer.max_epochs=6")  # 4,000 to train, 1,000 for the plateau to follow
LONGER = ("+data.source.number=11000", "trainer.max_epochs=7")
PLATEAU = ("scheduler=plateau", "scheduler.patience=1")
MULTISTEP, ONECYCLE = ("scheduler=multistep",), ("scheduler=onecycle",)
B64, B512 = ("data.batch_size=64",), ("data.batch_size=512",)
# Six epochs over the whole range of rates; for other batches a few rates around the best of those.
SWEEPS: Mapping[str, tuple[Sequence[float], Sequence[str]]] = {
    "plateau": (RATES[:8], (*PLATEAU, *SHORT)),
    "multistep": (RATES[:8], (*MULTISTEP, *SHORT)),
    "onecycle": (RATES[1:], (*ONECYCLE, *SHORT)),
    "plateau, batches of 64": (RATES[1:4], (*PLATEAU, *SHORT, *B64)),
    "multistep, batches of 64": (RATES[2:5], (*MULTISTEP, *SHORT, *B64)),
    "onecycle, batches of 64": (RATES[2:5], (*ONECYCLE, *SHORT, *B64)),
    "plateau, batches of 512": (RATES[2:5], (*PLATEAU, *SHORT, *B512)),
    "multistep, batches of 512": (RATES[3:6], (*MULTISTEP, *SHORT, *B512)),
    "onecycle, batches of 512": (RATES[3:6], (*ONECYCLE, *LONGER, *B512)),  # 133 steps
    "onecycle, 42 steps of 512": (RATES[3:6], (*ONECYCLE, *SHORT, *B512)),  # eleven of them to warm up
    "onecycle, longer": (RATES[2:8], (*ONECYCLE, *LONGER)),
    "plateau, no warm-up": (RATES[:5], (*PLATEAU, "scheduler.warmup=0", *SHORT)),
}
SMALL = (
    "data.source._target_=benchmarks.rates.measuring.part",
    f"data.image_size={PIXELS}",
    "data.val_size=1000",
    "data.start_share=0",
    "aug.pad.padding=1",
    "trainer=cpu",
)
TESTED = ("+data.source.number=40000",)  # a range test sees most images once


def part(image_size: int, number: int, **official: Any) -> Source:
    """`number` of CIFAR-10's training images, shrunk by area, and as the test part 10,000 others of them."""
    source = cifar10(**official)
    rows = np.random.default_rng(0).permutation(len(source.train))

    def chosen(rows: NDArray[np.int64]) -> Images:
        images = source.train.pixels[rows]
        small = [cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_AREA) for image in images]
        return Images(np.stack(small), source.train.labels[rows])

    return Source(chosen(rows[:number]), chosen(rows[-HELD_OUT:]), source.classes)


def grid(directory: Path, root: Path) -> dict[str, dict[float, list[float]]]:
    """Accuracy on the held-out images by schedule and rate, one value for each seed; trains what is missing."""
    accuracies: dict[str, dict[float, list[float]]] = {}
    for name, (rates, overrides) in SWEEPS.items():
        sweep = directory / name.replace(", ", "-").replace(" ", "-")
        typed = [*overrides, *SMALL, "callbacks=none", "logger=none", f"data.root={root}", f"hydra.sweep.dir={sweep}"]
        lists = [f"optimizer.lr={','.join(map(str, rates))}", f"seed={','.join(map(str, SEEDS))}"]
        two = ("hydra/launcher=local", f"sweep.at_once={hardware.cores()}")  # with one thread each
        # A target that is not in the project's configs has to be typed again.
        resumed = ["-m", f"sweep.resume={sweep}", SMALL[0]]
        arguments = resumed if (sweep / "multirun.yaml").exists() else ["-m", *two, *typed, *lists]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], cwd=ROOT, check=True)
        accuracies[name] = {lr: [] for lr in rates}
        for file in sorted(sweep.glob(f"*/{rundir.SUMMARY}")):
            facts = files.read_json(file)
            accuracies[name][facts["lr"]["value"]].append(facts["test"]["acc"])
    return accuracies


def curves(directory: Path, root: Path) -> list[dict[str, Any]]:
    """The range tests: augmentation, batch, seed, and the curve; measures what is missing."""
    tests = []
    for batch, aug, seed in itertools.product(BATCHES, AUGMENTATIONS, TESTS):
        file = directory / "range_tests" / f"{aug}-{batch}-{seed}.json"
        if not file.exists():
            hole = [f"aug.cutout.hole={PIXELS // 2}"] if aug == "cutout" else []
            more = [f"aug={aug}", *hole, f"data.batch_size={batch}", f"seed={seed}", f"data.root={root}"]
            files.write_json(file, {"aug": aug, "batch": batch, "seed": seed, **measured([*SMALL, *TESTED, *more])})
            print(f"range test {file.stem}: {len(files.read_json(file)['lr'])} steps", flush=True)
        tests.append(files.read_json(file))
    return tests


def measured(overrides: Sequence[str]) -> dict[str, list[float]]:
    """A range test as long as that of the default run, which has 16 epochs of 45,000 images."""
    cfg = config([*overrides, "lr_finder=range_test"])
    data = parts.data(cfg, "cpu")
    network = parts.network(cfg, data, "cpu")
    trainer = {"accelerator": "cpu", "precision": hardware.precision("auto", "cpu"), "devices": 1}
    number = range_test.steps(16 * (45_000 // data.batch_size))
    asked = cfg.lr_finder
    with tempfile.TemporaryDirectory() as scratch:
        curve = range_test.measure(
            parts.spare(cfg, network, data),
            data.train_dataloader(),
            {**trainer, "default_root_dir": scratch},
            number,
            asked.min_lr,
            asked.max_lr,
        )
    return {"lr": curve.lr.tolist(), "loss": curve.loss.tolist()}
