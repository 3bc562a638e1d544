"""Contestants in processes of their own that take turns, so that a machine which drifts does so for all of them.

`Contestant` is the benchmark's side of a pair of pipes, `Turns` the contestant's. A contestant is `python -m MODULE
--contestant NAME`, or `python train.py` with MODULE's callback `TakeTurns`, in a pseudo-terminal.
"""

import argparse
import io
import json
import os
import pty
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from benchmarks import common
from benchmarks.common import ROOT


def parser(description: str | None, contestants: Iterable[str], rounds: int) -> argparse.ArgumentParser:
    """The arguments of such a benchmark."""
    arguments = common.parser(description)
    arguments.add_argument("--rounds", type=int, default=rounds, help="turns of each, of which the first warms up")
    arguments.add_argument("--contestant", choices=list(contestants), help=argparse.SUPPRESS)
    arguments.add_argument("--pipe", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments.add_argument("overrides", nargs="*", help="of train.py, such as data=image_folder data.root=...")
    return arguments


class Turns:
    """A contestant's side: wait until it is my turn, report what I did in it."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders, self._answers = os.fdopen(orders), os.fdopen(answers, "w")

    def wait(self) -> None:
        """Block until the next turn; leave the process if there is none."""
        if not self._orders.readline():
            os._exit(0)  # the benchmark has seen enough

    def report(self, **facts: float) -> None:
        """Send what the turn was, and the process's highest resident memory so far, in bytes."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**facts, "memory": memory}), file=self._answers, flush=True)


def take_turns(turns: Turns, step: Callable[[], int], steps: int) -> None:
    """Run `step`, which returns a number of images, once to warm up and then `steps` times each turn."""
    step()
    synchronize()
    turns.report()
    while True:
        turns.wait()
        begin = time.perf_counter()
        images = sum(step() for _ in range(steps))
        synchronize()
        turns.report(images=images, seconds=time.perf_counter() - begin)


class Contestant:
    """The benchmark's side."""

    def __init__(self, name: str, overrides: list[str], steps: int, module: str) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self.name, self.turns = name, list[dict[str, float]]()
        self._log = io.BytesIO()
        self._directory = tempfile.TemporaryDirectory()
        screen, terminal = pty.openpty()
        threading.Thread(target=self._watch, args=(screen,), daemon=True).start()
        call = ["-m", module, "--contestant", name, "--pipe", str(orders), str(answers), str(steps)]
        if name == "train":
            callback = f"{{_target_:{module}.TakeTurns,orders:{orders},answers:{answers},steps:{steps}}}"
            mine = (f"+callbacks.turns={callback}", f"hydra.run.dir={self._directory.name}")
            call = ["train.py", "trainer.max_epochs=1000000", *mine]
        self.born = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *call, *overrides],
            cwd=ROOT,
            pass_fds=(orders, answers),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        for end in (orders, answers, terminal):
            os.close(end)
        self._reader = os.fdopen(self._answers)
        self._answer()
        self.start_up = time.perf_counter() - self.born

    def _watch(self, screen: int) -> None:
        try:
            while text := os.read(screen, 1 << 16):
                self._log.write(text)
        except OSError:  # the other end is closed
            pass

    def _answer(self) -> dict[str, float]:
        line = self._reader.readline()
        if not line:
            self._process.wait()
            time.sleep(0.2)
            sys.exit(f"{self.name} died:\n{self._log.getvalue().decode(errors='replace')[-4000:]}")
        facts: dict[str, float] = json.loads(line)
        return facts

    def turn(self) -> None:
        """One turn."""
        os.write(self._orders, b"go\n")
        self.turns.append(self._answer())

    def close(self) -> None:
        """End the process."""
        os.close(self._orders)
        self._process.wait()


def take(contestants: Sequence[Contestant], rounds: int) -> None:
    """Let the contestants take turns, and end them."""
    for number in range(rounds):
        for contestant in contestants:
            contestant.turn()
        print(f"round {number + 1}/{rounds}", file=sys.stderr)
    for contestant in contestants:
        contestant.close()


def synchronize() -> None:
    """Let the GPU finish, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
