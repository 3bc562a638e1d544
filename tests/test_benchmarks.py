"""The benchmarks run to their end and write their records; how fast anything is, is not tested here."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import common
from cifar_pl.data.digits import digits
from tests.conftest import LEAN, ROOT, TINY
from tests.test_hardware import gpus


def record(tmp_path: Path, *arguments: str) -> dict[str, object]:
    command = [sys.executable, "-m", *arguments[:1], "--out", f"{tmp_path}/record.json", *arguments[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "| --- |" in done.stdout
    content: dict[str, object] = json.loads((tmp_path / "record.json").read_text())
    return content


MAINS = [path for path in sorted((ROOT / "benchmarks").rglob("*.py")) if "\ndef main(" in path.read_text()]


@pytest.mark.parametrize("path", MAINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_benchmark_has_a_help(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert str(module.__doc__).strip() in capsys.readouterr().out


@pytest.mark.slow
def test_three_contestants_take_turns(tmp_path: Path) -> None:
    result = record(tmp_path, "benchmarks.throughput", "--rounds", "2", *TINY, "data.batch_size=8")
    assert result["images_per_second"].keys() == {"usual", "bare", "train"}  # type: ignore[attr-defined]
    assert all(len(turns) == 2 for turns in result["turns"].values())  # type: ignore[attr-defined]
    assert 0 < result["data_wait_share"] < 1  # type: ignore[operator]
    assert result["hardware"]["accelerator"] == "cpu"  # type: ignore[index]


def test_a_record_names_the_gpu_if_one_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, (9, 0))
    assert common.machine(common.head("benchmarks.throughput", "cuda")) == "Card 0"
    assert "cores" in common.machine(common.head("benchmarks.pipeline"))


@pytest.mark.slow
def test_labels_that_people_got_wrong_are_found(tmp_path: Path) -> None:
    labels = digits(8).train.labels
    wrong = np.arange(0, len(labels), 20)
    given = labels.copy()
    given[wrong] = (given[wrong] + 1) % 10
    np.savez(tmp_path / "labels.npz", a=given)
    lean = [o for o in LEAN if "dashboard" not in o]  # it keeps the predictions
    run = (*TINY, *lean, "data.val_size=0", "trainer.max_epochs=6")
    result = record(
        tmp_path, "benchmarks.human_labels", str(tmp_path / "labels.npz"), "--names", "a", "--dir", str(tmp_path), *run
    )
    found = result["labels"]["a"]  # type: ignore[index]
    assert (found["images"], found["wrong"]) == (len(labels), len(wrong))
    for rule in ("ours", "cleanlab"):
        of = found[rule]
        share = of["first"]["100"] / min(100, of["suspects"])
        assert share > 3 * len(wrong) / len(labels), "hardly better than chance"
        assert of["wrong"] <= min(of["suspects"], len(wrong))


@pytest.mark.slow
def test_a_folder_of_all_test_images_is_predicted(tmp_path: Path, finished_run: Path) -> None:
    result = record(tmp_path, "benchmarks.predict", str(finished_run), "--rounds", "1")
    assert result["files"] == len(digits(8).test)
    assert result["seconds"].keys() == {"folder", "one_file", "network"}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_every_augmentation_has_its_counterpart(tmp_path: Path) -> None:
    result = record(tmp_path, "benchmarks.pipeline", "--images", "64", "--rounds", "1", "data=digits")
    options = {path.stem for path in (ROOT / "conf/aug").glob("*.yaml")}
    assert options <= result["images_per_second_per_core"].keys()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_what_train_adds_is_told_apart_from_the_bare_loop(tmp_path: Path) -> None:
    result = record(tmp_path, "benchmarks.overhead", "--rounds", "3", "trainer=cpu")
    assert result["ms"].keys() == {"bare", "lightning", "train", "lightning - bare", "train - bare"}  # type: ignore[attr-defined]
    train, bare, added = (result["ms"][name]["step"]["values"] for name in ("train", "bare", "train - bare"))  # type: ignore[index]
    assert added == [t - b for t, b in zip(train, bare, strict=True)]
