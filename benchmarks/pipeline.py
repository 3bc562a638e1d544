"""Images/s that one core augments, against the same policy in torchvision v2; and with more workers.

`python -m benchmarks.pipeline [--images N] [--rounds N] [--out FILE] [OVERRIDES of train.py]`

Both sides read the same uint8 images in memory through torch's DataLoader in batches of 128. Turns
alternate; medians count. Nothing is trained, so this says how fast the loader could be, not the training.
"""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import common
from benchmarks.common import config, head, median, save, table
from cifar_pl.config.build import build
from cifar_pl.data.datamodule import DataModule
from cifar_pl.machine import hardware

FLIP = v2.RandomHorizontalFlip()


def crop(padding: int) -> v2.Transform:
    """The reflect-padded random crop."""
    return v2.RandomCrop(32, padding=padding, padding_mode="reflect")


# Name: options of aug, and the same policy in torchvision. A quarter of the area is 16 pixels square.
POLICIES: dict[str, tuple[list[str], list[v2.Transform]]] = {
    "none": (["aug=none"], []),
    "light": (["aug=light"], [crop(2), FLIP]),
    "standard": (["aug=standard"], [crop(4), FLIP]),
    "cutout": (["aug=cutout"], [crop(4), FLIP, v2.RandomErasing(1.0, (0.25, 0.25), (1.0, 1.0), 120)]),
    "affine": (
        ["aug=affine"],
        [v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)],
    ),
    "light, shrunk to 24 pixels": (["aug=light", "data.start_share=0.5"], [crop(2), FLIP, v2.Resize(24)]),
}


class Torchvision(Dataset[tuple[torch.Tensor, int]]):
    """Images with a torchvision policy, one at a time, as its documentation shows."""

    def __init__(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], steps: list[v2.Transform]) -> None:
        """Serve uint8 (N, H, W, 3)."""
        self._pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        self._labels, self._transform = labels, v2.Compose([*steps, v2.Identity()])

    def __len__(self) -> int:
        """The number of images."""
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """One image and its class."""
        return self._transform(self._pixels[row]), int(self._labels[row])


def speed(loader: Iterable[Any], images: int) -> float:
    """Images/s over about `images` images, after the first batch, which starts the workers."""
    stream = iter(loader)
    next(stream)
    begin, seen = time.perf_counter(), 0
    for batch in stream:
        seen += len(batch[1])
        if seen >= images:
            break
    return seen / (time.perf_counter() - begin)


def ours(overrides: list[str], workers: int = 0) -> DataModule:
    """The data module of `train.py`."""
    data: DataModule = build(config(["data.start_share=0", f"data.num_workers={workers}", *overrides]).datamodule)
    data.load()
    return data


def main() -> None:
    """Measure and compare."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=12800, help="in one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="of train.py, such as data=image_folder data.root=...")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    policies = {}
    for name, (options, steps) in POLICIES.items():
        data = ours([*args.overrides, *options])
        train = data.load().train
        theirs = DataLoader(Torchvision(train.pixels, train.labels, steps), 128, shuffle=True)
        turns = [(speed(data.train_dataloader(), args.images), speed(theirs, args.images)) for _ in range(args.rounds)]
        policies[name] = {
            "ours": median([mine for mine, _ in turns]),
            "torchvision": median([other for _, other in turns]),
            "ratio": median([mine / other for mine, other in turns]),
        }
    counts = [n for n in (1, 2, 4, 8, 16) if n <= hardware.cores()]
    loaders = {n: ours(args.overrides, n).train_dataloader() for n in counts}
    trials = [{n: speed(loader, n * args.images) for n, loader in loaders.items()} for _ in range(args.rounds)]
    workers = {n: median([trial[n] for trial in trials]) for n in counts}
    record = {
        "benchmark": "pipeline",
        **head("benchmarks.pipeline"),
        "images_per_second_per_core": policies,
        "images_per_second_by_workers": workers,
        "seconds": time.perf_counter() - start,
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """One row for each augmentation."""
    rows = [
        (name, f"{p['ours']:,.0f}", f"{p['torchvision']:,.0f}", f"{p['ratio']:.2f}")
        for name, p in r["images_per_second_per_core"].items()
    ]
    many = ", ".join(f"{n}: {value:,.0f}" for n, value in r["images_per_second_by_workers"].items())
    return (
        table(("`aug`", "images/s per core", "torchvision v2", "ratio"), rows)
        + f"\n\nThe default augmentation by number of loader workers, images/s: {many}."
    )


if __name__ == "__main__":
    main()
