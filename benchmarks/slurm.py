"""What holds on a real SLURM: a sweep, a requeued run, DDP by srun, a search.

`python -m benchmarks.slurm [--out FILE]`

As root on one machine with `apt-get install slurmctld slurmd slurm-client munge`: starts a cluster of one node with
two cores in a directory of its own, without accounting, and ends it by its process ids. Digits of 8 pixels.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.common import ROOT, head, save, table
from benchmarks.faults import SHORT, same, undisturbed
from cifar_pl.runs import rundir
from cifar_pl.runs.summary import read_metrics

RUN = (*SHORT, "callbacks.misclassified=null", "callbacks.dashboard=null", "callbacks.summary=null")
ON_SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
CONF = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=10
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000
PartitionName=main Nodes=ALL Default=YES State=UP
"""
Facts = dict[str, Any]


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


@contextmanager
def cluster() -> Iterator[None]:
    """A cluster of one node, that this process and what it starts speak to meanwhile."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)))
        key, conf = folder / "munge.key", folder / "slurm.conf"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        conf.write_text(CONF.format(host=host, ports=[_free_port(), _free_port()], folder=folder))
        stack.enter_context(patch.dict(os.environ, SLURM_CONF=str(conf)))
        files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        munged = ["munged", "--foreground", "--force", f"--key-file={key}", *files]
        for command in (munged, ["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            stack.callback(_end, subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            until((folder / "munge.socket").exists, 20)
        until(lambda: said("sinfo", "--noheader", "--format=%T").strip() == "idle", 60)
        stack.callback(until, lambda: not queue(), 60)
        stack.callback(subprocess.run, ["scancel", "--me"], check=True)
        yield


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def until(what: Callable[[], Any], seconds: float = 240) -> Any:
    """What `what` returns as soon as it is true; TimeoutError where that takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.2)
    return value


def said(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


def queue(*options: str) -> list[str]:
    """The numbers of the jobs that wait or run."""
    return said("squeue", "--me", "--noheader", "--format=%A", *options).split()


def begin(cwd: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a command in `cwd`; its words go to `cwd/said`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = (cwd / "said").open("w")
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)


def train(*arguments: str) -> tuple[str, ...]:
    """`python train.py ...`."""
    return (sys.executable, str(ROOT / "train.py"), *arguments)


def statuses(directory: Path) -> dict[str, str]:
    """What became of each run of a sweep, by its seed."""
    runs = [path.parent for path in directory.glob("*/status.json")]
    return {run.name.partition("_")[2]: rundir.state(run)["status"] for run in runs}


def job_of(run: Path) -> str:
    """The number of the job that a run is, from the environment of its process."""
    pid = rundir.read_json(run / rundir.STATUS)["pid"]
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
    noticed = until(lambda: "== Job 2 of 6 interrupted" in (cwd / "said").read_text() or process.poll() is not None)
    epochs = len(read_metrics(run / rundir.METRICS))
    process.send_signal(signal.SIGKILL)
    process.wait()
    words = (cwd / "said").read_text()
    until(lambda: not queue())
    alone = statuses(directory)
    status = begin(cwd, *train("-m", "sweep.resume=sweep")).wait(400)
    ended = {seed: "failed" if seed == "-1" else "finished" for seed in seeds}
    words += (cwd / "said").read_text()
    whole = undisturbed(cwd, *RUN, "trainer.max_epochs=8", "seed=1")
    return {
        "a cancelled job ends in order, and the sweep notices": noticed and alone["1"] == "interrupted",
        "what is in the queue goes on without the sweep": {"0": "finished", "2": "finished"}.items() <= alone.items(),
        "sweep.resume runs the rest; the failing run costs no other": status == 1 and statuses(directory) == ended,
        "the cancelled run went on, to the bits of an undisturbed one": 0 < epochs < 8 and same(run, whole),
        "no traceback, no word of submitit's": not re.search(r"Traceback|submitit \w+ \(", words),
    }


def requeue(cwd: Path, epochs: int) -> Facts:
    """A run that is longer than its time limit, warned by SLURM and put back until it is finished."""
    arguments = (*RUN, f"trainer.max_epochs={epochs}")
    srun = " ".join(["srun", *train(*arguments, "hydra.run.dir=run")])
    options = ("--requeue", "--signal=USR1@90", "--time=2", "--open-mode=append", "--output=said", f"--wrap={srun}")
    begin(cwd, "sbatch", "--parsable", *options).wait()
    while queue():
        if queue("--states=PENDING"):  # SLURM lets it wait for two minutes
            subprocess.run(["scontrol", "update", f"JobId={queue()[0]}", "StartTime=now"], check=False)
        time.sleep(1)
    words = (cwd / "said").read_text()
    return {
        "times put back": words.count("Interrupted. To go on"),
        "it went on, to the bits of an undisturbed one": same(cwd / "run", undisturbed(cwd, *arguments)),
        "no traceback": "Traceback" not in words,
    }


def ddp(cwd: Path, _epochs: int) -> Facts:
    """`trainer=ddp` by `srun --ntasks-per-node=2`."""
    arguments = (*(a for a in RUN if a != "trainer=cpu"), "trainer=ddp", "trainer.accelerator=cpu")
    finished = begin(cwd, "srun", "--ntasks-per-node=2", *train(*arguments, "hydra.run.dir=run")).wait(240) == 0
    refused = begin(cwd, "srun", "--ntasks=2", *train(*arguments, "hydra.run.dir=refused")).wait(240) == 1
    words = (cwd / "said").read_text()
    return {
        "the bits of two processes by Lightning": finished and same(cwd / "run", undisturbed(cwd, *arguments)),
        "--ntasks instead is refused": refused and "give --ntasks-per-node" in words and "Traceback" not in words,
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=90, help="of the requeued run: minutes for this machine")
    parser.add_argument("--out", type=Path, help="write the record here")
    args = parser.parse_args()
    if why := missing():
        raise SystemExit(why)
    record: Facts = {"benchmark": "slurm", **head("benchmarks.slurm"), "slurm": said("slurmctld", "-V").split()[-1]}
    with cluster():
        for what in SCENARIOS:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                record[what.__name__] = what(Path(folder), args.epochs)
            record[what.__name__]["seconds"] = round(time.monotonic() - start)
    print(rows(record))
    save(args.out, record)


def rows(r: dict[str, Any]) -> str:
    """The table; a fact that does not hold is False."""
    found = [(what.__doc__, r[what.__name__]) for what in SCENARIOS]
    lines = [(text, "; ".join(f"{fact}: {value}" for fact, value in held.items())) for text, held in found]
    return table(("on a cluster of one node", "what held"), lines)


if __name__ == "__main__":
    main()
