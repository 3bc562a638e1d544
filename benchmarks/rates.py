"""How good the range test's rate is: beside the best of a grid of real runs.

`python -m benchmarks.rates DIRECTORY [--data ROOT] [--out FILE]`

1. **The ground truth**: a sweep of real short runs over rates a factor of two apart, for each schedule and two seeds,
   on official images shrunk to 8 pixels, judged on held-out training images. Accuracy over the rate, the mean of the
   seeds, straight between the rates, is the grid's curve; its highest point is the best rate.
2. **The range test alone**, with 10 seeds, three batch sizes and two augmentations, on the same images.
3. Of each suggestion: how far it lies from the best rate (a factor), and what it would lose (its regret, in points),
   read off the grid's curve.

Everything is kept in DIRECTORY: begun again, it goes on with what is missing. The test images are not read.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.common import ROOT, config, head, save, table
from cifar_pl.config.build import build
from cifar_pl.data.cifar10 import cifar10
from cifar_pl.data.images import Images, Source
from cifar_pl.machine import hardware
from cifar_pl.reporting import figures
from cifar_pl.runs import rundir
from cifar_pl.training import experiment, learning_rate, lr_finder, schedulers

PIXELS, HELD_OUT = 8, 10_000
SEEDS, TESTS = (0, 1), range(10)
BATCHES, AUGMENTATIONS = (64, 128, 512), ("light", "cutout")
RATES = [0.005 * 2**n for n in range(9)]
SHORT = ("+data.source.number=5000", "trainer.max_epochs=6")  # 4,000 to train, 1,000 for the plateau to follow
LONGER = ("+data.source.number=11000", "trainer.max_epochs=7")
PLATEAU = ("scheduler=plateau", "scheduler.patience=1")
MULTISTEP, ONECYCLE = ("scheduler=multistep",), ("scheduler=onecycle",)
B64, B512 = ("data.batch_size=64",), ("data.batch_size=512",)
# Six epochs over the whole range; with other batches around what is best there, each size by a grid of its own.
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
# What is judged, and the grid of its batches of 512. Those of 64 have their schedule's own, too.
JUDGED = {
    "plateau": "plateau, batches of 512",
    "multistep": "multistep, batches of 512",
    "onecycle": "onecycle, batches of 512",
    "onecycle, 512 by 42 steps": "onecycle, 42 steps of 512",
    "plateau, no warm-up": "plateau, batches of 512",
}
SMALL = (
    "data.source._target_=benchmarks.rates.part",
    f"data.image_size={PIXELS}",
    "data.val_size=1000",
    "data.start_share=0",
    "aug.pad.padding=1",
    "trainer=cpu",
)
TESTED = ("+data.source.number=40000",)  # a range test sees most images once


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
    for name, (rates, overrides) in SWEEPS.items():
        sweep = directory / name.replace(", ", "-").replace(" ", "-")
        go_on = (sweep / "multirun.yaml").exists()
        typed = [*overrides, *SMALL, "callbacks=none", "logger=none", f"data.root={root}", f"hydra.sweep.dir={sweep}"]
        lists = [f"optimizer.lr={','.join(map(str, rates))}", f"seed={','.join(map(str, SEEDS))}"]
        two = ("hydra/launcher=local", f"sweep.at_once={hardware.cores()}")  # with one thread each
        arguments = [f"sweep.resume={sweep}"] if go_on else ["-m", *two, *typed, *lists]
        subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], cwd=ROOT, check=True)
        found[name] = {lr: [] for lr in rates}
        for file in sorted(sweep.glob(f"*/{rundir.SUMMARY}")):
            facts = rundir.read_json(file)
            found[name][facts["lr"]["value"]].append(facts["test"]["acc"])
    return found


def curves(directory: Path, root: Path) -> list[dict[str, Any]]:
    """The range tests: augmentation, batch, seed, and the curve; measures what is missing."""
    found = []
    for batch, aug, seed in itertools.product(BATCHES, AUGMENTATIONS, TESTS):
        file = directory / "range_tests" / f"{aug}-{batch}-{seed}.json"
        if not file.exists():
            hole = [f"aug.cutout.hole={PIXELS // 2}"] if aug == "cutout" else []
            more = [f"aug={aug}", *hole, f"data.batch_size={batch}", f"seed={seed}", f"data.root={root}"]
            rundir.write_json(file, {"aug": aug, "batch": batch, "seed": seed, **measured([*SMALL, *TESTED, *more])})
            print(f"range test {file.stem}: {len(rundir.read_json(file)['lr'])} steps", flush=True)
        found.append(rundir.read_json(file))
    return found


def measured(overrides: Sequence[str]) -> dict[str, list[float]]:
    """A range test as long as that of the default run, which has 16 epochs of 45,000 images."""
    cfg = config([*overrides, "lr_finder=range_test"])
    data = build(cfg.datamodule)
    network = experiment.initial(cfg, data, "cpu")
    trainer = {"accelerator": "cpu", "precision": hardware.precision("auto", "cpu"), "devices": 1}
    number = lr_finder.steps(16 * (45_000 // data.batch_size))
    asked = cfg.lr_finder
    with tempfile.TemporaryDirectory() as scratch:
        curve = lr_finder.measure(
            learning_rate.spare(cfg, network, data),
            data.train_dataloader(),
            {**trainer, "default_root_dir": scratch},
            number,
            asked.min_lr,
            asked.max_lr,
        )
    return {"lr": curve.lr.tolist(), "loss": curve.loss.tolist()}


def truth(found: Mapping[str, Mapping[float, Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """For each schedule the grid's curve (rates, points), its highest point, and the band within one point of that."""
    facts: dict[str, dict[str, Any]] = {}
    for name, by_rate in found.items():
        lr = sorted(by_rate)
        points = [100 * float(np.mean(by_rate[rate])) for rate in lr]
        curve = {"lr": lr, "points": points}
        fine = np.geomspace(lr[0], lr[-1], 1001)
        good = fine[at(fine, curve) >= max(points) - 1]
        seeds = [[100 * value for value in by_rate[rate]] for rate in lr]
        facts[name] = {**curve, "seeds": seeds, "best": lr[int(np.argmax(points))], "band": [good[0], good[-1]]}
    return facts


