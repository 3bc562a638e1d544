"""What the machine can do, and what it is."""

import ctypes
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cifar_pl.errors import require

log = logging.getLogger(__name__)

OLDER = "pip install torch torchvision --index-url https://download.pytorch.org/whl/cu126"  # for older drivers and GPUs
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of how many, such as of docker run --cpus
NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidia0")
PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def accelerator(name: str, gpu: int = 0) -> str:
    """Torch's name of the device that Lightning's `auto`, `gpu`, `cuda`, `mps` or `cpu` means here.

    `auto` that ends on the CPU though there is an NVIDIA GPU says so, once.

    Raises:
        UserError: `gpu` or `cuda` without one, or this torch has no code for the GPU with this number.
    """
    if name in ("auto", "gpu", "cuda"):
        mps = name != "cuda" and torch.backends.mps.is_available()
        found = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        if found == "cpu":
            unused = _why_not_cuda() if nvidia() else ""
            require(name == "auto", f"trainer.accelerator={name}: {unused or 'there is no GPU. Take trainer=cpu.'}")
            if unused:
                _warn(f"!! On the CPU: {unused}")
        name = found
    if name == "cuda":
        least = min((_capability(arch) for arch in torch.cuda.get_arch_list() if "sm_" in arch), default=(0, 0))
        have = torch.cuda.get_device_capability(gpu)
        require(
            have >= least,
            f"{torch.cuda.get_device_name(gpu)} has compute capability {have[0]}.{have[1]}, and this torch "
            f"{torch.__version__} has code from {least[0]}.{least[1]} on. Take a build that has it, {OLDER}, or "
            "trainer=cpu.",
        )
    return name


def nvidia() -> bool:
    """Whether there is an NVIDIA GPU that nobody hid from us, be torch able to use it or not."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (any(Path(path).exists() for path in NVIDIA) or shutil.which("nvidia-smi") is not None)


@cache
def _warn(text: str) -> None:
    log.warning("%s", text)


def _why_not_cuda() -> str:
    cuda = torch.version.cuda
    reason = f"the driver is too old for its CUDA {cuda}, or broken" if cuda else "it is built without CUDA"
    return (
        f"there is an NVIDIA GPU, but this torch {torch.__version__} cannot use it: {reason}. Renew the driver, or "
        f"take a build that fits it (https://pytorch.org/get-started): {OLDER}"
    )


def _capability(arch: str) -> tuple[int, int]:
    """sm_75 is (7, 5), sm_120 is (12, 0), sm_90a is (9, 0)."""
    return divmod(int("".join(filter(str.isdigit, arch))), 10)


def precision(name: str, accelerator: str, gpu: int = 0) -> str:
    """Lightning's name for `auto`, `float32`, `bf16` or `fp16` on an accelerator (`cpu`, `cuda`, `mps`).

    `auto` is bf16 where the processor multiplies bf16 itself, else fp16 on GPUs with tensor cores, else float32;
    weights and the optimizer stay float32 in any case.

    Raises:
        UserError: an unknown name, or one that cannot be had here.
    """
    require(name in ("auto", *PRECISIONS), f"precision={name}: it must be one of auto, {', '.join(PRECISIONS)}.")
    if name == "auto":
        tensor_cores = accelerator == "cuda" and torch.cuda.get_device_capability(gpu) >= (7, 0)
        name = "bf16" if _native_bf16(accelerator, gpu) else "fp16" if tensor_cores else "float32"
    reason = _lacking(name, accelerator, gpu)
    require(not reason, f"precision={name}: {reason}. Take precision=auto.")
    return PRECISIONS[name]


def dtype(recorded: object, name: str, accelerator: str) -> torch.dtype:
    """What a trained network computes in, by autocast: as its run did, or float32 where that cannot be had, and told.

    Args:
        recorded: Lightning's name, as the run recorded it; where it recorded none, its `precision` counts.
        name: The run's `precision`.
        accelerator: Where the network is now.
    """
    name = next((key for key, value in PRECISIONS.items() if value == recorded), name)
    reason = _lacking(name, accelerator)
    if reason:
        log.warning("!! The run computed in %s, but %s. Here it is float32.", name, reason)
    return DTYPES["32-true" if reason else precision(name, accelerator)]


def memory_format(accelerator: str) -> torch.memory_format:
    """How networks and images lie in memory there."""
    # Batch norm's backward pass was wrong in channels_last there, or crashed, up to torch 2.12 (pytorch#175189).
    return torch.contiguous_format if accelerator == "mps" else torch.channels_last


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
    """The cores this process may use; fewer than the machine has, in a container, under a scheduler or torchrun."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container's quota, or "max"
        quota, period = map(int, QUOTA.read_text().split())
        count = min(count, quota // period)
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of the GPUs that this process may use."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(n) for n in range(count)]


def describe(gpu: int = 0) -> dict[str, str | int]:
    """Processor, cores, torch threads; where there is a GPU, that with this number, and CUDA's versions."""
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
        facts |= {
            "gpu": torch.cuda.get_device_name(gpu),
            "gpus": torch.cuda.device_count(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(gpu))),
            "cuda": str(torch.version.cuda or torch.version.hip),
            "cudnn": torch.backends.cudnn.version() or 0,  # type: ignore[no-untyped-call]
        }
    return facts


def named(facts: Mapping[str, Any]) -> str:
    """In a few words what of `describe`'s machine computed; with `accelerator` among its facts."""
    where = facts.get("accelerator")
    cpu = f"{facts['cpu']}, {facts['cores']} cores"
    return str(facts["gpu"]) if where == "cuda" else f"{cpu}, MPS" if where == "mps" else cpu


def _lacking(name: str, accelerator: str, gpu: int = 0) -> str:
    """Why a precision cannot be had there; empty where it can."""
    if name == "fp16" and accelerator != "cuda":
        return "fp16 is for NVIDIA GPUs"
    if name != "bf16" or accelerator == "mps" or _native_bf16(accelerator, gpu):
        return ""
    if accelerator == "cuda":
        return "this GPU has no bf16, only fp16"
    return "this processor has no bf16, and emulating it is 44 to 499 times slower than float32 (pytorch#146508)"


def _native_bf16(accelerator: str, gpu: int = 0) -> bool:
    if accelerator == "cuda":
        return bool(torch.version.hip) or torch.cuda.get_device_capability(gpu) >= (8, 0)
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch: float32
    return accelerator == "cpu" and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
