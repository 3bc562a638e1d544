import json
from pathlib import Path

import pytest

from benchmarks import accuracy, results


def test_the_tables_of_the_documents_are_those_of_the_records() -> None:
    texts = {path: path.read_text() for path in results.DOCUMENTS}
    lines = [line for text in texts.values() for line in text.splitlines()]
    names = {line.split()[2] for line in lines if line.startswith("<!-- results:")}
    assert names == results.TABLES.keys() | results.OTHERS.keys()
    for path, text in texts.items():
        assert results.filled(text) == text, f"python -m benchmarks.results would change {path.name}"


def finished(
    directory: Path, seed: int, acc: float, commit: str = "abc", dirty: bool = False, change: str = ""
) -> Path:
    summary = {
        "overrides": ["experiment=epochs10", *([change] if change else []), f"seed={seed}"],
        "git": {"commit": commit, "dirty": dirty},
        "hardware": {},
        "versions": {},
        "protocol": {},
        "epochs": 10,
        "seed": seed,
        "seconds": 60.0,
        "images_per_second": 100.0,
        "test": {"acc": acc, "acc_tta": acc},
        "val": {"best_acc": acc} if change else None,
    }
    directory.mkdir()
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def test_runs_with_several_seeds_become_one_record(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(seed), seed, acc) for seed, acc in enumerate((0.90, 0.91, 0.92))]
    record = accuracy.record(runs, "some images")
    assert record["command"] == "python train.py experiment=epochs10"
    assert (record["n"], record["seeds"]) == (3, [0, 1, 2])
    assert accuracy.percent(record["test_acc"]) == "91.00 ± 1.00"
    assert accuracy.percent(accuracy.record(runs[:1], "")["test_acc_tta"]) == "90.00"


@pytest.mark.parametrize("other", [{"commit": "def"}, {"dirty": True}])
def test_runs_of_other_or_unknown_code_are_no_record(tmp_path: Path, other: dict[str, object]) -> None:
    runs = [finished(tmp_path / "0", 0, 0.9), finished(tmp_path / "1", 1, 0.9, **other)]  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="one clean commit"):
        accuracy.record(runs, "")


def test_a_change_is_compared_with_the_recipe_seed_by_seed(tmp_path: Path) -> None:
    held_out = "data.val_size=5000"
    base = [finished(tmp_path / f"a{seed}", seed, acc, change=held_out) for seed, acc in enumerate((0.90, 0.92, 0.91))]
    no = f"{held_out} whiten=false"
    other = [finished(tmp_path / f"b{n}", n, acc, change=no) for n, acc in ((2, 0.92), (0, 0.93))]
    records = {"unchanged": accuracy.record(base, ""), "usual_filters": accuracy.record(other, "")}
    unchanged, changed = accuracy.tried({"data": "some images", "changes": records}).splitlines()[2:4]
    assert unchanged == "| unchanged | 91.00 ± 1.00 |  | 3 |"
    assert changed == "| `whiten=false` | 92.50 ± 0.71 | +2.00 ± 1.41 | 2 |"  # 92 - 91 and 93 - 90
