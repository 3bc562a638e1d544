"""How many runs there are at the same time, and which part of the machine each of them has."""

import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any

from hydra.plugins.launcher import Launcher

from cifar_pl.errors import install, require
from cifar_pl.machine import hardware

PER_GPU, CORES = 2, 3  # runs on one GPU, if each has so many cores: a run waits for its Python
POLL = 0.2  # seconds
Slot = Mapping[str, str]  # the environment of one of the runs at the same time
Work = Callable[[Slot], None]


def allocate(launcher: Launcher, at_once: Any) -> list[Slot]:
    """One slot for each run at the same time; none if runs follow one another in this process."""
    kind = type(launcher).__name__
    require(
        at_once is None or (isinstance(at_once, int) and at_once > 0),
        f"sweep.at_once={at_once}: it must be a whole number, 1 or more.",
    )
    require(
        kind != "BasicLauncher" or at_once in (None, 1),
        f"sweep.at_once={at_once}: in one process runs follow one another. "
        f"Add hydra/launcher=local ({install('sweep')}), which gives each a process of its own.",
    )
    if kind == "BasicLauncher":
        return []
    if not is_local(launcher):
        from cifar_pl.machine import slurm  # its launcher is an optional part

        slurm.watch()
        return [{}] * (at_once or getattr(launcher, "params", {}).get("array_parallelism", 1))
    require(
        hasattr(signal, "SIGCONT"),
        "hydra/launcher=local does not run on Windows: submitit needs signals it lacks. Leave it out, or take WSL2.",
    )
    gpus = hardware.gpus()
    count = at_once or len(gpus) * (PER_GPU if hardware.cores() >= PER_GPU * len(gpus) * CORES else 1)
    require(
        count,
        "hydra/launcher=local takes the number of runs from the GPUs, and there are none here. Say how many, "
        f"for example sweep.at_once={min(2, hardware.cores())}: the {hardware.cores()} cores are divided among them.",
    )
    return [{**share(count), **({"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if gpus else {})} for k in range(count)]


def share(count: int) -> Slot:
    """What gives a run its share of the cores if there are `count` at the same time."""
    # The second is for the cores that a run counts, and with them its loader workers.
    return {"OMP_NUM_THREADS": str(max(1, hardware.cores() // count)), "LOCAL_WORLD_SIZE": str(count)}


def is_local(launcher: Launcher) -> bool:
    """Whether its runs are other processes of this machine: submitit's launcher, an optional part."""
    return type(launcher).__name__ == "LocalLauncher"


def run_all(work: Sequence[Work], slots: Sequence[Slot], interrupt: Callable[[], bool]) -> None:
    """Do all of `work`, one item at a time in each slot; without slots here, one after the other.

    If a signal or an error ends it early, `interrupt` is called until running work is over, or it returns False.
    """
    if not slots:
        for item in work:
            item({})
        return
    todo, errors = deque[Work | None]([*work, *[None] * len(slots)]), list[BaseException]()
    busy = set(range(len(slots)))  # not `is_alive`: on 3.11 and 3.12 a signal during `join` makes it False, gh-90882

    def serve(number: int) -> None:
        # The launcher's processes inherit this: Ctrl-C on a terminal is not for them; `interrupt` stops the runs, once.
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for item in iter(todo.popleft, None):
                if errors:
                    return
                item(slots[number])
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            busy.discard(number)

    # The runs are other processes, started by the launcher: a thread waits for each, and an exit for no thread.
    try:
        for number in range(len(slots)):
            Thread(target=serve, args=[number], daemon=True).start()
        while busy and not errors:
            time.sleep(POLL)
        if errors:
            raise errors[0]
    except BaseException as error:
        errors.append(error)
        while busy and interrupt():
            time.sleep(POLL)
        raise
