"""The run directory: names of its files, its status, its lock. Any reader here refuses a damaged file."""

import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cifar_pl.errors import Pruned, UserError, require
from cifar_pl.runs import files
from cifar_pl.runs.overrides import TRAIN

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
OVERRIDES = ".hydra/overrides.yaml"
STATUS = "status.json"
SUMMARY = "summary.json"
METRICS = "metrics.csv"
FINDER = "lr_finder.json"
RANGE_TEST = "lr_finder.csv"
FIRST_STEPS = "first_steps.json"
LR_FIGURE = "figures/lr_finder.png"
PREDICTIONS = {"test": "predictions.npz", "val": "predictions_val.npz"}
GALLERY = "misclassified.npz"
EXPLORED = "explored.npz"
PAGE = "report.html"
SWEEP = "multirun.yaml"  # in a sweep's directory
STUDY = "study.db"  # of a search, there too
BEST = "checkpoints/best.ckpt"
LAST = "checkpoints/last.ckpt"
FIRST_FILES = (FINDER, RANGE_TEST, LR_FIGURE, FIRST_STEPS, BEST)  # what a run may have left in its first epoch


@contextmanager
def tracked(run_dir: Path, **facts: Any) -> Iterator[Callable[..., None]]:
    """Keep `status.json`: running, then finished, pruned, interrupted or failed (with the error), and `facts`.

    Yields a function that adds facts. The traceback of a failure goes to the end of `train.log`; the caller shows the
    message.
    """
    started = _now()
    facts |= {"host": socket.gethostname(), "pid": os.getpid()}

    def note(status: str, **more: str) -> None:
        files.write_json(run_dir / STATUS, {"status": status, "started": started, "at": _now(), **more, **facts})

    def add(**more: Any) -> None:
        facts.update(more)
        note("running")

    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=1)  # `state` takes it for a moment
    except Timeout:
        raise UserError(f"{run_dir} is in use: another process trains there. Wait for it, or stop it.") from None
    try:
        for part in (*run_dir.rglob(f".*{files.PART}"), *run_dir.glob(".lr_find_*.ckpt")):  # of a killed process
            part.unlink()
        note("running")
        yield add
        note("finished")
    except Pruned:
        note("pruned")
        raise
    except Exception as error:
        with suppress(OSError):  # a full disk must not hide what went wrong
            note("failed", error=f"{type(error).__name__}: {error}")
            with (run_dir / "train.log").open("a", errors="backslashreplace") as file:
                file.write(traceback.format_exc())
        raise
    except BaseException:  # SystemExit after a signal, KeyboardInterrupt
        with suppress(OSError):
            note("interrupted")
        if (run_dir / LAST).exists():
            log.warning("Interrupted. To resume: %s 'resume=%s'", TRAIN, run_dir)
        raise
    finally:
        lock.release()


def state(run_dir: Path) -> dict[str, Any]:
    """What `status.json` holds; its `status` is `killed` if it is running there and no process has the lock."""
    facts: dict[str, Any] = files.read_json(run_dir / STATUS)
    require("status" in facts, f"{run_dir / STATUS} has no status. It is damaged.")
    if facts["status"] == "running":
        with suppress(Timeout, OSError), FileLock(run_dir / ".lock", timeout=0):
            facts["status"] = "killed"
    return facts


def facts(run_dir: Path) -> dict[str, Any]:
    """What `summary.json` holds, or of a run that is not finished what `state` gives."""
    known = state(run_dir)
    return files.read_json(run_dir / SUMMARY) if known["status"] == "finished" else known


def read_config(run_dir: Path) -> dict[str, Any]:
    """The config of the run in `run_dir`, as plain values."""
    with files.reading(run_dir / CONFIG) as file:
        config: dict[str, Any] = yaml.safe_load(file)
        require(isinstance(config, dict), "it holds no mapping")
    return renamed(config)


def renamed(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config; an older one with the network's present name."""
    if (model := config.get("model") or {}).get("_target_") == "cifar_pl.models.resnet18.resnet18":
        model["_target_"] = "cifar_pl.models.resnet.resnet"
    return config


def find_run(name: str) -> Path:
    """The run directory called `name`; `latest` is the one below outputs/ or multirun/ whose status changed last."""
    if name == "latest":
        found = [path for top in ("outputs", "multirun") for path in Path(top).rglob(STATUS) if is_run(path.parent)]
        require(found, "latest: there is no run below outputs/ or multirun/ here.")
        return max(found, key=lambda path: path.stat().st_mtime).parent
    directory = Path(name)
    require(directory.is_dir(), f"{name}: there is no such directory.")
    require(
        is_run(directory),
        f"{name}: this is not a run directory (it has no {CONFIG} or no {STATUS}). "
        "Give the directory that holds them, or latest.",
    )
    return directory


def is_run(directory: Path) -> bool:
    """Whether a run is in this directory; not one whose config was refused."""
    return (directory / CONFIG).is_file() and (directory / STATUS).is_file()


def has_results(directory: Path) -> bool:
    """Whether a run is in this directory that got through its first epoch."""
    return is_run(directory) and any((directory / name).exists() for name in (METRICS, LAST, SUMMARY))


def require_empty(directory: Path) -> None:
    """Refuse to overwrite anything."""
    require(not directory.exists() or not any(directory.iterdir()), f"{directory} is not empty. Name a new directory.")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
