"""The processes of one run: their number, and the rank of this one.

Read from what torchrun, SLURM's srun and Lightning's own launcher set, as Lightning reads it; without torch,
so that a command line can be refused before it is imported.
"""

import atexit
import os
import subprocess
from types import FrameType
from typing import Any

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # set by torchrun, Lightning's launcher, srun
INTERACTIVE = ("bash", "interactive")  # Lightning starts the processes itself in SLURM jobs of these names

SECONDS_TO_END = 5.0


def started() -> int:
    """The number of processes that were started for this run; 1 if Lightning will start the others."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    by_srun = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    return int(os.environ.get("SLURM_NTASKS", 1)) if by_srun else 1


def misstarted() -> str:
    """Why Lightning cannot use the tasks that SLURM was asked for, and what to type; empty if it can."""
    tasks = started()
    if tasks == 1 or "WORLD_SIZE" in os.environ or "SLURM_NTASKS" not in os.environ:
        return ""
    if "SLURM_STEP_ID" not in os.environ:
        return f"SLURM was asked for {tasks} tasks, and this is one process: put srun before python, or ask for one."
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        return (
            f"srun started {tasks} tasks without the number per machine: give --ntasks-per-node, as many as "
            "trainer.devices, in place of --ntasks (-n), and --nodes, as many as trainer.num_nodes."
        )
    return ""


def each_ends_itself(trainer: Any) -> None:
    """Let each process of this Lightning trainer handle its own SIGTERM, and let the first one outlive the others.

    Lightning's handler would tell the others by a broadcast, which collides with other collective operations and
    hangs; and to hear of it, all processes synchronise in every training step, for which a GPU waits (Lightning#21487).
    """
    connector = trainer._signal_connector
    if trainer.strategy.launcher is not None:
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(trainer.num_devices))  # as torchrun does: a process's cores
        atexit.register(_end_others, trainer.strategy.launcher)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        launcher = trainer.strategy.launcher  # None under torchrun and srun, which signal every process
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(number)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = pass_on
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def _end_others(launcher: Any) -> None:
    """End processes that have not ended soon after the first one: on GPUs they would wait half an hour for it."""
    children: list[subprocess.Popen[bytes]] = launcher.procs[:]
    launcher.procs.clear()  # or Lightning, which sees one of them end by a signal, would kill this one
    for child in children:
        try:
            child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            child.kill()


def slurm_job() -> str:
    """This SLURM job's name for `scontrol`, `7`, or `7_2` in an array; empty elsewhere."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def rank() -> int:
    """The number of this process, from 0, over all machines."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
