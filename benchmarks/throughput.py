"""Training speed of `train.py` against the usual loop and against a bare loop, in one run.

`python -m benchmarks.throughput [--rounds N] [--out FILE] [OVERRIDES of train.py]`

Each contestant is a process of its own. They take turns of some ten seconds, so that a machine that
drifts from minute to minute drifts for all of them, and the median over the rounds counts.

* usual: as the reference projects train: PIL images, torchvision transforms, DataLoader with workers,
  float32, contiguous, plain PyTorch.
* bare: nothing but the network and the optimizer on batches that are ready, with train.py's precision,
  memory format, compile and allocator settings.
* train: `python train.py` itself, with augmentation, metrics, logging, progress bar and callbacks, in a
  pseudo-terminal; at one image size throughout, so that all three do the same arithmetic.
"""

import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning import Callback
from torch.utils.data import DataLoader, Dataset, dataloader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms as T

from benchmarks.common import config, head, median, save, table
from benchmarks.turns import Contestant, Turns, parser, synchronize, take, take_turns
from cifar_pl.config.build import build
from cifar_pl.machine import hardware
from cifar_pl.models.resnet import resnet

STEPS = {"usual": 12, "bare": 20, "train": 20}  # in one turn on a CPU: some ten seconds each
MORE = 20  # times as many on a GPU
ONE_SIZE = "data.start_share=0"


def usual(turns: Turns, overrides: list[str], steps: int) -> None:
    """The references' loop."""
    cfg = config(overrides)
    source = build(cfg.data.source)()
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    transform = T.Compose(
        [T.RandomCrop(cfg.data.image_size, padding=4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(mean, std)]
    )

    class Cifar(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(source.train)

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(source.train.pixels[row])), int(source.train.labels[row])

    device = hardware.accelerator(cfg.trainer.accelerator)
    loader = DataLoader(
        Cifar(), cfg.data.batch_size, shuffle=True, num_workers=min(hardware.cores(), 4), pin_memory=device == "cuda"
    )
    network = resnet(len(source.classes), mean, std)
    network.normalize = torch.nn.Identity()  # its images are normalised already
    network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def batches() -> Any:
        while True:
            yield from loader

    stream = batches()

    def step() -> int:
        image, label = (part.to(device, non_blocking=True) for part in next(stream))
        optimizer.zero_grad()
        logits = network(image)
        loss = F.cross_entropy(logits, label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item(), (logits.argmax(1) == label).sum().item()  # for their progress bars
        return len(label)

    take_turns(turns, step, steps)


def bare(turns: Turns, overrides: list[str], steps: int) -> None:
    """Network and optimizer alone."""
    cfg = config(overrides)
    hardware.keep_memory()
    data = build(cfg.datamodule)
    classes = data.load().classes
    device = hardware.accelerator(cfg.trainer.accelerator)
    dtype = hardware.DTYPES[hardware.precision(cfg.precision, device)]
    del cfg.model.weights  # no argument of the network
    network = build(cfg.model)(num_classes=len(classes), mean=data.mean, std=data.std)
    network.to(device, memory_format=hardware.memory_format(device))
    if cfg.compile:
        network.compile(dynamic=False)
    optimizer = build(cfg.optimizer)(network.parameters())
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(16), strict=False)]
    resident = [(b.image.to(device), b.label.to(device)) for b in batches]
    turn = iter(range(1 << 60))

    def step() -> int:
        image, label = resident[next(turn) % len(resident)]
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = network(image)
        loss = F.cross_entropy(logits.float(), label, label_smoothing=cfg.classifier.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return len(label)

    take_turns(turns, step, steps)


class TakeTurns(Callback):
    """Takes the turns from inside `python train.py`, and clocks what its loader makes it wait."""

    def __init__(self, orders: int, answers: int, steps: int) -> None:
        """Talk through these file descriptors; `steps` make a turn."""
        self._turns, self._steps, self._done = Turns(orders, answers), steps, 0
        self._waited = self._begin = self._before = 0.0
        fetch = dataloader._BaseDataLoaderIter.__next__

        def timed(loader: Any) -> Any:
            begin = time.perf_counter()
            try:
                return fetch(loader)
            finally:
                self._waited += time.perf_counter() - begin

        dataloader._BaseDataLoaderIter.__next__ = timed  # type: ignore[assignment,method-assign]

    def on_train_batch_start(self, *args: Any) -> None:
        """Start-up is over when the first step begins."""
        if self._done == 0:
            self._turns.report()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After `steps` steps it is the others' turn; the very first step warms up."""
        if self._done % self._steps == 0:
            synchronize()
            if self._done:
                seconds, wait = time.perf_counter() - self._begin, self._waited - self._before
                self._turns.report(images=self._steps * len(batch.label), seconds=seconds, wait=wait)
            self._turns.wait()
            self._begin, self._before = time.perf_counter(), self._waited
        self._done += 1


def matrix_peak(device: str) -> float:
    """bf16 matrix multiplications per second, in FLOP/s, the best of ten; of random numbers, as a network's are."""
    n = 2048 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device).bfloat16()
    best = float("inf")
    for _ in range(10):
        synchronize()
        begin = time.perf_counter()
        a @ a
        synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * n**3 / best


