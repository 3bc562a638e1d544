"""A SLURM cluster of one node with two cores, in a directory of its own, without accounting."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

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


def missing() -> str:
    """Why a cluster cannot be started here; empty if it can."""
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


@contextmanager
def cluster() -> Iterator[None]:
    """A running cluster of one node, which this process and its children use."""
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
        until(lambda: output("sinfo", "--noheader", "--format=%T").strip() == "idle", 60)
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
    """What `what` returns as soon as it is true; TimeoutError if that takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.2)
    return value


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


def queue(*options: str) -> list[str]:
    """The numbers of the jobs that wait or run."""
    return output("squeue", "--me", "--noheader", "--format=%A", *options).split()
