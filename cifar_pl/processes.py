"""The processes of one run: how many were started, and which of them this is.

Read from what torchrun, SLURM's srun and Lightning's own launcher set, as Lightning reads it; without torch,
so that a command line can be refused before it is imported.
"""

import os

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # torchrun's, that of Lightning's own processes, srun's
INTERACTIVE = ("bash", "interactive")  # SLURM jobs of these names start nothing: Lightning does


def started() -> int:
    """How many processes were started for this run; 1 where Lightning is yet to start the others."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    by_srun = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    return int(os.environ.get("SLURM_NTASKS", 1)) if by_srun else 1


def rank() -> int:
    """The number of this process, from 0, over all machines."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
