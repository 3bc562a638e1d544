import subprocess
from pathlib import Path

import pytest

from cifar_pl.runs import summary as summary_file
from cifar_pl.runs.summary import provenance, training

COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "seconds", "images_per_second")
ROWS = [
    dict(zip(COLUMNS, values, strict=True))
    for values in [
        (1, 2.0, 0.3, 1.8, 0.4, 5.0, 90.0),
        (2, 1.0, 0.6, 0.9, 0.8, 4.0, 100.0),
        (3, 0.5, 0.9, 0.85, 0.7, 4.0, 110.0),
    ]
]


def test_the_best_epoch_is_the_monitors() -> None:
    by_loss = training(ROWS, "val/loss", target_acc=0.75)
    assert by_loss["val"] == {"best_acc": 0.7, "best_loss": 0.85, "best_epoch": 3}
    summary = training(ROWS, "val/acc", target_acc=0.75)
    assert summary["val"] == {"best_acc": 0.8, "best_loss": 0.9, "best_epoch": 2}
    assert (summary["first_epoch_at_target"], summary["epochs"]) == (2, 3)
    assert (summary["seconds"], summary["images_per_second"]) == (13.0, 100.0)


def test_without_validation_there_is_no_best_epoch() -> None:
    rows = [{k: v for k, v in row.items() if not k.startswith("val/")} for row in ROWS]
    summary = training(rows, "val/acc", 0.75)
    assert summary["val"] is None
    assert summary["first_epoch_at_target"] is None


def test_the_commit_is_of_this_code_and_not_of_what_it_is_installed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "somebody's"], check=True)
    installed = tmp_path / "env/cifar_pl/runs/summary.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(summary_file, "__file__", str(installed))
    assert provenance()["git"] is None
    subprocess.run([*git, "add", "env"], check=True)
    assert provenance()["git"]["dirty"]
