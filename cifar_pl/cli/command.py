"""`train.py` and the other commands on a shell: resolvers, `resume=`, signals, exit status."""

import io
import logging
import os
import secrets
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cifar_pl.cli.messages import FULL_ERROR, WANTED, explain
from cifar_pl.config import resume
from cifar_pl.errors import Pruned, UserError
from cifar_pl.machine import processes
from cifar_pl.runs import overrides, rundir
from cifar_pl.runs.monitors import MONITORS

USR1 = getattr(signal, "SIGUSR1", None)  # Windows has none, and no SLURM
LIBRARIES = ("pytorch_lightning", "lightning_fabric")
NOISE = (  # warnings that everybody knows the answer to
    ".*does not have many workers.*",  # chosen: see DataModule
    ".*exists and is not empty.*",  # a run directory holds .hydra and the log before the first checkpoint
    ".*have no `val_dataloader`.*",  # chosen: data.val_size=0, and the range test
    ".*not supported by the model summary.*",  # its megabytes, of float32 weights, are right
    ".*smaller than the logging interval.*",  # rows are per epoch
    ".*lr_scheduler.step.*before.*optimizer.step.*",  # fp16 leaves out steps until its scale fits
    ".*overridden `on_after_batch_transfer`.*",  # of Classifier, for the range test has no DataModule
    ".*LeafSpec.*",  # Lightning 2.6 on torch 2.15
    ".*`srun` command is available.*",  # one process needs none, and trainer=ddp starts the others
    ".*GPU available but not used.*",  # chosen: trainer=cpu, and doctor times both
    ".*Grad strides do not match bucket view strides.*",  # of 1x1 convolutions in channels_last: the same memory
)


class Failed(BaseException):
    """Carries a single run's error, as its cause, through Hydra, which would add its own words."""


def run(main: Callable[[], object]) -> int:
    """Run a `hydra.main` function, or a script's; the exit status: 0, 1 for an error, 130 or 143 after a signal.

    A second Ctrl-C ends it at once. SLURM's SIGUSR1 (`sbatch --signal=USR1@90`) ends it cleanly and puts the job back
    into the queue; started again in the same directory, it resumes. `HYDRA_FULL_ERROR=1` shows every error with its
    traceback instead.
    """
    register_resolvers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that its encoding lacks must not end a run
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)
    if USR1 and processes.slurm_job():
        signal.signal(USR1, _terminate)  # before Lightning, which would save in the middle of an epoch
    before = {name: os.environ.get(name) for name in (FULL_ERROR, WANTED)}
    wanted = os.environ.setdefault(WANTED, os.environ.get(FULL_ERROR, "0"))
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log file gets lines, not thousands of bars
    try:
        sys.argv[1:] = resume.arguments(sys.argv[1:])
        os.environ[FULL_ERROR] = "1"  # so that Hydra hands its errors on to us
        main()
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit(1)
            return 130
        if USR1 and stop.code == 128 + USR1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it to a requeued job, which ends by itself
            if processes.rank() == 0:
                _requeue()
        raise
    except (Exception, Failed) as failure:
        if wanted != "0":
            raise
        error = failure.__cause__ if isinstance(failure, Failed) and failure.__cause__ else failure
        sys.stderr.write(f"\nerror: {explain(error)}\n")
        return 1
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return 0


def script(main: Callable[[], object]) -> int:
    """`run` for a command without Hydra: it logs to stderr, so that stdout has the results alone."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet()
    return run(main)


def job(run: Callable[[DictConfig], float | None], cfg: DictConfig) -> float | None:
    """One of Hydra's jobs. In a sweep its error is logged, and the next job follows."""
    if not OmegaConf.has_resolver("share"):
        register_resolvers()  # a launcher started another process
    signal.signal(signal.SIGTERM, _terminate)  # submitit ignores it, but sweep and scancel end a run by it
    quiet()
    try:
        return run(cfg)
    except Pruned as end:
        logging.getLogger(__name__).info("%s", end)
        return None
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            logging.getLogger(__name__).error("error: %s", explain(error))
            raise
        raise Failed from error


def register_resolvers() -> None:
    """Register the functions that the config calls."""
    run_id, started = secrets.token_hex(2), processes.started()  # now, before Lightning sets how many it starts
    resolvers: dict[str, Callable[..., Any]] = {
        "run_id": lambda: _alone(run_id, started),  # four hex digits for each process
        "share": overrides.share,
        "scaled": overrides.scaled,
        "direction": lambda monitor: MONITORS.get(monitor, "max"),
        "hydra_dir": _hydra_dir,
        "gpus": lambda *asked: import_module("cifar_pl.machine.slurm").gpus(*asked),  # submitit is an optional part
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _alone(run_id: str, started: int) -> str:
    own = f"{started} processes were started, and each would make a run directory of its own. Name one for all: "
    command = f"torchrun --nproc-per-node {started} train.py trainer=ddp hydra.run.dir=outputs/NAME"
    if started > 1:
        raise Failed from UserError(processes.misstarted() or own + command)
    return run_id


def _hydra_dir(run_dir: str) -> str | None:
    """Where Hydra writes in a run directory: nowhere if the first process does, or if this run will be refused."""
    return None if processes.rank() or rundir.has_results(Path(run_dir)) else ".hydra"


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _requeue() -> None:
    job = processes.slurm_job()
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)  # noqa: S607 - its place differs between clusters
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"\nerror: the job was not put back into the queue ({error}): scontrol requeue {job}\n")


def quiet() -> None:
    """Let Lightning and warnings write into the run's log, once each and without `NOISE`."""
    if processes.rank():
        logging.disable(logging.WARNING)  # the first process logs for all; errors are each process's own
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.callbacks.model_summary").setLevel(logging.INFO)
    logging.captureWarnings(True)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
