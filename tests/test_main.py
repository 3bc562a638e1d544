"""`cifar-pl COMMAND`: every command by its name, and what a shell may put next."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from cifar_pl.cli import main, train


@pytest.mark.parametrize("name", [name for name in main.COMMANDS if name != "train"])
def test_every_command_explains_itself_on_one_screen(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cifar-pl", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main.main()
    text = capsys.readouterr().out
    assert text.startswith(f"usage: cifar-pl {name} ")
    assert len(text.splitlines()) <= 40
    assert import_module(f"cifar_pl.{name}").__doc__.startswith(f"`cifar-pl {name}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cifar-pl ", set(main.COMMANDS)),
        ("cifar-pl pre", set(main.COMMANDS)),
        ("cifar-pl predict ", set()),
        ("cifar-pl train sche", {"scheduler=", "scheduler."}),
        ("cifar-pl train -m aug=cutout data=d", {"data=digits"}),
    ],
)
def test_a_shell_is_told_commands_and_overrides(
    line: str, words: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr(sys, "argv", ["cifar-pl", "-sc", "query=bash"])
    assert main.main() == 0
    assert {*capsys.readouterr().out.split()} == words


def test_train_takes_groups_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "aug").mkdir()
    (tmp_path / "aug/mine.yaml").write_text("defaults: [light]\nturn: {_target_: albumentations.Rotate, limit: 5}\n")
    typed = ["train", "--config-dir", str(tmp_path), "aug=mine", "--cfg", "job", "--package", "aug"]
    monkeypatch.setattr(sys, "argv", ["cifar-pl", *typed])
    assert main.main() == 0
    shown = capsys.readouterr().out
    assert "limit: 5" in shown
    assert "flip:" in shown
    assert sys.argv[0] == train.__file__  # with which Lightning starts further processes


def test_an_unknown_command_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cifar-pl", "predcit"])
    assert main.main() == 1
    assert "predcit: there is no such command. Did you mean predict?" in capsys.readouterr().err
