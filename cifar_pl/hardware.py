"""What the machine can do, and what it is."""

import ctypes
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cifar_pl.errors import require

PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}


def accelerator(name: str) -> str:
    """Torch's name of the device that Lightning's `auto`, `gpu`, `cuda`, `mps` or `cpu` means here."""
    if name in ("auto", "gpu"):
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return name


def precision(name: str, accelerator: str) -> str:
    """Lightning's name for `auto`, `float32` or `bf16` on an accelerator (`cpu`, `cuda`, `mps`).

    `auto` is bf16 where the processor multiplies bf16 itself, because emulating it is slower than
    float32; weights and the optimizer stay float32 either way.

    Raises:
        UserError: an unknown name.
    """
    require(name in ("auto", *PRECISIONS), f"precision={name}: it must be one of auto, {', '.join(PRECISIONS)}.")
    if name == "auto":
        name = "bf16" if _native_bf16(accelerator) else "float32"
    return PRECISIONS[name]


def keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back, for the kernel would clear it again at every step.

    A step frees and takes the same hundreds of megabytes; `benchmarks/throughput.py` measures what the page
    faults cost. Elsewhere than on glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks from the heap too
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def cores() -> int:
    """The cores this process may use; fewer than the machine has, in a container or under a scheduler."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of the GPUs that this process may use."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(n) for n in range(count)]


def describe() -> dict[str, str | int]:
    """Processor, cores, torch threads, and GPU where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    facts: dict[str, str | int] = {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "bf16": str(_native_bf16("cpu")).lower(),
    }
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    return facts


def _native_bf16(accelerator: str) -> bool:
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch: float32
    return accelerator == "cpu" and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
