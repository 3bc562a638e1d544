import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from cifar_pl import explain
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.images import Images, Source
from cifar_pl.evaluation import cases
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import copies, saved
from cifar_pl.runs import files
from tests.conftest import Ask


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "gallery.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_runs_own_gallery_comes_out_again(own_run: Path, ask: Ask) -> None:
    assert ask(explain.main, own_run) == 0
    (out,) = (own_run / "explained").iterdir()
    assert out.name == f"epoch{saved.find(str(own_run)).epoch}-val-wrong-confidence-25-layer1-gradcam"
    assert (out / "gallery.csv").read_text() == (own_run / "misclassified.csv").read_text()
    assert 'id="gallery"' in (out / "report.html").read_text()
    before, after = (np.asarray(Image.open(p)) for p in (own_run / "figures/misclassified.png", out / "gallery.png"))
    assert before.shape[1] == after.shape[1]  # as many columns; the title differs


def test_layers_method_split_order_and_pair_can_be_chosen(own_run: Path, ask: Ask, tmp_path: Path) -> None:
    asked = ["--split", "test", "--layers", "layer1", "layer2", "--method", "hirescam", "--by", "loss", "--number", 7]
    assert ask(explain.main, own_run, *asked, "--out", tmp_path / "a") == 0
    shown = rows(tmp_path / "a")
    losses = [float(row["loss"]) for row in shown]
    assert losses == sorted(losses, reverse=True)
    assert len(shown) == 7
    text = (tmp_path / "a/report.html").read_text()
    assert "HiResCAM of layer1, layer2" in text
    assert text.count('class="case"') == 7
    assert text.count("heat map of layer2 for") == 2 * 3 * 7  # text and title; one of a random last layer

    run = saved.find(str(own_run))
    assert run.validation is not None
    # Which classes a short run gets right differs between machines: take the best one.
    true = run.classes[run.validation.confusion(len(run.classes)).diagonal().argmax()]
    pair = ["--pair", true, true, "--correct", "--by", "random", "--seed", 3, "--number", 4]
    for out in ("b", "c"):
        assert ask(explain.main, own_run, *pair, "--out", tmp_path / out) == 0
    assert (tmp_path / "b/gallery.csv").read_text() == (tmp_path / "c/gallery.csv").read_text()
    assert all(row["true"] == row["predicted"] == true for row in rows(tmp_path / "b"))


def test_an_interrupted_run_is_explained_without_its_test_images(own_run: Path, ask: Ask) -> None:
    for name in ("summary.json", "predictions.npz", "predictions_val.npz", "report.html"):
        (own_run / name).unlink()
    files.write_json(own_run / "status.json", {"status": "interrupted"})
    assert ask(explain.main, own_run) == 0
    (page,) = own_run.glob("explained/*/report.html")
    assert "These weights were not tested" in page.read_text()


