import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from cifar_pl.data.images import Source
from cifar_pl.training.callbacks import Progress, progress
from cifar_pl.training.classifier import Mean
from tests.test_classifier import loaded, make, trainer


def test_the_device_is_asked_when_the_bar_is_drawn_and_that_is_seldom(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ticks, compute = list[float](), itertools.count(0, 0.002), Mean.compute
    clock = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)
    monkeypatch.setattr(progress, "time", clock)  # two milliseconds between any two steps
    monkeypatch.setattr(Mean, "compute", lambda self: asked.append(1) or compute(self))
    bar = Progress()
    run = trainer(tmp_path, max_epochs=1, enable_progress_bar=True, callbacks=[bar], limit_val_batches=0)
    run.fit(make(tiny_network), datamodule=loaded(tiny_source, val_size=0, batch_size=1))
    assert bar.train_progress_bar.n == 90  # the last step is drawn
    drawn = 1 + 1 + 1  # the first step, the last one, the end of the epoch; 0.25 s are more than these 90 steps
    assert len(asked) == 2 * (drawn - 1)  # loss and accuracy; at the epoch's end they are known
