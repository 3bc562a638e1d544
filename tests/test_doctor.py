"""What `doctor` says of this machine, timed with a network that costs nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from cifar_pl import doctor
from tests.conftest import Ask


def test_every_line_is_told_with_what_to_change(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "SPACE", float("inf"))
    assert (
        ask(
            doctor.main, "model._target_=tests.fuzzing.small", "whiten=false", "data.batch_size=16", "data.image_size=8"
        )
        == 0
    )
    printed = capsys.readouterr().out
    for line in (
        "Python ",
        "torch ",
        "GPU +none",
        "bf16 +cpu: (yes|no)",
        "cores +[0-9]+ of",
        "disk ",
        "CIFAR-10 +not in",
    ):
        assert re.search(f"^{line}", printed, re.MULTILINE), printed
    assert "-> CIFAR-10's archive takes 170 MB" in printed
    assert "-> The first run downloads" in printed
    assert re.search(
        r"^cpu .* per step of 16 images, .* of 50,000 images \(CIFAR-10\) takes about \d+ (seconds|minutes) here$",
        printed,
        re.M,
    )
    assert not list(tmp_path.iterdir())


def test_what_is_found_needs_no_change(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").touch()
    assert ("CIFAR-10", str(tmp_path / "cifar-10-python.tar.gz"), "") in doctor._places(config(f"data.root={tmp_path}"))
