"""Images/s of the gallery's heat maps against the loop of pytorch-grad-cam's README; memory over the number.

`python -m benchmarks.gradcam [--images N] [--rounds N] [--out FILE]`

The network is ResNet18 with random weights, the layer that of the gallery, the images random: neither
changes the amount of work. Turns alternate; medians count. Memory is that of a new process per number.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from benchmarks import common
from benchmarks.common import ROOT, head, median, save, table
from cifar_pl.evaluation.gradcam import heat_maps
from cifar_pl.machine import hardware
from cifar_pl.models.resnet import resnet

LAYER = "layer4"
NUMBERS = (25, 100, 400, 1600)


def work(number: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, images and the class that each map explains."""
    torch.manual_seed(0)
    images = torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8)
    return resnet(10, [0.5] * 3, [0.25] * 3).eval(), images, torch.arange(number) % 10


def readme_loop(network: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> None:
    """One image after the other, as pytorch-grad-cam's README has it."""
    for image, number in zip(images, classes.tolist(), strict=True):
        with GradCAM(model=network, target_layers=[network.get_submodule(LAYER)]) as cam:
            cam(input_tensor=image[None], targets=[ClassifierOutputTarget(number)])[0, :]


def main() -> None:
    """Measure and compare."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=100, help="in one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = hardware.accelerator("auto")
    if args.memory_of:
        network, images, classes = work(args.memory_of)
        heat_maps(network, [LAYER], images, classes, device)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    start = time.perf_counter()
    network, images, classes = work(args.images)
    their_network = network.to(device)
    turns = []
    for _ in range(args.rounds + 1):
        begin = time.perf_counter()
        heat_maps(network, [LAYER], images, classes, device)
        middle = time.perf_counter()
        readme_loop(their_network, images.to(device), classes)
        turns.append((args.images / (middle - begin), args.images / (time.perf_counter() - middle)))
    turns = turns[1:]  # the first warms up
    memory = {}
    for number in NUMBERS:
        call = [sys.executable, "-m", "benchmarks.gradcam", "--memory-of", str(number)]
        out = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        memory[number] = int(out) / 2**30
    record = {
        "benchmark": "gradcam",
        **head("benchmarks.gradcam", device),
        "images_per_second": {"ours": median([o for o, _ in turns]), "readme_loop": median([t for _, t in turns])},
        "ratio": median([o / t for o, t in turns]),
        "peak_memory_gib_by_images": memory,
        "seconds": time.perf_counter() - start,
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """Speed, and memory by the number of images."""
    both = r["images_per_second"]
    rows = [(f"{both['ours']:.0f}", f"{both['readme_loop']:.0f}", f"{r['ratio']:.2f}")]
    memory = ", ".join(f"{n}: {value:.2f}" for n, value in r["peak_memory_gib_by_images"].items())
    return (
        table(("heat maps/s", "loop of pytorch-grad-cam's README", "ratio"), rows)
        + f"\n\nPeak memory by number of images, GiB: {memory}."
    )


if __name__ == "__main__":
    main()
