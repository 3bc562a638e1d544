"""Every training run that the documents' accuracies need, in parts: as many epochs as fit, and on from there next time.

`python -m benchmarks.campaign --minutes 9`   the next part, and records of what has been trained
`python -m benchmarks.campaign --plan`        what is left, with the expected time

The plan: every recipe with seed 0, then with seed 1, ...; then the five published runs by both protocols, seed by seed;
then single changes of one recipe, judged by training images that are held out.
At its end, after Ctrl-C, SIGTERM or an error, the runs are ended by SIGTERM; the campaign may be killed, too: with the
same `--at-once`, each run resumes to the same bits on a CPU.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import accuracy, references
from benchmarks.common import RESULTS, ROOT, config, head, parser, save, table
from benchmarks.published import PUBLISHED
from cifar_pl.runs import rundir
from cifar_pl.runs.summary import read_metrics
from cifar_pl.sweeps.slots import Slot, run_all, share

RECIPES = ("epochs5", "epochs10", "epochs16", "epochs24", "epochs30", "default")
BASE = ("experiment=epochs10", "data.val_size=5000")
CHANGES = {
    "unchanged": [],
    "smoothing": ["classifier.label_smoothing=0.2"],
    "low_rate": ["optimizer.lr=0.05"],
    "high_rate": ["optimizer.lr=0.2"],
    "usual_filters": ["whiten=false"],
    "zero_branches": ["model.zero_init_residual=true"],
    "one_size": ["data.start_share=0"],
    "larger_shifts": ["aug=standard"],
}
SEEDS, FEW_SEEDS = 5, 3  # of the recipes; of the published runs and of the changes
MIN_SECONDS = 30  # with less time left no run is started, because its start alone takes ten seconds


class Job(NamedTuple):
    """One run of the plan; `name` is its recipe, its published run and protocol, or its change."""

    name: str
    seed: int
    overrides: tuple[str, ...]
    run_dir: Path

    def epochs(self) -> list[float]:
        """Seconds of each epoch that has been trained."""
        return [row["seconds"] for row in read_metrics(self.run_dir / rundir.METRICS)]

    def left(self) -> int:
        """Number of epochs that are left, at least one unless the run is finished."""
        if not rundir.is_run(self.run_dir):
            return length(tuple(o for o in self.overrides if not o.startswith("seed=")))
        if rundir.state(self.run_dir)["status"] == "finished":
            return 0
        return max(int(rundir.read_config(self.run_dir)["trainer"]["max_epochs"]) - len(self.epochs()), 1)


@cache
def length(overrides: tuple[str, ...]) -> int:
    """Number of epochs of a run with these overrides."""
    return int(config(overrides).trainer.max_epochs)


def plan(runs: Path, more: Sequence[str], seeds: int = SEEDS) -> list[Job]:
    """All runs in their order, each recipe with so many seeds; `more` are overrides for each of them."""
    own = [(n, seed, [] if n == "default" else [f"experiment={n}"]) for seed in range(seeds) for n in RECIPES]
    published = [
        (f"{name}-{protocol}", seed, [f"experiment={name}", f"protocol={protocol}"])
        for seed in range(min(seeds, FEW_SEEDS))
        for name in PUBLISHED
        for protocol in ("published", "honest")
    ]
    tried = [(n, seed, [*BASE, *change]) for seed in range(min(seeds, FEW_SEEDS)) for n, change in CHANGES.items()]
    return [
        Job(name, seed, (*choice, f"seed={seed}", *more), runs / f"{name}-seed{seed}")
        for name, seed, choice in own + published + tried
    ]


def show(jobs: Sequence[Job]) -> str:
    """A table of what is left; minutes by its own epochs so far, else by those of its other seeds, else of all."""
    trained = {job: job.epochs() for job in jobs}
    rows = []
    for job in jobs:
        alike = ([job], [other for other in jobs if other.name == job.name], jobs)
        seconds = next((found for some in alike if (found := [s for other in some for s in trained[other]])), [])
        if left := job.left():
            expected = f"{left * sum(seconds) / len(seconds) / 60:.1f}" if seconds else "?"
            rows.append((job.name, job.seed, len(trained[job]), left, expected))
    return table(("run", "seed", "epochs trained", "left", "minutes"), rows)


def train(job: Job, deadline: float, running: list[subprocess.Popen[bytes]], slot: Slot) -> None:
    """Start or resume a run in this slot, add it to `running`, and end it at the deadline.

    With less than `MIN_SECONDS` left it is not started. Raises `SystemExit` if it ends with an error.
    """
    left = deadline - time.monotonic()
    if left < MIN_SECONDS:
        return
    start = [*job.overrides, f"hydra.run.dir={job.run_dir}"]
    arguments = [f"resume={job.run_dir}"] if rundir.is_run(job.run_dir) else start
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *arguments], env={**os.environ, **slot})
    running.append(process)
    try:
        status = process.wait(left)
    except subprocess.TimeoutExpired:
        process.terminate()
        status = process.wait()
    if status not in (0, 128 + signal.SIGTERM):
        sys.exit(f"{job.run_dir}: train.py ended with status {status}.")


def end(running: list[subprocess.Popen[bytes]]) -> bool:
    """End these runs, each with one signal: a second one would not let it save. True, because they do end."""
    while running:
        running.pop().terminate()
    return True


def write_records(jobs: Sequence[Job], out: Path, data: str) -> None:
    """A record for each recipe of its finished seeds, one of what the published runs trained, one of the changes."""
    out.mkdir(parents=True, exist_ok=True)
    own: dict[str, list[Path]] = {}
    published = []
    for job in jobs:
        if job.name.partition("-")[0] in PUBLISHED:
            if job.epochs():
                published.append(job.run_dir)
        elif rundir.is_run(job.run_dir) and not job.left():
            own.setdefault(job.name, []).append(job.run_dir)
    records = {name: accuracy.record(runs, data) for name, runs in own.items()}
    for name in records.keys() & set(RECIPES):
        save(out / f"{name}.json", records[name])
    if published:
        references.add(out / "references.json", published, data, "benchmarks.campaign")
    tried = {name: records[name] for name in CHANGES if name in records}
    if base := tried.get(next(iter(CHANGES))):  # what the others are compared with
        where = {key: base[key] for key in ("hardware", "versions")}  # of the runs; this may be another machine
        facts = {"benchmark": "tried", **head("benchmarks.campaign"), **where, "data": data, "changes": tried}
        save(out / "tried.json", facts)


def main() -> None:
    """Train the next part, or show the plan."""
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=9, help="length of this part")
    arguments.add_argument("--plan", action="store_true", help="train nothing, show what is left")
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="these recipes, published runs or changes")
    arguments.add_argument("--seeds", type=int, default=SEEDS, help="of each recipe; of all else 3 at most")
    arguments.add_argument(
        "--at-once", type=int, default=1, help="this many runs, which share the first GPU and the cores"
    )
    arguments.add_argument("--runs", type=Path, default=Path("multirun/campaign"), help="where the run directories are")
    arguments.add_argument("--no-records", action="store_true", help="for code that is not committed")
    arguments.add_argument("--data", default="official CIFAR-10", help="what the images are, in a few words")
    arguments.add_argument("overrides", nargs="*", help="of train.py, for every run")
    arguments.set_defaults(out=RESULTS)
    args = arguments.parse_args()
    if args.at_once < 1:
        arguments.error("--at-once must be 1 or more")
    deadline = time.monotonic() + 60 * args.minutes
    jobs = [job for job in plan(args.runs, args.overrides, args.seeds) if not args.only or job.name in args.only]
    if not args.plan:
        slots = [share(args.at_once) if args.at_once > 1 else {}] * args.at_once
        running: list[subprocess.Popen[bytes]] = []
        work = [partial(train, job, deadline, running) for job in jobs if job.left()]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            run_all(work, slots, partial(end, running))
        finally:
            if not args.no_records:
                write_records(jobs, args.out, args.data)
    print(show(jobs))


if __name__ == "__main__":
    main()
