"""What many runs cost: a sweep of twelve, and one run in two processes.

`python -m benchmarks.sweeps [--rounds N] [--out FILE] [OVERRIDE...]`

Sweeps on the digits by wall-clock, once: twelve times `python train.py` by a shell's loop, `-m` in one process, and
`-m` with one run per core, each in a process of its own. Then training alone, in images/s of the second epoch: one
process with one thread, one with all cores, and one process per core with one thread each (DDP, gloo). They take
turns; medians count.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import ROOT, head, median, save, table
from cifar_pl.machine import hardware
from cifar_pl.runs.rundir import METRICS
from cifar_pl.runs.summary import read_metrics

SEEDS, RATES, SCHEDULERS = (0, 1, 2), (0.05, 0.1), ("onecycle", "multistep")
DIGITS = ("data=digits", "trainer.accelerator=cpu")  # all on the same device, on any machine
SWEEPS = {
    "loop": "a shell's loop of `python train.py`",
    "one": "`-m`, one after the other",
    "local": "`-m hydra/launcher=local sweep.at_once={at_once}`",
}
TRAININGS = {
    "one_thread": "1 process, 1 thread",
    "all_threads": "1 process, {cores} threads",
    "ddp": "{cores} processes, 1 thread each (`trainer=ddp`)",
}


def seconds(cwd: str, *arguments: str, threads: int | None = None) -> float:
    """Seconds of one `python train.py` in the directory `cwd`."""
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    begin = time.perf_counter()
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    subprocess.run(command, cwd=cwd, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def sweep(kind: str, at_once: int, overrides: list[str]) -> float:
    """Seconds of the twelve runs."""
    lists = {"scheduler": SCHEDULERS, "optimizer.lr": RATES, "seed": SEEDS}
    with tempfile.TemporaryDirectory() as cwd:
        if kind == "loop":
            each = [
                (f"scheduler={s}", f"optimizer.lr={lr}", f"seed={n}") for s in SCHEDULERS for lr in RATES for n in SEEDS
            ]
            return sum(seconds(cwd, *overrides, *job) for job in each)
        many = ["-m", *(f"{key}={','.join(map(str, values))}" for key, values in lists.items())]
        local = ["hydra/launcher=local", f"sweep.at_once={at_once}"] if kind == "local" else []
        return seconds(cwd, *many, *local, *overrides)


def speed(kind: str, cores: int, overrides: list[str]) -> float:
    """Images per second of training, all processes together."""
    ddp = ["trainer=ddp", f"trainer.devices={cores}"]
    with tempfile.TemporaryDirectory() as cwd:
        run = f"hydra.run.dir={cwd}/run"
        arguments = ["trainer.max_epochs=2", "data.start_share=0", *overrides, *(ddp if kind == "ddp" else []), run]
        seconds(cwd, *arguments, threads=cores if kind == "all_threads" else 1)
        return read_metrics(Path(cwd) / "run" / METRICS)[1]["images_per_second"]


def main() -> None:
    """Measure and compare."""
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args, overrides = parser.parse_known_args()
    cores = max(2, hardware.cores())
    turns = [{k: speed(k, cores, [*DIGITS, *overrides]) for k in TRAININGS} for _ in range(args.rounds)]
    record = {
        "benchmark": "sweeps",
        **head("benchmarks.sweeps"),
        "jobs": len(SEEDS) * len(RATES) * len(SCHEDULERS),
        "at_once": cores,
        "sweep_seconds": {k: sweep(k, cores, [*DIGITS, "trainer.max_epochs=2", *overrides]) for k in SWEEPS},
        "images_per_second": {k: median([turn[k] for turn in turns]) for k in TRAININGS},
        "ddp_efficiency": median([turn["ddp"] / turn["one_thread"] / cores for turn in turns]),
        "turns": turns,
        "rounds": args.rounds,
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """Both tables."""
    times, speeds, names = r["sweep_seconds"], r["images_per_second"], {"at_once": r["at_once"], "cores": r["at_once"]}
    first = [(SWEEPS[k].format(**names), f"{t:.0f}", f"{times['loop'] / t:.2f}") for k, t in times.items()]
    second = [(TRAININGS[k].format(**names), f"{v:.0f}", f"{v / speeds['one_thread']:.2f}") for k, v in speeds.items()]
    return (
        table((f"{r['jobs']} runs on the digits", "seconds", "times as fast"), first)
        + "\n\n"
        + table(("one run", "images/s in training", "times as fast"), second)
        + f"\n\nEfficiency of {r['at_once']} processes: {r['ddp_efficiency']:.0%} of {r['at_once']} times one thread. "
        f"Sweeps once, training medians of {r['rounds']} turns."
    )


if __name__ == "__main__":
    main()