def flops(size: int) -> int:
    """FLOPs of one image's forward and backward pass through the network."""
    network = resnet(10, [0.5] * 3, [0.25] * 3)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, 3, size, size, dtype=torch.uint8)).sum().backward()
    return int(counter.get_total_flops() // 2)


def help_seconds() -> float:
    """Seconds of `python train.py --help`, the median of three."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "train.py", "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def main() -> None:
    """Let them take turns, and compare."""
    args = parser(__doc__, STEPS, 7).parse_args()
    overrides = [ONE_SIZE, *args.overrides]
    if args.contestant:
        orders, answers, steps = args.pipe
        {"usual": usual, "bare": bare}[args.contestant](Turns(orders, answers), args.overrides, steps)
        return
    start = time.perf_counter()
    help_takes = help_seconds()
    cfg = config(overrides)
    device = hardware.accelerator(cfg.trainer.accelerator)
    more = 1 if device == "cpu" else MORE
    contestants = [Contestant(name, overrides, more * n, "benchmarks.throughput") for name, n in STEPS.items()]
    take(contestants, args.rounds)
    turns = {c.name: [turn["images"] / turn["seconds"] for turn in c.turns] for c in contestants}
    speed = {name: median(values[1:]) for name, values in turns.items()}
    ratios = {
        name: median([ours / other for ours, other in zip(turns["train"][1:], turns[name][1:], strict=True)])
        for name in ("usual", "bare")
    }
    train = contestants[-1]
    peak, size = matrix_peak(device), cfg.data.image_size
    record = {
        "benchmark": "throughput",
        **head("benchmarks.throughput", device),
        "rounds": args.rounds - 1,
        "images_per_second": speed,
        "turns": turns,
        "train_over_usual": ratios["usual"],
        "train_over_bare": ratios["bare"],
        "data_wait_share": median([turn["wait"] / turn["seconds"] for turn in train.turns[1:]]),
        "peak_memory_gib": {c.name: max(turn["memory"] for turn in c.turns) / 2**30 for c in contestants},
        "help_seconds": help_takes,
        "first_step_seconds": train.start_up,
        "bf16_matrix_peak_tflops": peak / 1e12,
        "share_of_matrix_peak": speed["train"] * flops(size) / peak,
        "seconds": time.perf_counter() - start,
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """One row for each contestant."""
    names = {
        "usual": "the usual loop: PIL, torchvision, float32",
        "bare": "a bare loop on ready batches, our precision",
        "train": "`python train.py`",
    }
    over = {"usual": f"{r['train_over_usual']:.2f}", "bare": f"{r['train_over_bare']:.3f}", "train": "1"}
    rows = [
        (text, f"{r['images_per_second'][name]:.0f}", over[name], f"{r['peak_memory_gib'][name]:.2f}")
        for name, text in names.items()
    ]
    return (
        table(("contestant", "images/s", "`train.py` over it", "peak memory, GiB"), rows)
        + f"\n\n`train.py` waits for data {r['data_wait_share']:.1%} of the time and runs at "
        f"{r['share_of_matrix_peak']:.0%} of what bf16 matrix products reach on this machine "
        f"({r['bf16_matrix_peak_tflops']:.2f} TFLOP/s). `--help` takes {r['help_seconds']:.1f} s; the first step "
        f"begins after {r['first_step_seconds']:.0f} s. Medians of {r['rounds']} turns."
    )


if __name__ == "__main__":
    main()
