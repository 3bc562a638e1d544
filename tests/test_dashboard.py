from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cifar_pl.data.images import Source
from cifar_pl.training.callbacks import Dashboard, dashboard
from tests.test_classifier import loaded, make, trainer


def test_confusion_is_drawn_now_and_then_and_for_the_last_validation(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = TensorBoardLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, max_epochs=6, logger=board, callbacks=[Dashboard(tmp_path, {})], num_sanity_val_steps=0)
    clock = SimpleNamespace(monotonic=lambda: 4.0 * run.current_epoch)  # an epoch takes four seconds
    monkeypatch.setattr(dashboard, "time", clock)
    run.fit(make(tiny_network), datamodule=loaded(tiny_source))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    assert [e.step for e in events.Images("confusion_matrix_by_epoch")] == [1, 4, 6]
    assert [e.step for e in events.Scalars("val_acc_of/red")] == [1, 2, 3, 4, 5, 6]
