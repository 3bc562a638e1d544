"""What a sweep asks SLURM: whether its jobs have ended, and whether there are GPUs to ask for."""

import shutil
import subprocess
from threading import Lock

from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

# squeue's states; a job in any other, such as SUSPENDED, CONFIGURING or requeued, may still give a result.
DONE = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
UNLISTED = "COMPLETED"  # SLURM lists a job for some minutes after its end
INTERVAL = 60  # seconds at most between two queries; less if a job was submitted a moment ago


class Queue(SlurmInfoWatcher):
    """Asks `squeue` once for all jobs. submitit asks `sacct`, which knows nothing without accounting."""

    def __init__(self) -> None:
        super().__init__(INTERVAL)
        self._asking, self._asked = Lock(), set[str]()

    def update(self) -> None:
        """Query the queue; a job that another thread submits meanwhile does not count as missing from it."""
        with self._asking:
            self._asked = self._registered - self._finished
            super().update()

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether a job has ended."""
        return self.get_state(job_id, mode) in DONE

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """The state of every job that was asked for, from squeue's lines."""
        text = string if isinstance(string, str) else string.decode()
        listed = dict(line.split("|") for line in text.split())
        return {job: {"State": listed.get(job, UNLISTED)} for job in self._asked}

    def _make_command(self) -> list[str] | None:
        command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T"]
        return command if self._asked else None


def watch() -> None:
    """Let submitit ask the queue from now on."""
    if not isinstance(SlurmJob.watcher, Queue):
        SlurmJob.watcher = Queue()


def gpus(accelerator: str, partition: str | None) -> int | None:
    """GPUs to ask for per run: None with `cpu`, or if `partition` (None: the cluster) has none."""
    if accelerator == "cpu":
        return None
    if shutil.which("sinfo") is None:
        return 1
    command = ["sinfo", "--noheader", "--format=%G", *([f"--partition={partition}"] if partition else [])]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return 1 if answer.returncode or "gpu" in answer.stdout else None
