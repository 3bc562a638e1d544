"""What `train.py` adds to a bare loop, per step and per epoch, measured with a network that costs next to nothing.

`python -m benchmarks.overhead [--rounds N] [--out FILE] [OVERRIDES of train.py]`

Three processes take turns of an epoch of 100 steps of 128 images, and the median over the rounds counts:

* bare: a convolution, a pool, a linear layer and the optimizer, on batches that are ready; then the
  forward passes of the validation.
* lightning: the same network and batches in a bare `Trainer`, so that its share can be told from ours.
* train: `python train.py` with all default callbacks and loggers, in a pseudo-terminal, with a
  validation after every epoch; its loader hands out batches that are ready, too (on a GPU, workers load).

An epoch is the time between its last step and the next one's first. Its checkpoints are small: those of
ResNet18 are 90 MB and take longer.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.common import config, head, median, save, table
from benchmarks.turns import Contestant, Turns, parser, synchronize, take
from cifar_pl.config import parts
from cifar_pl.config.build import build
from cifar_pl.data.batches import Batch, ImageDataset, Key
from cifar_pl.data.images import Images, Source
from cifar_pl.machine import hardware
from cifar_pl.models.resnet import Normalize

STEPS, VALIDATED, BATCH = 100, 1000, 128
READY = 16  # batches
KINDS = ("step", "epoch")
TINY = (
    "model._target_=benchmarks.overhead.Tiny",
    "data=digits",
    "data.source._target_=benchmarks.overhead.noise",
    f"data.val_size={VALIDATED}",
    f"data.batch_size={BATCH}",
    "data.start_share=0",
    "whiten=false",
    "callbacks.misclassified.layers=[conv]",
)
HEADER = ("median (quartiles)", "ms per step", "ms per epoch")


class Tiny(nn.Module):
    """The smallest network that has a heat map."""

    def __init__(self, num_classes: int, mean: Sequence[float], std: Sequence[float], **of_resnet18: Any) -> None:
        super().__init__()
        self.normalize, self.conv = Normalize(mean, std), nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) to logits (B, classes)."""
        logits: torch.Tensor = self.fc(self.conv(self.normalize(image)).relu().mean((2, 3)))
        return logits


def noise(image_size: int) -> Source:
    """Random images, ten classes."""
    rng, n = np.random.default_rng(0), STEPS * BATCH + VALIDATED
    train, test = (
        Images(rng.integers(0, 256, (k, image_size, image_size, 3), np.uint8), np.arange(k) % 10) for k in (n, 1000)
    )
    return Source(train, test, tuple("abcdefghij"))


def ready(overrides: list[str]) -> tuple[nn.Module, Callable[..., torch.optim.Optimizer], list[Any], list[Any], str]:
    """Network, optimizer, batches to train on and to validate on the device, and the precision, of a config."""
    cfg = config(overrides)
    hardware.keep_memory()
    data = build(cfg.datamodule)
    data.load()
    device = hardware.accelerator(cfg.trainer.accelerator)
    train, val = (
        [(b.image.to(device), b.label.to(device)) for b, _ in zip(loader, range(READY), strict=False)]
        for loader in (data.train_dataloader(), data.val_dataloader())
    )
    network = parts.network(cfg, data, device).to(device)
    return network, build(cfg.optimizer), train, val, hardware.precision(cfg.precision, device)


def bare(turns: Turns, overrides: list[str]) -> None:
    """Network and optimizer alone."""
    network, make, train, val, precision = ready(overrides)
    optimizer, device = make(network.parameters()), train[0][0].device.type
    dtype = hardware.DTYPES[precision]
    turns.report()
    while True:
        turns.wait()
        begin = time.perf_counter()
        for n in range(STEPS):
            image, label = train[n % len(train)]
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                logits = network(image)
            loss = F.cross_entropy(logits.float(), label)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        synchronize()
        trained = time.perf_counter()
        network.eval()
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            for image, _ in val:
                network(image)
        network.train()
        synchronize()
        turns.report(step=(trained - begin) / STEPS, epoch=time.perf_counter() - trained)