def test_robustness_is_measured_on_images_of_the_split(own_run: Path, ask: Ask, tmp_path: Path) -> None:
    assert ask(explain.main, own_run, "--number", 1, "--robustness", 20, "--out", tmp_path / "a") == 0
    with (tmp_path / "a/robustness.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["corruption"], row["strength"]) for row in found[:5]] == [
        ("none", "0"), ("noise", "1"), ("noise", "2"), ("noise", "3"), ("blur", "1")
    ]  # fmt: skip
    assert len(found) == 1 + 8 * 3
    assert all(row["n"] == "20" and float(row["accuracy"]) == int(row["right"]) / 20 for row in found)
    text = (tmp_path / "a/report.html").read_text()
    assert "Accuracy of 20 validation images under eight usual corruptions" in text
    assert ask(explain.main, own_run, "--number", 1, "--robustness", 10_000, "--out", tmp_path / "b") == 0
    with (tmp_path / "b/robustness.csv").open() as file:
        first = next(csv.DictReader(file))
    validation = saved.find(str(own_run)).validation
    assert validation is not None
    assert int(first["n"]) == len(validation.label)
    assert float(first["accuracy"]) == pytest.approx(validation.accuracy(), abs=0.02)  # of weights in another precision


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--robustness", "0"], "--robustness 0: it must be at least 1"),
        (["--layers", "layer9"], "no layer 'layer9'"),
        (["--layers", "layer4"], "layer4 gives 1x1 pixels"),
        (["--number", "0"], "--number 0: it must be at least 1"),
        (["--pair", "1", "77"], "--pair 77: there is no such class"),
        (["--pair", "1", "1"], "--pair: two different classes"),
        (["--out", "tests"], "tests is not empty"),
        (["--copy-to", "tests"], "tests is not empty"),
    ],
)
def test_what_does_not_exist_is_refused(
    own_run: Path, ask: Ask, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert ask(explain.main, own_run, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (own_run / "explained").exists()


def test_test_images_are_read_for_untested_weights_only_when_asked(
    own_run: Path, ask: Ask, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cfg = OmegaConf.load(own_run / "config.yaml")
    cfg.datamodule.val_size = 0
    OmegaConf.save(cfg, own_run / "config.yaml")
    files.write_json(own_run / "status.json", {"status": "interrupted"})
    assert ask(explain.main, own_run) == 1
    assert "To do so: --split test" in capsys.readouterr().err
    assert ask(explain.main, own_run, "--split", "val") == 1
    assert "held no images out" in capsys.readouterr().err
    assert ask(explain.main, own_run, "--split", "test") == 0
    assert "The test images are read now" in caplog.text


def test_mistakes_are_copied_into_folders_by_class(own_run: Path, ask: Ask, tmp_path: Path) -> None:
    assert ask(explain.main, own_run, "--number", 2, "--copy-to", tmp_path / "wrong") == 0
    run = saved.find(str(own_run))
    assert run.validation is not None
    pixels = run.data().images("val").pixels
    wrong = [row for row in zip(*run.validation, strict=True) if row[0].argmax() != row[1]]
    copied = sorted((tmp_path / "wrong").rglob("*.png"))
    expected = {f"{label}/{logits.argmax()}/{index}.png": int(index) for logits, label, index in wrong}
    assert {str(path.relative_to(tmp_path / "wrong")) for path in copied} == set(expected)
    for name, index in expected.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "wrong" / name)), pixels[index])


def test_copies_of_files_with_the_same_name_are_all_there(tmp_path: Path) -> None:
    files = (tmp_path / "a/1.jpg", tmp_path / "b/1.jpg")
    for path in files:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    part = Images(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64), files)
    data = DataModule(lambda: Source(part, part, ("cat", "dog")), {}, val_size=0, batch_size=1)
    found = cases.select(Predictions(torch.eye(2)[[1, 1]], torch.zeros(2, dtype=torch.int64), torch.arange(2)), 2)
    for _ in range(2):
        copies.write(tmp_path / "out", "test", found, data)
        assert sorted(path.read_text() for path in (tmp_path / "out/cat/dog").iterdir()) == ["a", "b"]


HOSTILE = ["../up", "..", ".", "/etc/x", "a/../../b", "c:\\d", "nul\0", "", "50%", "caf\udce9"]


def test_copies_of_files_are_the_same_bytes_and_stay_in_their_folder(tmp_path: Path) -> None:
    """Whatever the classes are called: each has a folder of its own."""
    n = len(HOSTILE)
    files = [tmp_path / f"from/{index} \udce9.jpg" for index in range(n)]
    (tmp_path / "from").mkdir()
    for index, path in enumerate(files):
        path.write_bytes(b"image %d" % index)
    part = Images(np.zeros((n, 8, 8, 3), np.uint8), np.arange(n), tuple(files))
    data = DataModule(lambda: Source(part, part, tuple(HOSTILE)), {}, val_size=0, batch_size=1)
    data.load()
    found = cases.select(Predictions(torch.eye(n).roll(1, 1), torch.arange(n), torch.arange(n)), n)
    copies.write(tmp_path / "out/to", "test", found, data)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["to"]
    copied = [path for path in (tmp_path / "out/to").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in copied) == sorted(path.read_bytes() for path in files)
    assert all(len(path.relative_to(tmp_path / "out/to").parts) == 3 for path in copied)
    trues, predicted = ({path.parents[up].name for path in copied} for up in (1, 0))
    assert len(trues) == n
    assert trues == predicted
    assert sorted(tmp_path.iterdir()) == [tmp_path / "from", tmp_path / "out"]
