import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cifar_pl.errors import UserError
from cifar_pl.machine import hardware

SCRIPT = """
import ctypes, os
from cifar_pl.machine import hardware
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def kept():
    before, size = resident(), 100 << 20
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(ctypes.c_void_p(block))
    return (resident() - before) / size
print(kept())
hardware.keep_memory()
print(kept())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what it sets is glibc's")
def test_a_freed_block_stays_where_asked_for() -> None:
    out = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    assert [float(line) for line in out.split()] == pytest.approx([0, 1], abs=0.2)


def gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    """Let torch answer as on a machine with these GPUs, built for Turing and later."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda n=0: capabilities[n])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda n=0: f"Card {n}")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "sm_120", "compute_120"])


@pytest.mark.parametrize(
    ("built", "reason"), [("13.2", "the driver is too old for its CUDA 13.2"), (None, "built without CUDA")]
)
def test_an_nvidia_gpu_that_torch_cannot_use_is_told_of_once_unless_it_was_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, built: str | None, reason: str
) -> None:
    gpus(monkeypatch)
    hardware._warn_once.cache_clear()
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(hardware, "NVIDIA_FILES", (tmp_path / "nvidia0",))
    monkeypatch.setattr(torch.version, "cuda", built)
    for visible in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert hardware.accelerator("auto") == "cpu"
        for name in ("gpu", "cuda"):
            with pytest.raises(UserError, match=f"accelerator={name}: there is no GPU"):
                hardware.accelerator(name)
    assert not caplog.records
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [hardware.accelerator(name) for name in ("cpu", "auto", "auto")] == ["cpu"] * 3
    (record,) = caplog.records
    assert reason in record.message
    assert "download.pytorch.org/whl/cu126" in record.message
    with pytest.raises(UserError, match=reason):
        hardware.accelerator("gpu")


def test_a_gpu_below_what_torch_was_built_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, (7, 5), (7, 0), (12, 1))
    assert [hardware.accelerator(name, gpu) for name in ("auto", "gpu", "cuda") for gpu in (0, 2)] == ["cuda"] * 6
    assert hardware.accelerator("cpu", 1) == "cpu"
    with pytest.raises(UserError, match=r"Card 1 has compute capability 7\.0, .* 7\.5 and later\. .*whl/cu126"):
        hardware.accelerator("auto", 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx942"])  # AMD's count otherwise
    assert hardware.accelerator("auto", 1) == "cuda"


def test_what_computed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, (7, 5), (9, 0))
    facts = hardware.describe(1)
    assert (facts["gpu"], facts["capability"], facts["gpus"]) == ("Card 1", "9.0", 2)
    said = [hardware.named({**facts, "accelerator": name}) for name in ("cuda", "cpu", "mps")]
    assert said[0] == "Card 1"
    assert said[2] == f"{said[1]}, MPS"
    assert said[1].startswith(str(facts["cpu"]))


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 1), "32-true"), ((7, 0), "16-mixed"), ((7, 5), "16-mixed"), ((8, 0), "bf16-mixed"), ((12, 0), "bf16-mixed")],
)
def test_auto_takes_the_fastest_that_a_gpu_has_itself(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    gpus(monkeypatch, (9, 0), capability)
    assert hardware.precision("auto", "cuda", 1) == expected


def test_a_precision_that_would_be_emulated_is_refused_and_a_trained_network_does_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpus(monkeypatch, (7, 5))
    able = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert hardware.precision("auto", "cpu") == hardware.precision("bf16", "cpu") == "bf16-mixed"
    assert hardware.dtype("bf16-mixed", "auto", "cpu") == torch.bfloat16
    assert hardware.dtype("32-true", "auto", "cpu") == torch.float32  # as the run did, not what is best here
    assert hardware.dtype(None, "auto", "cpu") == torch.bfloat16
    assert hardware.dtype("16-mixed", "auto", "cuda") == torch.float16
    assert not caplog.records
    able.clear()
    assert hardware.precision("auto", "cpu") == hardware.precision("auto", "mps") == "32-true"
    for name, where, only in (
        ("bf16", "cpu", "float32"),
        ("bf16", "cuda", "fp16, float32"),
        ("fp16", "cpu", "float32"),
        ("fp16", "mps", "float32, bf16"),
    ):
        with pytest.raises(UserError, match=rf"precision={name}: .* \({where}\) it must be one of auto, {only}\."):
            hardware.precision(name, where)
        caplog.clear()
        assert hardware.dtype(hardware.PRECISIONS[name], "auto", where) == torch.float32
        assert f"The run computed in {name}, which" in caplog.text


@pytest.mark.parametrize(
    ("quota", "processes", "cores"),
    [(None, None, 8), ("max 100000", None, 8), ("300000 100000", None, 3), ("50000 100000", None, 1),
     ("1600000 100000", None, 8), ("nonsense", "4", 2), ("600000 100000", "2", 3), (None, "16", 1)],
)  # fmt: skip
def test_cores_are_those_of_this_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, processes: str | None, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(hardware, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert hardware.cores() == cores