def lightning(turns: Turns, overrides: list[str]) -> None:
    """The same in a bare `Trainer`."""
    network, make, train, val, precision = ready(overrides)

    class Module(LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return F.cross_entropy(network(batch[0]).float(), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            network(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make(network.parameters())

    parts: Any = ([train[n % len(train)] for n in range(STEPS)], val)
    loaders: Any = [DataLoader(part, batch_size=None) for part in parts]
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    arguments: Any = {"max_epochs": -1, "precision": precision, "num_sanity_val_steps": 0, "devices": 1, **off}
    Trainer(**arguments, callbacks=[TakeTurns(turns)]).fit(Module(), *loaders)


class TakeTurns(Callback):
    """An epoch and what follows it, to the first step of the next one, is a turn; the very first warms up."""

    def __init__(self, turns: Turns | None = None, orders: int = 0, answers: int = 0, steps: int = 0) -> None:
        """Talk through `turns`, or these file descriptors."""
        self._turns, self._begin = turns or Turns(orders, answers), 0.0
        get, kept, turn = ImageDataset.__getitems__, list[Batch](), itertools.count()

        def ready_made(images: ImageDataset, keys: Sequence[Key]) -> Batch:
            if images.augment is None:  # validation
                return get(images, keys)
            if len(kept) < READY:
                kept.append(get(images, keys))
            return kept[next(turn) % len(kept)]

        ImageDataset.__getitems__ = ready_made  # type: ignore[method-assign,assignment]

    def on_train_batch_start(self, *args: Any) -> None:
        """Read the clock before the first step and before the last."""
        batch_idx = args[3]
        if batch_idx not in (0, STEPS - 1):
            return
        synchronize()
        now = time.perf_counter()
        if batch_idx:
            self._step, self._last = (now - self._begin) / batch_idx, now
            return
        if self._begin:
            self._turns.report(step=self._step, epoch=now - self._last - self._step)
        else:
            self._turns.report()
        self._turns.wait()
        self._begin = time.perf_counter()


def spread(values: list[float]) -> dict[str, Any]:
    """Median and quartiles in milliseconds."""
    low, _, high = (1000 * q for q in statistics.quantiles(values, n=4))
    return {"median": 1000 * median(values), "quartiles": [low, high], "values": values}


def tables(record: dict[str, Any]) -> str:
    """One row for each contestant, and for what each adds to the bare loop."""
    rows = [
        (
            name,
            *(
                f"{part['median']:.2f} ({part['quartiles'][0]:.2f} to {part['quartiles'][1]:.2f})"
                for part in ms.values()
            ),
        )
        for name, ms in record["ms"].items()
    ]
    busy = f"load average {record['load_average']:.1f}"
    return table(HEADER, rows) + f"\n\nMedians of {record['rounds']} turns, {busy}."


def main() -> None:
    """Let them take turns, and compare."""
    args = parser(__doc__, ("bare", "lightning"), 21).parse_args()
    if args.contestant:
        {"bare": bare, "lightning": lightning}[args.contestant](Turns(*args.pipe[:2]), args.overrides)
        return
    start, overrides = time.perf_counter(), [*TINY, *args.overrides]
    contestants = [Contestant(n, overrides, STEPS, "benchmarks.overhead") for n in ("bare", "lightning", "train")]
    take(contestants, args.rounds)
    turns = {c.name: c.turns[1:] for c in contestants}
    for name in ("lightning", "train"):
        pairs = zip(turns[name], turns["bare"], strict=True)
        turns[f"{name} - bare"] = [{kind: t[kind] - b[kind] for kind in KINDS} for t, b in pairs]
    ms = {name: {kind: spread([t[kind] for t in values]) for kind in KINDS} for name, values in turns.items()}
    record = {
        "benchmark": "overhead",
        **head("benchmarks.overhead", hardware.accelerator(config(overrides).trainer.accelerator)),
        "rounds": args.rounds - 1,
        "load_average": os.getloadavg()[1],
        "ms": ms,
        "seconds": time.perf_counter() - start,
    }
    print(tables(record))
    save(args.out, record)


if __name__ == "__main__":
    main()
