"""How many runs go on at the same time, and what of the machine each of them has."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

from hydra.plugins.launcher import Launcher
from tqdm import tqdm

from cifar_pl import hardware
from cifar_pl.errors import require

Slot = Mapping[str, str]  # the environment of one of the runs that go on at the same time
Work = Callable[[Slot], None]


def of(launcher: Launcher, at_once: Any) -> list[Slot] | None:
    """One for each run that goes on at the same time; none in this process; None where the launcher takes all at once.

    Raises:
        UserError: so many cannot be run at once, or it is not said how many.
    """
    kind = type(launcher).__name__
    require(
        at_once is None or (isinstance(at_once, int) and at_once > 0),
        f"sweep.at_once={at_once}: it must be a whole number, 1 or more.",
    )
    require(
        kind != "BasicLauncher" or at_once in (None, 1),
        f"sweep.at_once={at_once}: in one process runs follow one another. "
        'Add hydra/launcher=local (pip install -e ".[sweep]"), which gives each a process of its own.',
    )
    if kind == "BasicLauncher":
        return []
    if kind != "LocalLauncher":
        return [{}] * at_once if at_once else None
    gpus = hardware.gpus()
    count = at_once or len(gpus)
    require(
        count,
        "hydra/launcher=local runs one job per GPU, and here is none. Say how many at the same time, "
        f"for example sweep.at_once={min(2, hardware.cores())}: the {hardware.cores()} cores are divided among them.",
    )
    threads = {"OMP_NUM_THREADS": str(max(1, hardware.cores() // count))}
    return [{**threads, **({"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if gpus else {})} for k in range(count)]


def each(work: Sequence[Work], slots: Sequence[Slot] | None, interrupt: Callable[[], None]) -> None:
    """Do all of `work`: here, one after the other, or as many at once as there are slots.

    Whatever ends it early, a signal too, has `interrupt` called until what was begun is over.
    """
    if not slots:
        for one in work:
            one({})
        return
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in slots:
        free.put(slot)

    def take(one: Work) -> None:
        slot = free.get()
        try:
            one(slot)
        finally:
            free.put(slot)

    # The runs are other processes, started by the launcher; a thread waits for each.
    with ThreadPoolExecutor(len(slots)) as pool:
        futures = [pool.submit(take, one) for one in work]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                future.result()
        except BaseException:
            tqdm.write("Stopping: the runs write what they have ...")
            pool.shutdown(wait=False, cancel_futures=True)
            begun = [future for future in futures if not future.cancelled()]
            while wait(begun, timeout=3).not_done:  # Ctrl-C on a terminal has reached them already
                interrupt()
            raise
