import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from cifar_pl import predict
from cifar_pl.data import pictures
from cifar_pl.inference import saved
from cifar_pl.runs import files
from tests.conftest import Ask
from tests.test_sources import Payload


@pytest.fixture(scope="module")
def test_images(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's test images as files, in folders named like their classes."""
    folder = tmp_path_factory.mktemp("images")
    batch = saved.find(str(finished_run)).data().batch("test", 0, 359)
    for image, label, index in zip(*batch, strict=True):
        path = folder / str(int(label)) / f"{int(index):03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder


@pytest.mark.parametrize("tta", [False, True])
def test_test_images_as_files_give_the_summarys_accuracy(
    own_run: Path, test_images: Path, ask: Ask, caplog: pytest.LogCaptureFixture, tta: bool
) -> None:
    run = saved.find(str(own_run))
    batch = run.data().batch("test", 0, 359)
    right = int((run.logits(batch.image, tta).argmax(1) == batch.label).sum())
    if not tta:
        assert right / 359 == pytest.approx(files.read_json(own_run / "summary.json")["test"]["acc"])
    assert ask(predict.main, own_run, test_images, *(["--tta"] if tta else [])) == 0
    assert f"{right} of 359 images right" in caplog.text
    rows = [m.split()[1:] for m in caplog.messages if len(m.split()) == 11]
    counts = [[int(n) for n in row] for row in rows]
    assert np.trace(counts) == right
    assert np.sum(counts, axis=1).tolist() == np.bincount(batch.label).tolist()


def test_json_csv_and_text_say_the_same(
    finished_run: Path, test_images: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((test_images / "3").iterdir())[:5]
    said = {}
    for format_ in ("--json", "--csv", ""):
        assert ask(predict.main, finished_run, *files, "--top", 2, *([format_] if format_ else [])) == 0
        said[format_] = capsys.readouterr().out
    entries = json.loads(said["--json"])
    assert [entry["path"] for entry in entries] == [str(file) for file in files]
    lines = list(csv.DictReader(io.StringIO(said["--csv"])))
    for entry, line, text in zip(entries, lines, said[""].splitlines(), strict=True):
        first, second = entry["top"]
        assert (line["class_1"], float(line["probability_1"])) == (first["class"], first["probability"])
        assert first["probability"] >= second["probability"]
        assert text == f"{entry['path']}  " + "  ".join(f"{t['class']} {t['probability']:.1%}" for t in (first, second))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)
    p = saved.find(str(finished_run)).logits(pixels).softmax(1)
    assert [e["top"][0]["probability"] for e in entries] == pytest.approx(p.max(1).values.tolist(), rel=1e-2)


def test_a_picture_of_any_size_format_and_orientation_is_the_same_picture(
    finished_run: Path, test_images: Path, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Image.open(sorted((test_images / "7").iterdir())[0])
    large = small.resize((320, 320), Image.Resampling.NEAREST)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown, it is turned by 90 degrees clockwise
    small.save(tmp_path / "a.png")
    large.save(tmp_path / "b.webp", lossless=True)
    large.save(tmp_path / "c.bmp")
    large.rotate(90).save(tmp_path / "d.tiff", exif=turned)
    assert ask(predict.main, finished_run, tmp_path, "--json", "--top", 1) == 0
    tops = [entry["top"][0] for entry in json.loads(capsys.readouterr().out)]
    assert [top["class"] for top in tops] == [tops[0]["class"]] * 4
    assert [top["probability"] for top in tops] == pytest.approx([tops[0]["probability"]] * 4)


def test_heat_maps_stand_beside_the_pictures_and_overwrite_nothing(
    finished_run: Path, test_images: Path, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((test_images / "3").iterdir())[:2]
    arguments = (*files, "--cam", tmp_path / "maps", "--layer", "layer1")
    assert ask(predict.main, finished_run, *arguments) == 0
    written = sorted((tmp_path / "maps").iterdir())
    assert [path.name for path in written] == [f"{n:05d}-{file.stem}.png" for n, file in enumerate(files)]
    picture, heat = np.hsplit(np.asarray(Image.open(written[0])), 2)
    assert picture.shape == heat.shape == (256, 256, 3)
    assert (picture != heat).any()
    assert ask(predict.main, finished_run, *arguments) == 1
    assert "is not empty" in capsys.readouterr().err


def test_bad_files_are_named_and_the_others_go_on(
    finished_run: Path, ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 50, 4), np.uint8)
    (tmp_path / "text.png").write_text("no picture\n")
    (tmp_path / "empty.jpg").touch()
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    Image.fromarray(noise[..., 0] / np.float32(255)).save(tmp_path / "real.tiff")
    Image.fromarray(noise[..., 0].astype(np.int32) << 16).save(tmp_path / "wide.tiff")
    Image.fromarray(noise, "CMYK").save(tmp_path / "ink.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) << 8).save(tmp_path / "deep.png")
    frames = [Image.fromarray(noise[..., :3]), Image.fromarray(noise[..., 1:])]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "whole.jpg").write_bytes((tmp_path / "ink.jpg").read_bytes())
    (tmp_path / "half.jpg").write_bytes((tmp_path / "ink.jpg").read_bytes()[:1000])
    (tmp_path / "notes.txt").write_text("not an image by its name\n")

    assert ask(predict.main, finished_run, tmp_path, "--json") == 1
    captured = capsys.readouterr()
    predicted = {Path(entry["path"]).name for entry in json.loads(captured.out)}
    assert predicted == {"ink.jpg", "deep.png", "moving.gif", "whole.jpg"}
    assert "6 of 10 files were skipped" in captured.err
    for name, words in {
        "skipped text.png": "cannot identify",
        "skipped empty.jpg": "cannot identify",
        "skipped huge.png": "400000000 pixels",
        "skipped real.tiff": "(mode F) have no known range",
        "skipped wide.tiff": "(mode I) have no known range",
        "skipped half.jpg": "",
        "note: ink.jpg": "CMYK",
        "note: deep.png": "16 bits",
        "note: moving.gif": "2 frames",
    }.items():
        lines = [m.replace(f"{tmp_path}/", "") for m in caplog.messages]
        assert [line for line in lines if line.startswith(name) and words in line], name


@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_no_picture_starts_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """EPS is a program; Pillow has the first `gs` on the path run it."""
    picture, started = tmp_path / name, tmp_path / "started"
    Image.new("RGB", (8, 8)).save(picture, "EPS")
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > '{started}'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for once
    assert pictures.load(picture, 8) is None
    assert "cannot identify image file" in caplog.text
    assert not started.exists()
    with Image.open(picture) as image, pytest.raises(OSError):  # noqa: PT011  # what our `gs` leaves is no picture
        image.load()
    assert started.exists()


def test_what_cannot_be_done_is_one_message(
    own_run: Path, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "text.png").write_text("no picture\n")
    for arguments, words in (
        ([own_run, tmp_path / "none"], "there are no images in this folder"),
        ([own_run, tmp_path / "nowhere"], "no such file or folder"),
        ([own_run, tmp_path / "text.png"], "None of these files is a readable image"),
        ([own_run, tmp_path / "text.png", "--top", "11"], "--top 11: from 1 to 10"),
        ([tmp_path / "nowhere", tmp_path / "text.png"], "no such directory"),
    ):
        assert ask(predict.main, *arguments) == 1
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error
    best = own_run / "checkpoints/best.ckpt"
    best.unlink()  # the fixture's own file has this name, too
    torch.save({"state_dict": {}, "epoch": Payload(tmp_path / "owned")}, best)
    assert ask(predict.main, own_run, tmp_path / "text.png") == 1
    assert "best.ckpt cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()
