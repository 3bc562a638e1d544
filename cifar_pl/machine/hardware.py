"""What the machine can do, and what it is."""

import ctypes
import logging
import math
import os
import platform
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cifar_pl.errors import require

log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds per period, such as of docker run --cpus
MEMORY = Path("/proc/meminfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # bytes, or "max"; such as of docker run --memory
NVIDIA_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))
OLDER_CUDA = "pip install torch torchvision --index-url https://download.pytorch.org/whl/cu126"
PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}  # ours, Lightning's
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def accelerator(name: str, gpu: int = 0) -> str:
    """Torch's device type for Lightning's `auto`, `gpu`, `cuda`, `mps` or `cpu`.

    Warns once if `auto` ends on the CPU although there is an NVIDIA GPU. Refuses `gpu` and `cuda` without one, and
    a GPU of this number that this torch has no code for.
    """
    if name in ("auto", "gpu", "cuda"):
        asked, mps = name, name != "cuda" and torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        if name == "cpu" and nvidia():
            cuda = torch.version.cuda
            reason = f"the driver is too old for its CUDA {cuda}, or broken" if cuda else "it is built without CUDA"
            unused = (
                f"there is an NVIDIA GPU, but this torch {torch.__version__} cannot use it: {reason}. Update the "
                f"driver, or install a build that fits it (https://pytorch.org/get-started): {OLDER_CUDA}"
            )
            require(asked == "auto", f"trainer.accelerator={asked}: {unused}")
            _warn_once(f"!! On the CPU: {unused}")
        require(name != "cpu" or asked == "auto", f"trainer.accelerator={asked}: there is no GPU. Take trainer=cpu.")
    if name == "cuda":
        # sm_75 is (7, 5), sm_120 is (12, 0), sm_90a is (9, 0)
        built = [divmod(int(n), 10) for n in re.findall(r"\bsm_(\d+)", " ".join(torch.cuda.get_arch_list()))]
        oldest, this = min(built, default=(0, 0)), torch.cuda.get_device_capability(gpu)
        require(
            this >= oldest,
            f"{torch.cuda.get_device_name(gpu)} has compute capability {this[0]}.{this[1]}, but torch "
            f"{torch.__version__} supports {oldest[0]}.{oldest[1]} and later. Install an older build, {OLDER_CUDA}, "
            "or take trainer=cpu.",
        )
    return name


def nvidia() -> bool:
    """Whether there is an NVIDIA GPU that CUDA_VISIBLE_DEVICES does not hide, even if torch cannot use it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (any(path.exists() for path in NVIDIA_FILES) or shutil.which("nvidia-smi") is not None)


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def native(accelerator: str, gpu: int = 0) -> list[str]:
    """The precisions that a device (`cpu`, `cuda`, `mps`) has in hardware, the one to prefer first.

    Emulated bf16 is 44 to 499 times slower than float32 on a CPU (pytorch#146508).
    """
    if accelerator == "cuda":
        capability = torch.cuda.get_device_capability(gpu)
        bf16 = ["bf16"] if torch.version.hip or capability >= (8, 0) else []
        tensor_cores = capability >= (7, 0)
        return [*bf16, "fp16", "float32"] if tensor_cores else [*bf16, "float32", "fp16"]
    if accelerator == "mps":
        return ["float32", "bf16"]
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch has none
    return [*(["bf16"] if any(map(able.get, ("avx512_bf16", "amx_bf16", "bf16"))) else []), "float32"]


def precision(name: str, accelerator: str, gpu: int = 0) -> str:
    """Lightning's name for `auto`, `float32`, `bf16` or `fp16`; weights and optimizer are float32 in any case."""
    possible = native(accelerator, gpu)
    require(
        name in ("auto", *possible),
        f"precision={name}: on this device ({accelerator}) it must be one of auto, {', '.join(possible)}.",
    )
    return PRECISIONS[possible[0] if name == "auto" else name]


def dtype(recorded: object, name: str, accelerator: str) -> torch.dtype:
    """The autocast type of a trained network: its run's, or float32, with a warning, if this device does not have it.

    The run's is `recorded`, Lightning's name in its summary; if that is None, what its config has as `precision`.
    """
    name = next((key for key, value in PRECISIONS.items() if value == recorded), name)
    if name not in ("auto", *native(accelerator)):
        log.warning(
            "!! The run computed in %s, which this device (%s) does not have: here it is float32.", name, accelerator
        )
        name = "float32"
    return DTYPES[precision(name, accelerator)]


def memory_format(accelerator: str) -> torch.memory_format:
    """The memory format of networks and images."""
    # On MPS, batch norm's backward pass was wrong in channels_last, or crashed, up to torch 2.12 (pytorch#175189).
    return torch.contiguous_format if accelerator == "mps" else torch.channels_last


def keep_memory() -> None:
    """Let glibc keep freed memory, which the kernel would clear again at every step; see `benchmarks/throughput.py`."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks from the heap too
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def cores() -> int:
    """The cores that this process may use, by affinity, a container's quota, and its share (torchrun, a sweep)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no file, or the quota is "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        count = min(count, quota // period)
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def loaders(accelerator: str) -> int:
    """Processes that make batches for training: on a CPU the cores are busy with the network."""
    return min(cores(), 8) if accelerator == "cuda" else 0


def free_memory() -> float:
    """Bytes that the kernel could give away, but at most a container's limit; infinite where there is no saying."""
    info = MEMORY.read_text() if MEMORY.exists() else ""
    free = re.search(r"^MemAvailable: +(\d+) kB", info, re.MULTILINE)
    with suppress(OSError, ValueError):  # no file, or no limit
        return min(int(free[1]) * 1024 if free else math.inf, int(MEMORY_LIMIT.read_text()))
    return int(free[1]) * 1024 if free else math.inf


def gpus() -> list[str]:
    """The name in CUDA_VISIBLE_DEVICES of each GPU that this process may use."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(n) for n in range(count)]


def describe(gpu: int = 0) -> dict[str, str | int]:
    """Processor, cores and torch threads; the GPU with this number and CUDA's versions, if there is one."""
    info = CPU_INFO.read_text() if CPU_INFO.exists() else ""
    model = re.search(r"^model name\s*: *(.+)", info, re.MULTILINE)
    facts: dict[str, str | int] = {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "bf16": str("bf16" in native("cpu")).lower(),
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
    """The device that computed in a few words, from what `describe` returns and its `accelerator`."""
    if facts.get("accelerator") == "cuda":
        return str(facts["gpu"])
    return f"{facts['cpu']}, {facts['cores']} cores{', MPS' if facts.get('accelerator') == 'mps' else ''}"
