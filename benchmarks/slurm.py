"""What holds on a real SLURM: a sweep, a requeued run, DDP by srun, a search.

`python -m benchmarks.slurm [--out FILE]`

As root on one machine with `apt-get install slurmctld slurmd slurm-client munge`: starts a cluster of one node with
two cores in a directory of its own, without accounting, and ends it by its process ids. Digits of 8 pixels.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.cluster import cluster, missing, output, queue, until
from benchmarks.common import ROOT, head, save, table
from benchmarks.faults import SHORT, same, undisturbed
from cifar_pl.runs import files, rundir
from cifar_pl.runs.summary import read_metrics

RUN = (*SHORT, *(f"callbacks.{name}=null" for name in ("misclassified", "explore", "dashboard", "summary")))
ON_SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
Facts = dict[str, Any]


def begin(cwd: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a command in `cwd`; what it prints goes to `cwd/log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = (cwd / "log").open("w")
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)


def train(*arguments: str) -> tuple[str, ...]:
    """`python train.py ...`."""
    return (sys.executable, str(ROOT / "train.py"), *arguments)


def statuses(directory: Path) -> dict[str, str]:
    """The status of each run of a sweep, by its seed."""
    runs = [path.parent for path in directory.glob("*/status.json")]
    return {run.name.partition("_")[2]: rundir.state(run)["status"] for run in runs}


def job_of(run: Path) -> str:
    """The number of the job that a run is, from the environment of its process."""
    pid = files.read_json(run / rundir.STATUS)["pid"]
    pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return next(value for name, _, value in pairs if name == "SLURM_JOB_ID")


def sweep(cwd: Path, _epochs: int) -> Facts:
    """A sweep of six, two at a time: one cancelled, one that fails; the sweep itself is killed, and resumed."""
    seeds = ("0", "1", "2", "3", "-1", "4")
    arguments = (*RUN, *ON_SLURM, "trainer.max_epochs=8", f"seed={','.join(seeds)}", "sweep.at_once=3")
    process, directory = begin(cwd, *train("-m", *arguments, "hydra.sweep.dir=sweep")), cwd / "sweep"
    run = until(lambda: next(directory.glob("*-seed_1"), None))
    until((run / rundir.LAST).exists)
    subprocess.run(["scancel", job_of(run)], check=True)
    noticed = until(lambda: "== Job 2 of 6 interrupted" in (cwd / "log").read_text() or process.poll() is not None)
    epochs = len(read_metrics(run / rundir.METRICS))
    process.send_signal(signal.SIGKILL)
    process.wait()
    log = (cwd / "log").read_text()
    until(lambda: not queue())
    alone = statuses(directory)
    status = begin(cwd, *train("-m", "sweep.resume=sweep")).wait(400)
    ended = {seed: "failed" if seed == "-1" else "finished" for seed in seeds}
    log += (cwd / "log").read_text()
    intact = undisturbed(cwd, *RUN, "trainer.max_epochs=8", "seed=1")
    return {
        "a cancelled job ends in order, and the sweep notices": noticed and alone["1"] == "interrupted",
        "what is in the queue goes on without the sweep": {"0": "finished", "2": "finished"}.items() <= alone.items(),
        "sweep.resume runs the rest; the failing run costs no other": status == 1 and statuses(directory) == ended,
        "the cancelled run went on, to the bits of an undisturbed one": 0 < epochs < 8 and same(run, intact),
        "no traceback, no word of submitit's": not re.search(r"Traceback|submitit \w+ \(", log),
    }


def requeue(cwd: Path, epochs: int) -> Facts:
    """A run that is longer than its time limit, warned by SLURM and put back until it is finished."""
    arguments = (*RUN, f"trainer.max_epochs={epochs}")
    srun = " ".join(["srun", *train(*arguments, "hydra.run.dir=run")])
    options = ("--requeue", "--signal=USR1@90", "--time=2", "--open-mode=append", "--output=log", f"--wrap={srun}")
    begin(cwd, "sbatch", "--parsable", *options).wait()
    while queue():
        if queue("--states=PENDING"):  # SLURM lets it wait for two minutes
            subprocess.run(["scontrol", "update", f"JobId={queue()[0]}", "StartTime=now"], check=False)
        time.sleep(1)
    log = (cwd / "log").read_text()
    return {
        "times put back": log.count("Interrupted. To resume"),
        "it went on, to the bits of an undisturbed one": same(cwd / "run", undisturbed(cwd, *arguments)),
        "no traceback": "Traceback" not in log,
    }


def ddp(cwd: Path, _epochs: int) -> Facts:
    """`trainer=ddp` by `srun --ntasks-per-node=2`."""
    arguments = (*(a for a in RUN if a != "trainer=cpu"), "trainer=ddp", "trainer.accelerator=cpu")
    finished = begin(cwd, "srun", "--ntasks-per-node=2", *train(*arguments, "hydra.run.dir=run")).wait(240) == 0
    refused = begin(cwd, "srun", "--ntasks=2", *train(*arguments, "hydra.run.dir=refused")).wait(240) == 1
    log = (cwd / "log").read_text()
    return {
        "the bits of two processes by Lightning": finished and same(cwd / "run", undisturbed(cwd, *arguments)),
        "--ntasks instead is refused": refused and "give --ntasks-per-node" in log and "Traceback" not in log,
    }


def search(cwd: Path, _epochs: int) -> Facts:
    """A search of eight trials, two at a time."""
    options = ("sweep=search", "sweep.trials=8", "sweep.at_once=2", "sweep.startup=2", "sweep.warmup=0")
    space = "optimizer.lr=tag(log, interval(1e-5, 0.2))"
    status = begin(cwd, *train("-m", *RUN, *ON_SLURM, *options, space, "hydra.sweep.dir=search")).wait(600)
    trials = [rundir.state(path.parent) for path in (cwd / "search").glob("*/status.json")]
    ends = [trial["status"] for trial in trials]
    return {
        "every trial is over": status == 0 and len(ends) == 8 and {*ends} <= {"finished", "pruned"},
        "pruned": ends.count("pruned"),
        "rates": len({o for trial in trials for o in trial["overrides"] if o.startswith("optimizer.lr=")}),
    }


SCENARIOS = (sweep, requeue, ddp, search)


def main() -> None:
    """Run everything and print its table."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--epochs", type=int, default=90, help="length of the requeued run, for minutes on this machine"
    )
    args = parser.parse_args()
    if why := missing():
        raise SystemExit(why)
    record: Facts = {"benchmark": "slurm", **head("benchmarks.slurm"), "slurm": output("slurmctld", "-V").split()[-1]}
    with cluster():
        for what in SCENARIOS:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                record[what.__name__] = what(Path(folder), args.epochs)
            record[what.__name__]["seconds"] = round(time.monotonic() - start)
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """The table; a fact that does not hold is False."""
    facts = [(what.__doc__, r[what.__name__]) for what in SCENARIOS]
    lines = [(text, "; ".join(f"{fact}: {value}" for fact, value in held.items())) for text, held in facts]
    return table(("on a cluster of one node", "what held"), lines) + f"\n\nSLURM {r['slurm']}."


if __name__ == "__main__":
    main()