def at(rate: Any, facts: Mapping[str, Any]) -> Any:
    """The grid's curve at a rate: straight between the grid's rates on the log scale, flat beyond them."""
    return np.interp(np.log(rate), np.log(facts["lr"]), facts["points"])


def judged(grid: Mapping[str, Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each schedule, each method: rates, their factors from the best, and their regrets in points.

    A range test is judged by the grid of its batch size.
    """
    result: dict[str, Any] = {}
    curves = [lr_finder.Curve(np.array(t["lr"]), np.array(t["loss"])) for t in tests]
    for name, large in JUDGED.items():
        schedule = name.partition(",")[0]
        grids = {64: f"{schedule}, batches of 64", 128: name if name in grid else schedule, 512: large}
        stays = schedulers.stays(build(config([*SWEEPS[schedule][1], *SMALL]).scheduler), 16, 16 * 351)
        choices = [lr_finder.choose(curve, 10, stays) for curve in curves]
        facts = [grid[grids[t["batch"]]] for t in tests]
        for method in lr_finder.METHODS:
            rates = [c.suggestions.get(method, c.safe) for c in choices]
            factors = [max(rate / f["best"], f["best"] / rate) for rate, f in zip(rates, facts, strict=True)]
            regrets = [max(f["points"]) - at(rate, f) for rate, f in zip(rates, facts, strict=True)]
            result.setdefault(name, {})[method] = {
                "found": sum(bool(c.suggestions) for c in choices),
                "beyond_3": sum(factor > 3 for factor in factors),
                "largest_factor": max(factors),
                "mean_regret": float(np.mean(regrets)),
                "largest_regret": max(regrets),
                "rates": " ".join(f"{rate:.4g}" for rate in rates),
            }
    return result


def picture(record: Mapping[str, Any]) -> Figure:
    """The grid's curves, below them the suggestions of all range tests as ticks."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2.4))
    rows: list[str] = []

    def ticks(label: str, rates: Sequence[float], colour: str) -> None:
        rows.append(label)
        below.plot(rates, [-len(rows)] * len(rates), "|", color=colour, markersize=13, alpha=0.6)

    for n, name in enumerate(name for name in JUDGED if name in record["grid"]):
        facts = record["grid"][name]
        above.plot(facts["lr"], facts["points"], color=f"C{n}", label=name)
        for lr, values in zip(facts["lr"], facts["seeds"], strict=True):
            above.plot([lr] * len(values), values, "o", color=f"C{n}", markersize=3)
        below.plot(facts["band"], [-n - 1] * 2, color=f"C{n}", linewidth=14, alpha=0.2, solid_capstyle="butt")
        ticks(f"auto, {name}", rates_of(record, name, "auto"), f"C{n}")
    for method in lr_finder.METHODS[1:]:
        ticks(method, rates_of(record, "plateau", method), "0.4")
    above.set(
        xscale="log", ylabel="held-out images right, %", title="Rates: the best of a grid, and what the range test says"
    )
    above.legend()
    above.grid(alpha=0.3)
    below.set(
        xlabel="learning rate", yticks=range(-1, -len(rows) - 1, -1), yticklabels=rows, ylim=(-len(rows) - 0.6, -0.4)
    )
    below.grid(alpha=0.3, axis="x")
    figure.supxlabel("shaded: within one point of the best", fontsize=9)
    return figure


def rates_of(record: Mapping[str, Any], name: str, method: str) -> list[float]:
    """What a method suggests in each range test."""
    return [float(rate) for rate in record["judged"][name][method]["rates"].split()]


def tables(record: Mapping[str, Any]) -> str:
    """The grid, and how each method did."""
    best = [
        (name, f"{f['best']:.3g}", f"{max(f['points']):.1f}", f"{f['band'][0]:.2g} to {f['band'][1]:.2g}")
        for name, f in record["grid"].items()
    ]
    methods = [
        (
            name,
            f"`{method}`",
            "{:.2g} to {:.2g}".format(*np.quantile(rates_of(record, name, method), (0, 1))),
            f"{j['found']}",
            f"{j['largest_factor']:.1f}",
            f"{j['mean_regret']:.2f}",
            f"{j['largest_regret']:.2f}",
        )
        for name, by_method in record["judged"].items()
        for method, j in by_method.items()
    ]
    header = ("schedule", "method", "its rates", "found", "largest factor", "mean regret, points", "largest regret")
    return table(("schedule", "best rate", "right, %", "within one point"), best) + "\n\n" + table(header, methods)


def main() -> None:
    """Measure what is missing, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where runs and curves are kept")
    parser.add_argument("--data", type=Path, default=Path("data"), help="has cifar-10-batches-py")
    parser.add_argument("--out", type=Path, help="write the record here, and the picture beside it")
    args = parser.parse_args()
    directory, root = args.directory.resolve(), args.data.resolve()
    facts = truth(grid(directory, root))
    tests = curves(directory, root)
    record = {
        "benchmark": "rates",
        **head("benchmarks.rates"),
        "data": f"official training images shrunk to {PIXELS} pixels",
        "grid": facts,
        "judged": judged(facts, tests),
        "range_tests": [compact(t) for t in tests],
    }
    print(tables(record))
    save(args.out, record)
    if args.out:
        rundir.write(args.out.with_suffix(".png"), figures.png(picture(record)))


def compact(test: Mapping[str, Any]) -> dict[str, Any]:
    """A range test in few lines: its rates by the first and the last, its losses as text."""
    losses = " ".join(f"{loss:.3f}" for loss in test["loss"])
    return {**test, "lr": [test["lr"][0], test["lr"][-1]], "loss": losses}


def curve(compacted: Mapping[str, Any]) -> lr_finder.Curve:
    """The curve of a record's range test."""
    loss = np.array(compacted["loss"].split(), float)
    first, last = compacted["lr"]
    return lr_finder.Curve(np.geomspace(first, last, len(loss)), loss)


if __name__ == "__main__":
    main()
