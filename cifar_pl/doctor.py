"""`cifar-pl doctor [OVERRIDE...]`: what this machine can do, how long an epoch takes on it, and what to change."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torchvision.datasets import CIFAR10

from cifar_pl.cli import command
from cifar_pl.config import parts, place
from cifar_pl.data.images import Images, Source
from cifar_pl.errors import UserError
from cifar_pl.machine import hardware
from cifar_pl.training import budget

IMAGES = 50_000  # of an epoch of CIFAR-10
SPACE = 1e9  # bytes; see the advice
MB = 1e6

Line = tuple[str, str, str]  # what, how it is here, and what to change, or an empty string


def main() -> None:
    """Print a line for each thing, and one below it, with an arrow, if it should be changed."""
    parser = argparse.ArgumentParser(prog="cifar-pl doctor", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of train, such as data.batch_size=512")
    typed = [*parser.parse_args().overrides, "data.val_size=0", "data.fold=null", "data.start_share=0"]
    with initialize_config_dir(str(place.CONF), version_base="1.3"):
        cfg = compose("config", typed)
        for what, here, change in chain(_machine(), _places(cfg), _speed(cfg)):
            sys.stdout.write(f"{what:<9} {here}\n" + (f"{'':<7}-> {change}\n" if change else ""))
            sys.stdout.flush()


def _usable() -> tuple[str, str]:
    """`cuda`, `mps`, or an empty string, and why torch cannot use the GPU that there is."""
    try:
        return hardware.accelerator("gpu"), ""
    except UserError as error:
        return "", str(error) if hardware.nvidia() else ""


def _machine() -> Iterator[Line]:
    cuda = torch.version.cuda or torch.version.hip
    yield "Python", f"{platform.python_version()}, {sys.executable}", ""
    yield "torch", f"{torch.__version__}, built {f'with CUDA {cuda}' if cuda else 'without CUDA'}", ""
    facts, (gpu, reason) = hardware.describe(), _usable()
    yield "GPU", str(facts.get("gpu", "MPS")) if gpu else "none that torch can use", reason
    yield "bf16", ", ".join(f"{d}: {'yes' if 'bf16' in hardware.native(d) else 'no'}" for d in ("cpu", gpu) if d), ""
    cores, threads = hardware.cores(), torch.get_num_threads()
    few = f"torch computes with {threads} threads: unset OMP_NUM_THREADS." if threads < cores else ""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0  # Windows has none
    busy = f"other programs compute here, too (load {load:.1f}): what is timed below takes longer." if load > 1 else ""
    yield "cores", f"{cores} of {os.cpu_count()} allowed, {facts['cpu']}", few or busy


def _places(cfg: DictConfig) -> Iterator[Line]:
    free = shutil.disk_usage(".").free
    full = "CIFAR-10's archive takes 170 MB, and a run's checkpoints as much: free some, or start elsewhere."
    yield "disk", f"{free / 1e9:.1f} GB free here", full if free < SPACE else ""
    shm = Path("/dev/shm")  # noqa: S108 - read only
    if shm.is_dir():
        free, workers = shutil.disk_usage(shm).free, hardware.loaders(_usable()[0])
        need = 2 * workers * cfg.data.batch_size * 3 * cfg.data.image_size**2
        short = (
            f"{workers} loaders keep {need / MB:.0f} MB of images in it: docker run --shm-size, or data.num_workers=0."
        )
        yield str(shm), f"{free / MB:.0f} MB free", short if free < need else ""
    if cfg.data.source._target_ == "cifar_pl.data.cifar10.cifar10":
        root = Path(cfg.data.root)
        found = [place for name in (CIFAR10.base_folder, CIFAR10.filename) if (place := root / name).exists()]
        first = "The first run downloads its 170 MB; data=digits needs nothing."
        yield "CIFAR-10", str(found[0]) if found else f"not in {root.resolve()}", "" if found else first


def _speed(cfg: DictConfig) -> Iterator[Line]:
    """A line for each device, from real training steps on noise."""
    size = cfg.data.batch_size
    target = {"_target_": "cifar_pl.doctor.noise", "_partial_": True, "image_size": cfg.data.image_size}
    for device in filter(None, ("cpu", _usable()[0])):
        cfg.trainer.accelerator = device
        cfg.data.source = {**target, "number": size * (budget.WARM_UP + budget.STEPS[device])}
        machine = parts.machine(cfg)
        seconds = budget.step_seconds(cfg, machine, parts.data(cfg, device))
        epoch = seconds * (IMAGES // size)
        about = f"{epoch / 60:.0f} minutes" if epoch > 120 else f"{epoch:.0f} seconds"
        how = f"{1000 * seconds:.0f} ms per step of {size} images, {machine.precision}"
        yield device, f"{how}: an epoch of {IMAGES:,} images (CIFAR-10) takes about {about} here", ""


def noise(number: int, image_size: int) -> Source:
    """So many random training images of ten classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (number, image_size, image_size, 3), np.uint8)
    images = Images(pixels, np.arange(number) % 10)
    return Source(images, images, tuple("0123456789"))


if __name__ == "__main__":
    sys.exit(command.script(main))
