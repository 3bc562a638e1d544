"""What several runs kept for the same images: votes and ensembles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_pl.evaluation.features import Explored
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.inference import kept
from cifar_pl.runs import files, rundir
from cifar_pl.runs.record import Record, read
from tests.conftest import Make
from tests.test_page import images

LABEL = torch.tensor([0, 0, 1, 1, 2])


def keep(run: Path, probabilities: Sequence[Sequence[float]], split: str = "test", index: int = 0) -> Record:
    """Write predictions of five images, whose indices start at `index`."""
    found = Predictions(torch.tensor(probabilities).log().float(), LABEL, torch.arange(5) + index)
    files.write_npz(run / rundir.PREDICTIONS[split], found._asdict())
    return read(run)


def sure(*classes: int) -> list[list[float]]:
    return (np.eye(3)[list(classes)] * 0.7 + 0.1).tolist()


def test_an_ensemble_has_the_mean_of_the_probabilities_and_not_of_votes(make: Make) -> None:
    one = [[0.90, 0.06, 0.04]] * 5
    weak = [[0.40, 0.50, 0.10]] * 5  # two votes for class 1 against one, but the mean is for class 0
    group = [keep(make(str(n), val=0.9), p) for n, p in enumerate((one, weak, weak))]
    found = kept.votes([group, [keep(make("alone", val=0.9), sure(0, 0, 1, 1, 2))]])
    assert found is not None
    assert found.split == "test"
    assert found.ensembles == [pytest.approx(2 / 5), None]
    assert found.counts.tolist() == [[2, 2, 0], [2, 2, 0], [1, 3, 0], [1, 3, 0], [1, 2, 1]]
    assert len(found.runs) == 4
    assert not found.all_wrong().size


def test_what_all_get_wrong_comes_in_the_order_of_their_agreement(make: Make) -> None:
    said = ((1, 1, 0, 1, 0), (1, 2, 0, 2, 0), (1, 1, 2, 0, 0))
    found = kept.votes([[keep(make(str(n), val=0.9), sure(*classes)) for n, classes in enumerate(said)]])
    assert found is not None
    assert found.all_wrong().tolist() == [0, 4, 1, 2]  # by 3, 3, 2 and 2 of the three runs; one gets image 3 right


def test_validation_is_taken_where_all_have_the_same_and_test_elsewhere(make: Make, tmp_path: Path) -> None:
    right = sure(0, 0, 1, 1, 2)
    for n in range(3):
        run = make(str(n), f"seed={n}", val=0.9)
        keep(run, right)
        keep(run, right, "val", index=7)
    runs = [read(tmp_path / str(n)) for n in range(3)]
    found = kept.votes([runs])
    assert found is not None
    assert (found.split, found.index.tolist()) == ("val", [7, 8, 9, 10, 11])
    keep(tmp_path / "2", right, "val", index=8)  # as another fold has
    other = kept.votes([runs])
    assert other is not None
    assert (other.split, other.left_out) == ("test", [])


def test_a_run_that_cannot_be_used_is_left_out_by_name(make: Make, tmp_path: Path) -> None:
    right = sure(0, 0, 1, 1, 2)
    runs = [keep(make(name, val=0.9), right) for name in ("good", "damaged", "other", "diverged")]
    (tmp_path / "damaged/predictions.npz").write_bytes(b"PK")
    keep(tmp_path / "other", right, index=3)
    keep(tmp_path / "diverged", [[float("nan")] * 3] * 5)
    runs.append(read(make("without", val=0.9)))
    runs.append(keep(make("failed", status="failed"), right))  # what it kept is of an earlier end
    found = kept.votes([runs])
    assert found is not None
    assert [run.directory.name for run in found.runs] == ["good"]
    assert found.ensembles == [None]
    for name, line in zip(("damaged", "other", "diverged", "without", "failed"), found.left_out, strict=True):
        assert str(tmp_path / name) in line
    assert kept.votes([runs[1:2]]) is None
    assert kept.votes([]) is None


def test_the_validation_of_a_test_selected_run_is_none(make: Make) -> None:
    run = make("a", val=0.9, test_selected=True)
    keep(run, sure(0, 0, 1, 1, 2), "val")
    assert kept.predictions(read(run), "val") is None


def test_a_map_of_other_images_or_a_damaged_one_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = images()  # 60 for training and for the test
    assert kept.explored(tmp_path, data) is None
    assert not caplog.text
    place = np.zeros((2, 2), np.float32)
    for train, mapped, fits in ((60, [0, 59], True), (61, [0, 59], False), (60, [0, 60], False)):
        found = Explored({}, 0, np.array(mapped), place, train)
        files.write_npz(tmp_path / rundir.EXPLORED, found.arrays())
        caplog.clear()
        assert (kept.explored(tmp_path, data) is not None) == fits
        assert ("is of other images" in caplog.text) != fits
    (tmp_path / rundir.EXPLORED).write_bytes(b"PK")
    assert kept.explored(tmp_path, data) is None
    assert "damaged" in caplog.text
