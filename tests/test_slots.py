"""How many runs go on at the same time."""

import os
import signal
import threading
from typing import Any

import pytest
import torch

from cifar_pl.errors import UserError
from cifar_pl.machine import hardware
from cifar_pl.sweeps import slots


class LocalLauncher:
    """By its name, submitit's: the module is an optional part."""


def test_each_run_at_the_same_time_has_its_gpu_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher: Any = LocalLauncher()
    monkeypatch.setattr(hardware, "cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    expected = [
        {"OMP_NUM_THREADS": "4", "LOCAL_WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("4", "6", "4", "6")
    ]
    assert slots.allocate(launcher, None) == expected
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots.allocate(launcher, 4) or []] == ["4", "6", "4", "6"]
    monkeypatch.setattr(hardware, "cores", lambda: 11)  # two runs per GPU would have fewer than three cores each
    assert slots.allocate(launcher, None) == [
        {"OMP_NUM_THREADS": "5", "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("4", "6")
    ]
    monkeypatch.setattr(hardware, "gpus", list)
    monkeypatch.setattr(hardware, "cores", lambda: 16)
    assert slots.allocate(launcher, 3) == [{"OMP_NUM_THREADS": "5", "LOCAL_WORLD_SIZE": "3"}] * 3
    with pytest.raises(UserError, match="Say how many"):
        slots.allocate(launcher, None)
    for wrong in (0, -1, "two", 1.5):
        with pytest.raises(UserError, match="whole number"):
            slots.allocate(launcher, wrong)


def test_where_submitit_cannot_run_its_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGCONT")  # Windows
    with pytest.raises(UserError, match="WSL2"):
        slots.allocate(LocalLauncher(), 2)  # type: ignore[arg-type]


def test_all_work_is_done_no_more_at_once_than_there_are_slots() -> None:
    lock, now, most, used = threading.Lock(), [0], [0], []

    def one(slot: slots.Slot) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            assert slot["n"] not in [s for s, open_ in used if open_]
            used.append([slot["n"], True])
            mine = used[-1]
        threading.Event().wait(0.02)
        with lock:
            now[0] -= 1
            mine[1] = False

    slots.run_all([one] * 7, [{"n": "0"}, {"n": "1"}], lambda: True)
    assert most[0] == 2
    assert len(used) == 7


def test_a_failure_stops_the_rest_after_what_was_begun_is_over() -> None:
    begun, go, told = threading.Event(), threading.Event(), threading.Event()
    done: list[str] = []

    def slow(_slot: slots.Slot) -> None:
        begun.set()
        go.wait(20)
        done.append("slow")

    def failing(_slot: slots.Slot) -> None:
        begun.wait(20)
        raise UserError("no")

    def interrupt() -> bool:
        told.set()
        go.set()
        return True

    with pytest.raises(UserError, match="no"):
        slots.run_all([slow, failing, *[slow] * 5], [{}, {}], interrupt)
    assert told.is_set()
    assert len(done) < 6


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_interrupts_what_runs_in_every_slot(count: int) -> None:
    stop, ended = threading.Event(), list[bool]()

    def work(_slot: slots.Slot) -> None:
        ended.append(stop.wait(20))

    def interrupt() -> bool:
        stop.set()
        return True

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a command's own, left by another test, exits
    try:
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            slots.run_all([work] * 3, [{}] * count, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True] * count
