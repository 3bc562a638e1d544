"""What stands around `train.py` on a shell: resolvers, `resume=`, signals, one message per mistake."""

import logging
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_pl.config import resume, schema
from cifar_pl.errors import Pruned, UserError, full_key, nearest
from cifar_pl.machine import processes
from cifar_pl.runs import rundir
from cifar_pl.runs.monitors import MONITORS

FULL_ERROR = "HYDRA_FULL_ERROR"
USR1 = getattr(signal, "SIGUSR1", None)  # Windows has none, and no SLURM


def run(main: Callable[[], object]) -> int:
    """Run a `hydra.main` function, or a script's; the exit status: 0, 1 for an error, 130 or 143 after a signal.

    A second Ctrl-C ends it at once. SLURM's SIGUSR1 (`sbatch --signal=USR1@90`) ends it in order, too, and puts the
    job back into the queue; begun again there in the same directory, it goes on. `HYDRA_FULL_ERROR=1` shows every
    error with its traceback instead.
    """
    register_resolvers()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)
    if USR1 and processes.slurm_job():
        signal.signal(USR1, _terminate)  # before Lightning, which would save in the middle of an epoch
    wanted = os.environ.get(FULL_ERROR)
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
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which SLURM ends what goes back; it ends by itself
            if processes.rank() == 0:
                _requeue()
        raise
    except (Exception, Failed) as failure:
        error = failure.__cause__ if isinstance(failure, Failed) and failure.__cause__ else failure
        if wanted not in (None, "0"):
            raise
        sys.stderr.write(f"\nerror: {explain(error)}\n")
        return 1
    finally:
        os.environ.pop(FULL_ERROR, None)
        if wanted is not None:
            os.environ[FULL_ERROR] = wanted
    return 0


def script(main: Callable[[], object]) -> int:
    """`run` for a command without Hydra: what it logs goes to stderr, so that stdout holds results alone."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _one_log()
    return run(main)


def job(run: Callable[[DictConfig], float | None], cfg: DictConfig) -> float | None:
    """One job of Hydra's. A failed single run goes past Hydra, which would add its own words to the message."""
    if not OmegaConf.has_resolver("share"):
        register_resolvers()  # a launcher brought us to another process
    signal.signal(signal.SIGTERM, _terminate)  # submitit passes it over, but sweep and scancel end a run by it
    _one_log()
    try:
        return run(cfg)
    except Pruned as end:
        logging.getLogger(__name__).info("%s", end)
        return None
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            logging.getLogger(__name__).error("error: %s", explain(error))
            raise  # Hydra goes on with the other jobs
        raise Failed from error


class Screen(logging.Formatter):
    """The message alone; on a terminal, `test-selected` in red."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = super().format(record)
        return text.replace("test-selected", "\033[31mtest-selected\033[0m") if sys.stdout.isatty() else text


class Failed(BaseException):
    """Carries a single run's error, as its cause, through Hydra."""


def register_resolvers() -> None:
    """What the config calls.

    `${run_id:}`: four hex digits, one per process; `${share:X,N}`: of N, rounded down; `${direction:M}`: min or max;
    `${hydra_dir:DIR}`: where in a run directory Hydra may write; `${gpus:ACCELERATOR,PARTITION}`: how many a SLURM job
    asks for.
    """
    run_id, started = secrets.token_hex(2), processes.started()  # now: Lightning will say how many it starts, too
    OmegaConf.register_new_resolver("run_id", lambda: _alone(run_id, started), replace=True)
    OmegaConf.register_new_resolver("hydra_dir", _hydra_dir, replace=True)
    OmegaConf.register_new_resolver("gpus", _gpus, replace=True)
    # A share such as 0.7 of 90 is 62.99999999999999 in binary.
    OmegaConf.register_new_resolver("share", lambda share, of: math.floor(share * of + 1e-9), replace=True)
    OmegaConf.register_new_resolver("direction", lambda monitor: MONITORS.get(monitor, "max"), replace=True)


def explain(error: BaseException) -> str:
    """An error as a user reads it: what, why, and the nearest names where a name was unknown."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        said = f"{error}\n{error.__cause__ or ''}".partition("Config search path")[0]
        lines = dict.fromkeys(line.strip() for line in said.splitlines())  # ordered, each once
        text = " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type")))
        key = full_key(said)
        text += f" ({key})" if key not in text else ""
        override = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
        return override + text + _hint(text)
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''} (the run stopped here; what was written stays)"
    return f"{type(error).__name__}: {error} ({FULL_ERROR}=1 shows where; a run keeps it in its train.log)"


def _hint(text: str) -> str:
    if "hydra/launcher/submitit" in text:
        return ' It is an optional part: pip install -e ".[sweep]"'
    option = re.search(r"Could not find '([\w-]+)/([^']+)'", text)
    if option:
        return nearest(option[2], (path.stem for path in (schema.CONF / option[1]).glob("*.yaml")))
    key = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    return nearest(key[1], _known()) if key else ""


def _known() -> list[str]:
    """Every group and every key that the shipped configs have, as people type them."""
    return [*(path.name for path in schema.CONF.iterdir() if path.is_dir()), *schema.values()]


def _alone(run_id: str, started: int) -> str:
    if started > 1:
        raise Failed from UserError(
            processes.misstarted()
            or f"{started} processes were started, and each would make a run directory of its own. Name one for all: "
            f"torchrun --nproc-per-node {started} train.py trainer=ddp hydra.run.dir=outputs/NAME"
        )
    return run_id


def _hydra_dir(run_dir: str) -> str | None:
    """Nowhere in further processes, for the first one writes, nor where a run is: this one will be refused."""
    return None if processes.rank() or rundir.has_results(Path(run_dir)) else ".hydra"


def _gpus(accelerator: str, partition: str | None) -> int | None:
    from cifar_pl.machine import slurm  # its launcher is an optional part

    return slurm.gpus(accelerator, partition)


def safe(text: object) -> str:
    """`text` as a part of a file name: letters, digits and `._-`, at most 80 of them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", str(text))[:80].strip("_") or "default"


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _requeue() -> None:
    job = processes.slurm_job()
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)  # noqa: S607 - where it lies is SLURM's
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"\nerror: the job was not put back into the queue ({error}): scontrol requeue {job}\n")


def _one_log() -> None:
    """Let Lightning and warnings write into the run's log, once each, without what everybody knows."""
    if processes.rank():
        logging.disable(logging.WARNING)  # the first process says it for all; what goes wrong each says itself
    for name in ("pytorch_lightning", "lightning_fabric"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.callbacks.model_summary").setLevel(logging.INFO)
    logging.captureWarnings(True)
    for noise in (
        ".*does not have many workers.*",  # chosen: see DataModule
        ".*exists and is not empty.*",  # a run directory holds .hydra and the log before the first checkpoint
        ".*have no `val_dataloader`.*",  # chosen: data.val_size=0, and the range test
        ".*not supported by the model summary.*",  # its megabytes, of float32 weights, are right
        ".*smaller than the logging interval.*",  # rows are per epoch
        ".*lr_scheduler.step.*before.*optimizer.step.*",  # fp16 leaves out steps until its scale fits
        ".*overridden `on_after_batch_transfer`.*",  # of Classifier, for the range test has no DataModule
        ".*LeafSpec.*",  # Lightning 2.6 on torch 2.15
        ".*`srun` command is available.*",  # one process needs none, and trainer=ddp starts the others
        ".*Grad strides do not match bucket view strides.*",  # of 1x1 convolutions in channels_last: the same memory
    ):
        warnings.filterwarnings("ignore", message=noise)
