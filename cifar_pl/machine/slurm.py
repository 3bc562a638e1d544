"""What a sweep asks SLURM: whether its jobs are over, and whether there are GPUs to ask for."""

import shutil
import subprocess
from threading import Lock

from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

# Of squeue. Every other state may still lead to a result: SUSPENDED, CONFIGURING, and what was put back into the queue.
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
FORGOTTEN = "COMPLETED"  # SLURM lists a job for some minutes after its end
EVERY = 60  # seconds, at most, between two looks; more often where the last job was submitted a moment ago


class Queue(SlurmInfoWatcher):
    """Asks `squeue` once for all jobs. submitit asks `sacct`, which knows nothing where no accounting is kept."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        super().__init__(EVERY)
        self._asking, self._asked = Lock(), set[str]()

    def update(self) -> None:
        """Ask; a job that is submitted meanwhile by another thread is not taken for one that is gone."""
        with self._asking:
            self._asked = self._registered - self._finished
            super().update()

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether nothing more comes of a job."""
        return self.get_state(job_id, mode) in OVER

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """The state of every job that was asked for, from squeue's lines."""
        text = string if isinstance(string, str) else string.decode()
        listed = dict(line.split("|") for line in text.split())
        return {job: {"State": listed.get(job, FORGOTTEN)} for job in self._asked}

    def _make_command(self) -> list[str] | None:
        command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T"]
        return command if self._asked else None


def watch() -> None:
    """Let submitit ask the queue, from now on."""
    if not isinstance(SlurmJob.watcher, Queue):
        SlurmJob.watcher = Queue()


def gpus(accelerator: str, partition: str | None) -> int | None:
    """How many GPUs a run asks for: none with `cpu`, nor where `partition` (None: the whole cluster) has none."""
    if accelerator == "cpu":
        return None
    if shutil.which("sinfo") is None:
        return 1
    command = ["sinfo", "--noheader", "--format=%G", *([f"--partition={partition}"] if partition else [])]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return 1 if answer.returncode or "gpu" in answer.stdout else None
