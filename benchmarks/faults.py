"""What a run survives: kills, full disks, long runs, hostile and damaged input.

`python -m benchmarks.faults [--kills N] [--disks N] [--epochs N] [--jobs N] [--seed N] [--out FILE]`

Real processes on the digits, two at a time, each with one thread; about 20 minutes on two cores. The tests run the
same functions a few times. Disks are tmpfs in a mount namespace of their own (Linux, `unshare -rm`).
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks.common import ROOT, TINY, head, save, table
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
# Where a kill is aimed at: a line of the run's, and the most seconds after it.
MOMENTS = {
    "start-up": ("", 5.0),
    "range test": ("Learning-rate range test", 3.0),
    "an epoch": ("at train", 0.5),
    "validation": ("at validation", 0.1),
    "writing a checkpoint": ("at checkpoint", 0.25),
    "gallery": ("at gallery", 2.0),
    "test, summary, page": ("at test", 3.0),
}
REPEATED = ("an epoch", "validation", "writing a checkpoint")  # in every epoch
EXACT = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr")


AIMED = "+callbacks.moments._target_=benchmarks.faults.Moments"
RESUMED = ("resume=latest", AIMED)  # what is not of the project's configs is typed again


class Moments(Callback):
    """Says where a run is, so that a kill can be aimed."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """In the middle of an epoch."""
        if batch_idx == 1:
            print("at train", flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At its start."""
        print("at validation", flush=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Right before it is written."""
        print("at checkpoint", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Right before the gallery."""
        print("at gallery", flush=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the test, the summary, the page."""
        print("at test", flush=True)


def begin(cwd: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`python train.py ...` in a process group of its own, with one thread."""
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


def kill(process: subprocess.Popen[str], moment: str, rng: random.Random) -> bool:
    """SIGKILL it at about this moment; whether that came before its end."""
    line, most = MOMENTS[moment]
    assert process.stdout is not None
    for said in process.stdout if line else ():
        if said.startswith(line) and (moment not in REPEATED or rng.random() < 0.5):
            break
    threading.Thread(target=process.stdout.read, daemon=True).start()  # lest it waits for us
    try:
        process.wait(rng.uniform(0, most))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def damaged(run: Path) -> list[str]:
    """The files of a run directory that are not whole; what is being written does not count, nor do growing logs."""
    found = []
    for path in sorted(p for p in run.rglob("*") if p.is_file() and not p.name.endswith(rundir.PART)):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".ckpt":
                torch.load(path, weights_only=True)["state_dict"]
            elif path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    [arrays[name] for name in arrays]
            elif path.suffix == ".png":
                assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
            elif path.suffix == ".csv":
                text = path.read_text()
                assert text.endswith("\n")
                assert len({len(row) for row in csv.reader(text.splitlines())}) == 1
            elif path.suffix == ".yaml":
                OmegaConf.load(path)
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>")
        except Exception as error:  # noqa: BLE001 - each reader has its own
            found.append(f"{path.name}: {error!r}")
    return found


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits: weights, metrics and rates of every epoch, the test."""
    weights = [torch.load(run / rundir.LAST, weights_only=True)["state_dict"] for run in (one, other)]
    rows = [list(csv.DictReader((run / rundir.METRICS).open())) for run in (one, other)]
    tests = [rundir.read_json(run / rundir.SUMMARY)["test"] for run in (one, other)]
    steps = [rundir.read_json(run / rundir.FIRST_STEPS)["losses"] for run in (one, other)]
    return (
        all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        and [[row[key] for key in EXACT] for row in rows[0]] == [[row[key] for key in EXACT] for row in rows[1]]
        and tests[0] == tests[1]
        and steps[0] == steps[1]
    )


def kills(schedule: str, moments: list[str], seed: int) -> Counter[str]:
    """Kill runs with this schedule once in each of these moments, going on with `resume=latest` each time, to the end.

    Returns:
        How often each moment was hit, and what came of it.
    """
    rng, counts = random.Random(seed), Counter[str]()
    arguments = (*SHORT, *SCHEDULES[schedule], AIMED)
    with tempfile.TemporaryDirectory() as folder:
        whole, cwd = undisturbed(Path(folder), *arguments), Path(folder, "killed")
        cwd.mkdir()
        aims, next_run, workers = list(moments), arguments, False
        while True:
            possible = [aim for aim in aims if aim in _ahead(cwd, next_run)]
            process = begin(cwd, *next_run)
            if possible and kill(process, possible[0], rng):
                aims.remove(possible[0])
                counts["kills"] += 1
                counts[possible[0]] += 1
                counts["kills with loader workers"] += workers
                for run in cwd.glob("outputs/*/*"):
                    counts["damaged files"] += len(damaged(run))
                    counts["whole files"] += sum(path.is_file() for path in run.rglob("*.*"))
                    parts = [path.stat().st_size for path in run.rglob(f".*{rundir.PART}")]
                    counts["unfinished files"] += len(parts)
                    counts["unfinished bytes"] += sum(parts)
                counts["tracebacks"] += "Traceback" in (cwd / "stderr").read_text()
                next_run = RESUMED
                continue
            _end(process)
            said = (cwd / "stderr").read_text()
            counts["tracebacks"] += "Traceback" in said
            if process.returncode == 0 or "the run is finished" in said:
                (run,) = cwd.glob("outputs/*/*")
                counts["finished"] += 1
                counts["finished with the same bits"] += same(run, whole)
                if not aims:
                    return counts
            elif "there is no run below" in said:
                counts["nothing to resume"] += 1
            else:
                counts["other refusals"] += 1
                print(said, file=sys.stderr)
            shutil.rmtree(cwd / "outputs", ignore_errors=True)
            workers = not workers
            next_run = (*arguments, "data.num_workers=2") if workers else arguments


def undisturbed(folder: Path, *arguments: str) -> Path:
    """A run in `folder/whole` that nothing happens to."""
    process = begin(folder, *arguments, "hydra.run.dir=whole")
    assert _end(process) == 0, (folder / "stderr").read_text()
    return folder / "whole"


# In a mount namespace of its own: a run on a disk of $1 MB, a copy of what it left, then with room, resumed.
FULL = """
mkdir disk && mount -t tmpfs -o size=$1m none disk && cd disk || exit 99
shift; "$@" > ../stdout 2> ../stderr; code=$?; cp -a . ../left
mount -o remount,size=2g . && "$1" "$2" resume=latest > ../stdout 2> ../again; echo $? > ../resumed
cp -a . ../end; exit $code
"""


def full_disk(megabytes: int, whole: Path, *arguments: str) -> Counter[str]:
    """Train on a disk of so many MB; make room and resume; compare with the run `whole`, which had room."""
    with tempfile.TemporaryDirectory() as folder:
        script = ("unshare", "-rm", "bash", "-c", FULL, "bash", str(megabytes))
        code = _end(begin(Path(folder), *arguments, prefix=script))
        assert code != 99, "no tmpfs could be mounted"
        said, again = (Path(folder, name).read_text() for name in ("stderr", "again"))
        told = (
            code == 1 and said.count("error: ") == 1 and "No space left on device" in said and "Traceback" not in said
        )
        left, end = ([path.parent for path in Path(folder, name).rglob(rundir.STATUS)] for name in ("left", "end"))
        went_on = Path(folder, "resumed").read_text().strip() == "0" and bool(end) and same(end[0], whole)
        nothing = "there is no run below" in again
        if code and not told:
            print(said, file=sys.stderr)
        return Counter(
            {
                "runs": 1,
                "had room": code == 0,
                "said so in one message": told,
                "damaged files": sum(len(damaged(run)) for run in left),
                "went on to the same bits": bool(code) and went_on,
                "nothing to resume": bool(code) and nothing,
            }
        )


def watch(process: subprocess.Popen[str], every: float = 0.5) -> list[dict[str, float]]:
    """Seconds, resident MB, threads, open files and children of a process, until it ends."""
    proc, samples, start = Path(f"/proc/{process.pid}"), [], time.monotonic()
    assert process.stdout is not None
    threading.Thread(target=process.stdout.read, daemon=True).start()
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
    """The most that a process of `python train.py` holds in the second quarter of its time, and in the last."""
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


ENDS = {"its end": None, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGKILL": signal.SIGKILL, "NaN": None}


def leftovers(end: str) -> list[str]:
    """The processes that are left 15 s after a run with three loader workers has ended in this way."""
    with tempfile.TemporaryDirectory() as folder:
        nan = ("optimizer.lr=1e30", "scheduler=constant") if end == "NaN" else ()
        process = begin(Path(folder), *SHORT, "data.num_workers=3", *nan)
        assert process.stdout is not None
        if (number := ENDS[end]) is not None:
            for said in process.stdout:
                if said.startswith("epoch 1/"):
                    process.send_signal(number)
                    break
        _end(process)
        stop = time.monotonic() + 15
        while (left := _session(process.pid)) and time.monotonic() < stop:
            time.sleep(0.2)
        return left


def _session(number: int) -> list[str]:
    """The processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[3]) == number:
            found.append(name)
    return found


def suite(*arguments: str) -> dict[str, Any]:
    """Run tests: how many passed, failed, and how many inputs they say they tried, by test."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-n", "0", f"--junitxml={file}", *arguments]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        cases = [*ET.parse(file).iter("testcase")]
        failed = [str(c.get("name")) for c in cases if c.find("failure") is not None or c.find("error") is not None]
        inputs = Counter[str]()
        for case in cases:
            for value in case.iter("property"):
                if value.get("name") == "inputs":
                    inputs[str(case.get("name")).partition("[")[0]] += int(str(value.get("value")))
        return {"passed": len(cases) - len(failed), "failed": failed, "inputs": dict(inputs)}


def _ahead(cwd: Path, arguments: tuple[str, ...]) -> list[str]:
    """The moments that are still to come in a run."""
    if arguments != RESUMED:
        return [m for m in MOMENTS if m != "range test" or "lr_finder=range_test" in arguments]
    done = [len(path.read_text().splitlines()) - 1 for path in cwd.glob(f"outputs/*/*/{rundir.METRICS}")]
    if not done:
        return ["start-up"]
    return ["start-up", *(REPEATED if done[0] < EPOCHS else ()), "gallery", "test, summary, page"]


def _end(process: subprocess.Popen[str]) -> int:
    """Wait for its end; its exit status."""
    process.communicate()
    return process.returncode


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=51)
    parser.add_argument("--disks", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the record here")
    args = parser.parse_args()
    start, rng = time.monotonic(), random.Random(args.seed)
    few = [f"callbacks.{name}=null" for name in ("best", "last", "misclassified", "dashboard")]
    plateau = (*SHORT, *SCHEDULES["plateau"])
    with ThreadPoolExecutor(2) as pool, tempfile.TemporaryDirectory() as folder:
        # onecycle has a range test
        moments = {name: [m for m in MOMENTS if m != "range test" or name == "onecycle"] for name in SCHEDULES}
        killed = [
            pool.submit(kills, name, rng.sample(all_ * args.kills, args.kills // len(SCHEDULES)), args.seed + n)
            for n, (name, all_) in enumerate(moments.items())
        ]
        fuzz = pool.submit(suite, "tests/test_fuzz.py", "--hypothesis-profile=campaign", "--hypothesis-seed=0")
        data = pool.submit(suite, "tests/test_sources.py", "tests/test_download.py", "tests/test_predict.py")
        hostile = pool.submit(suite, "tests/test_saved.py", "tests/test_checkpoints.py", "tests/test_page.py")
        epochs = pool.submit(long, *SHORT, "logger=default", f"trainer.max_epochs={args.epochs}")
        sweep = pool.submit(long, "-m", *SHORT, *few, "trainer.max_epochs=1", f"seed=range({args.jobs})")
        whole = pool.submit(undisturbed, Path(folder), *plateau)
        sizes = [1, *(rng.randrange(2, 400) for _ in range(args.disks - 1))]
        disks = [pool.submit(lambda size: full_disk(size, whole.result(), *plateau), size) for size in sizes]
        ends = {end: pool.submit(leftovers, end) for end in ENDS}
        record = {
            "benchmark": "faults",
            **head("benchmarks.faults"),
            "kills": _total(killed),
            "disks": {"megabytes": sizes, **_total(disks)},
            "epochs": {"number": args.epochs, **epochs.result()},
            "sweep": {"number": args.jobs, **sweep.result()},
            "workers": {end: left.result() for end, left in ends.items()},
            "data": data.result(),
            "hostile": hostile.result(),
            "fuzz": fuzz.result(),
            "minutes": (time.monotonic() - start) / 60,
        }
    print(rows(record))
    save(args.out, record)


def rows(r: dict[str, Any]) -> str:
    """The table."""
    kills, disks, epochs, sweep, fuzz = (r[name] for name in ("kills", "disks", "epochs", "sweep", "fuzz"))
    workers = f"{n} of them with two loader workers; " if (n := kills.get("kills with loader workers")) else ""
    moments = ", ".join(f"{moment} {kills.get(moment, 0)}" for moment in MOMENTS)
    flat = "{rss_mb:.0f} MB, {threads:.0f} threads, {files:.0f} open files, {children:.0f} children".format
    inputs = ", ".join(f"{name.removeprefix('test_').replace('_', ' ')} {n:,}" for name, n in fuzz["inputs"].items())
    memory = [
        (
            what,
            number,
            f"{unit['finished']} finished; at most {flat(**unit['second quarter'])} in the second quarter of "
            f"its time, {flat(**unit['last quarter'])} in the last",
        )
        for what, number, unit in (
            ("epochs in one run", epochs["number"], epochs),
            ("runs in one sweep, one process and one directory", sweep["number"], sweep),
        )
    ]
    return table(
        ("what was done", "times", "what survived"),
        [
            (
                f"`kill -9`, at a random moment of {moments}; then `resume=latest`",
                kills["kills"],
                f"{workers}{kills.get('nothing to resume', 0)} times there was nothing to resume, and it said so; "
                f"else it went on: {kills['finished with the same bits']} of {kills['finished']} finished runs "
                "(onecycle, multistep, plateau) have the weights, metrics, rates and test result of an undisturbed "
                f"one, to the bit. Of {kills['whole files']:,} files {kills['damaged files']} damaged; "
                f"{kills['unfinished files']} unfinished ones ({kills['unfinished bytes'] / 1e6:.0f} MB) lay beside, "
                "and were removed",
            ),
            (
                f"a disk of {min(disks['megabytes'])} to {max(disks['megabytes'])} MB runs full",
                disks["runs"],
                f"{disks['said so in one message']} said so in one message, {disks['had room']} had room; "
                f"{disks['damaged files']} damaged files; with room made, {disks['went on to the same bits']} went on "
                f"to the same bits, {disks['nothing to resume']} had nothing to resume, and said so",
            ),
            *memory,
            (
                f"end of a run with three loader workers: {', '.join(r['workers'])}",
                len(r["workers"]),
                f"{sum(map(len, r['workers'].values()))} processes left",
            ),
            ("tests of data: spoiled archives, folders, caches, pictures, downloads", *_passed(r["data"])),
            ("tests of checkpoints, configs and pages: damaged, hostile, with hostile names", *_passed(r["hostile"])),
            (f"fuzz: {inputs}", f"{sum(fuzz['inputs'].values()):,}", f"{len(fuzz['failed'])} crashes"),
        ],
    )


def _passed(r: dict[str, Any]) -> tuple[int, str]:
    return r["passed"] + len(r["failed"]), f"{r['passed']} passed"


def _total(parts: list[Future[Counter[str]]]) -> dict[str, int]:
    """The sum of several counts."""
    total = Counter[str]()
    for part in parts:
        total.update(part.result())
    return dict(total)


if __name__ == "__main__":
    main()
