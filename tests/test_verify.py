"""A run's first steps again: the same losses, or the news that they are not; and nothing of a stranger's is run."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cifar_pl import verify
from cifar_pl.runs import files
from tests.conftest import Ask


@pytest.mark.slow
def test_the_first_steps_are_the_same_bits_or_the_difference_is_told(
    own_run: Path, ask: Ask, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_run.rglob("*")}
    record = files.read_json(own_run / "first_steps.json")
    assert len(record["losses"]) == 18  # two epochs of nine
    assert ask(verify.main, own_run) == 0
    assert capsys.readouterr().out.count("none\n") == 18
    assert "its first 18 steps are the same to the last bit" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in own_run.rglob("*")} == before

    record["losses"][6] += 1e-7
    record["on"]["threads"] = 64
    files.write_json(own_run / "first_steps.json", record)
    assert ask(verify.main, own_run) == 1
    said = capsys.readouterr()
    assert "-1.0e-07" in said.out
    assert "these are not the losses that the run recorded. threads was 64, is 1." in said.err


@pytest.mark.slow
def test_on_a_gpu_the_losses_are_the_same_roughly(
    own_run: Path, ask: Ask, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    record = files.read_json(own_run / "first_steps.json")
    record["losses"][6] *= 1 + 1e-5
    for accelerator in ("cuda", "mps", "cpu"):  # the last on a machine that has a GPU, too
        record["on"] |= {"gpu": "Card", "accelerator": accelerator}
        files.write_json(own_run / "first_steps.json", record)
        assert ask(verify.main, own_run) == (accelerator == "cpu")
    assert caplog.text.count("steps are the same but for rounding, which may grow: on GPUs no bits are promised.") == 2
    record["on"]["accelerator"] = "cuda"
    for step, factor in ((0, 1.02), (6, 3.0)):
        wrong = {**record, "losses": [v * factor if n == step else v for n, v in enumerate(record["losses"])]}
        files.write_json(own_run / "first_steps.json", wrong)
        assert ask(verify.main, own_run) == 1
    assert "accelerator was cuda, is cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key", ["classifier.optimizer._target_", "model._target_", "trainer._target_", "datamodule.augment.affine._target_"]
)
def test_nothing_is_built_that_this_projects_configs_do_not_name(
    own_run: Path, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    cfg = OmegaConf.load(own_run / "config.yaml")
    OmegaConf.update(cfg, key, "pathlib.Path.touch")
    OmegaConf.update(cfg, key.replace("_target_", "_args_"), [str(tmp_path / "owned")])
    OmegaConf.save(cfg, own_run / "config.yaml")
    assert ask(verify.main, own_run) == 1
    assert "names pathlib.Path.touch" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()


def test_what_was_not_recorded_cannot_be_compared(own_run: Path, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    (own_run / "first_steps.json").write_text('{"losses": 3}')
    assert ask(verify.main, own_run) == 1
    assert "is not a run of this version" in capsys.readouterr().err
    (own_run / "first_steps.json").unlink()
    assert ask(verify.main, own_run) == 1
    assert "first_steps.json is missing" in capsys.readouterr().err
