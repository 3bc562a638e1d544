"""Real `python train.py` processes: started, watched, and what is left when they have ended."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, TINY
from cifar_pl.runs import rundir

EPOCHS = 4
SHORT = (
    *TINY,
    f"trainer.max_epochs={EPOCHS}",
    "+trainer.limit_train_batches=3",
    "optimizer.lr=0.02",
    "logger=none",
    "callbacks.last.every=0",  # so that kills hit what is being written
)
SCHEDULES = {
    "onecycle": ("scheduler=onecycle", "lr_finder=range_test", "lr_finder.num_training=50"),
    "multistep": ("scheduler=multistep", "scheduler.milestones=[0.3,2]"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.5"),
}
# The ways in which a run can end, with the signal that ends it.
ENDS = {"its end": None, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGKILL": signal.SIGKILL, "NaN": None}


def begin(cwd: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start `python train.py ...` in a process group of its own, with one thread; stderr goes to `cwd/stderr`."""
    return subprocess.Popen(
        [*prefix, sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=(cwd / "stderr").open("w"),
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


def end(process: subprocess.Popen[str]) -> int:
    """Wait for its end and return its exit status."""
    process.communicate()
    return process.returncode


def drain(process: subprocess.Popen[str]) -> None:
    """Read what it prints in the background, so that it never waits for us."""
    assert process.stdout is not None
    threading.Thread(target=process.stdout.read, daemon=True).start()


def undisturbed(folder: Path, *arguments: str) -> Path:
    """A run in `folder/whole` that nothing happens to."""
    process = begin(folder, *arguments, "hydra.run.dir=whole")
    assert end(process) == 0, (folder / "stderr").read_text()
    return folder / "whole"


def watch(process: subprocess.Popen[str], every: float = 0.5) -> list[dict[str, float]]:
    """Seconds, resident MB, threads, open files and children of a process, until it ends."""
    proc, samples, start = Path(f"/proc/{process.pid}"), [], time.monotonic()
    drain(process)
    while process.poll() is None:
        try:
            status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
            samples.append(
                {
                    "seconds": time.monotonic() - start,
                    "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
                    "threads": int(status["Threads"]),
                    "files": len(list((proc / "fd").iterdir())),
                    "children": len((proc / f"task/{process.pid}/children").read_text().split()),
                }
            )
        except (OSError, KeyError):  # it is ending
            break
        time.sleep(every)
    process.wait()
    return samples


def long(*arguments: str) -> dict[str, Any]:
    """The most that a process of `python train.py` uses in the second quarter of its time, and in the last."""
    with tempfile.TemporaryDirectory() as folder:
        process = begin(Path(folder), *arguments)
        samples = watch(process)
        assert process.returncode == 0, Path(folder, "stderr").read_text()
        quarter = len(samples) // 4
        parts = {"second quarter": samples[quarter : 2 * quarter], "last quarter": samples[3 * quarter :]}
        return {
            "seconds": samples[-1]["seconds"],
            "samples": len(samples),
            "finished": len(list(Path(folder).rglob(rundir.SUMMARY))),
            **{name: {key: max(s[key] for s in part) for key in part[0]} for name, part in parts.items()},
        }


def leftovers(how: str) -> list[str]:
    """The processes that are left 15 s after a run with three loader workers has ended in one of the `ENDS`."""
    with tempfile.TemporaryDirectory() as folder:
        nan = ("optimizer.lr=1e30", "scheduler=constant") if how == "NaN" else ()
        process = begin(Path(folder), *SHORT, "data.num_workers=3", *nan)
        assert process.stdout is not None
        if (number := ENDS[how]) is not None:
            for line in process.stdout:
                if line.startswith("epoch 1/"):
                    process.send_signal(number)
                    break
        end(process)
        stop = time.monotonic() + 15
        while (left := session(process.pid)) and time.monotonic() < stop:
            time.sleep(0.2)
        return left


def session(number: int) -> list[str]:
    """The processes of a session, by name."""
    names = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[3]) == number:
            names.append(name)
    return names
