"""`import cifar_pl`: what commands do, from Python."""

import ast
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

import cifar_pl
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.runs import rundir
from tests.conftest import LEAN, RANGE_TEST, ROOT, TINY, copy_run

RUN = (*TINY, *LEAN, "data.batch_size=128")


@pytest.fixture(scope="module")
def run(finished_run: Path) -> cifar_pl.Run:
    return cifar_pl.open_run(finished_run)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(directory / rundir.LAST, weights_only=True)["state_dict"]
    return loaded


def test_importing_it_is_cheap() -> None:
    code = "import sys, cifar_pl; cifar_pl.UserError; print({'torch', 'hydra', 'numpy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "set()\n"
    assert all(hasattr(cifar_pl, name) for name in cifar_pl.__all__)
    assert not hasattr(cifar_pl, "prophesy")


@pytest.mark.slow
def test_trainings_in_one_process_have_the_bits_of_the_command_line(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one, after another by other settings; and the process is left as it was."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()

    def state() -> list[object]:
        switches = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        log = root.handlers[:], root.level, warnings.showwarning, warnings.filters[:]
        return [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), *switches, *log]

    before, draw = state(), torch.get_rng_state()
    other = cifar_pl.train(
        *RUN, "seed=5", "trainer.max_epochs=1", "+trainer.limit_train_batches=2", "+trainer.deterministic=true"
    )
    made = cifar_pl.train(*RUN, *RANGE_TEST, "trainer.max_epochs=2")
    assert state() == before
    assert torch.equal(torch.get_rng_state(), draw)
    assert other.directory != made.directory
    assert made.summary["test"]["acc"] == cifar_pl.open_run(finished_run).summary["test"]["acc"]
    same = weights(finished_run)
    assert all(torch.equal(same[name], value) for name, value in weights(made.directory).items())
    assert made.directory.parents[1] == tmp_path / "outputs"
    assert "epoch 2/2" in (made.directory / "train.log").read_text()
    assert cifar_pl.open_run("latest").directory.samefile(made.directory)


def test_a_run_has_what_its_files_have(run: cifar_pl.Run, finished_run: Path) -> None:
    assert run.summary["status"] == "finished"
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert run.classes == [str(n) for n in range(10)]
    alone = cifar_pl.open_run(finished_run / rundir.BEST)
    assert (alone.directory, alone.summary) == (run.directory.resolve(), run.summary)
    text = run._repr_html_()
    assert f"{run.summary['test']['acc']:.2%}" in text
    assert text.count("<img") == 1


def test_an_unfinished_run_opens(own_run: Path) -> None:
    (own_run / rundir.SUMMARY).unlink()
    (own_run / rundir.STATUS).write_text('{"status": "interrupted"}')
    run = cifar_pl.open_run(own_run)
    assert run.summary == {"status": "interrupted"}
    assert "interrupted" in run._repr_html_()
    assert len(run.mistakes(2)) == 2


def test_files_arrays_and_pictures_are_predicted_alike(run: cifar_pl.Run, tmp_path: Path) -> None:
    """As the run predicted its test images, which have the network's size."""
    images = run.data.pixels("test", np.arange(5))
    for n, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    found = run.predict(images)
    assert found == run.predict([tmp_path / f"{n}.png" for n in range(5)])
    assert found == run.predict(map(Image.fromarray, images))
    assert found[:1] == run.predict(str(tmp_path / "0.png"))
    kept = Predictions.load(run.directory / rundir.PREDICTIONS["test"]).logits[:5].softmax(1)
    assert [one.label for one in found] == [run.classes[n] for n in kept.argmax(1)]
    assert [one.probability for one in found] == pytest.approx(kept.amax(1).tolist(), abs=1e-5)
    assert all(one.top[0] == (one.label, one.probability) and len(one.top) == 3 for one in found)
    (every,) = run.predict(images[:1], top=99, tta=True)
    assert sum(p for _, p in every.top) == pytest.approx(1)


def test_mistakes_are_those_asked_for(run: cifar_pl.Run) -> None:
    first, *others = shown = run.mistakes(5)
    assert len(shown) == 5 == 1 + len(others)
    assert first.true != first.predicted
    assert [one.probability for one in shown] == sorted((one.probability for one in shown), reverse=True)
    assert first.image.shape == (8, 8, 3)
    assert first.maps["layer1"].shape == (8, 8)
    for asked in ({"true": first.true}, {"predicted": first.predicted}):
        (key, name), *_ = asked.items()
        assert {getattr(one, key) for one in run.mistakes(9, **asked)} == {name}
    assert "data:image/png" in shown._repr_html_()
    assert shown.figure()._suptitle.get_text().startswith("5 misclassified validation images")  # type: ignore[attr-defined]


def test_any_images_are_explained(run: cifar_pl.Run) -> None:
    images = run.data.pixels("test", np.arange(3))
    (one, *_), predictions = run.explain(images, layers=["layer1", "conv1"]), run.predict(images)
    assert (one.predicted, one.true) == (predictions[0].label, None)
    assert list(one.maps) == ["layer1", "conv1"]
    assert one.maps["conv1"].max() <= 1


def test_runs_compare(run: cifar_pl.Run, finished_run: Path, tmp_path: Path) -> None:
    copy_run(finished_run, tmp_path / "sweep/one")
    compared = cifar_pl.compare(tmp_path / "sweep")
    assert len(compared.configurations) == 1
    assert f"{100 * run.summary['test']['acc']:.2f}" in compared._repr_html_()
    assert "no two configurations" in str(compared)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("aug=cutuot",), r"Did you mean cutout"),
        (("trainer.max_epoch=3",), r"Did you mean trainer\.max_epochs"),
        (("trainer.max_epochs=0",), r"trainer\.max_epochs=0: it must be 1 or more"),
        (("trainer.devices=2",), "one process"),
        (("-m", "seed=0,1"), "overrides of one run"),
        (("resume=nowhere",), "there is no such directory"),
    ],
)
def test_a_mistake_is_a_user_error(
    overrides: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cifar_pl.UserError, match=message):
        cifar_pl.train(*(TINY if "-m" not in overrides and "resume=nowhere" not in overrides else ()), *overrides)


def test_what_is_no_image_is_refused(run: cifar_pl.Run, tmp_path: Path) -> None:
    for image in (tmp_path / "none.png", np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), 7):
        with pytest.raises(cifar_pl.UserError, match=r"none\.png|must be uint8|int is no image"):
            run.predict([image])  # type: ignore[list-item]
    for asked in ({"true": "ct"}, {"split": "train"}, {"number": 0}, {"by": "size"}):
        with pytest.raises(cifar_pl.UserError, match=r"=|there is no such class"):
            run.mistakes(**asked)  # type: ignore[arg-type]
    with pytest.raises(cifar_pl.UserError, match="no image"):
        run.predict([])


class Interrupt(Callback):
    """Ctrl-C in the second epoch, once."""

    left: ClassVar = [1]

    def on_train_epoch_start(self, trainer: Trainer, _: LightningModule) -> None:
        if trainer.current_epoch == 1 and self.left:
            self.left.clear()
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as a terminal has it; what a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_leaves_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stop = "+callbacks.stop._target_=tests.test_api.Interrupt"
    with pytest.raises(KeyboardInterrupt):
        cifar_pl.train(*RUN, stop, "trainer.max_epochs=2", "hydra.run.dir=outputs/run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run = cifar_pl.open_run("latest")
    assert (run.summary["status"], len(run.metrics)) == ("interrupted", 1)
    resumed = cifar_pl.train("resume=latest", stop)
    assert (resumed.summary["status"], len(resumed.metrics)) == ("finished", 2)


def test_a_script_that_its_own_processes_import_trains_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    start = "multiprocessing.get_context('spawn').Process(target=print).start()"
    train = "import cifar_pl; cifar_pl.train('hydra.run.dir=run')"
    script.write_text(f"import multiprocessing\nif __name__ == '__main__':\n    {start}\nelse:\n    {train}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "put cifar_pl.train below" in done.stderr
    assert not (tmp_path / "run").exists()


DOCUMENT = (ROOT / "docs/python.md").read_text()
NOTEBOOK = ROOT / "notebooks/tour.ipynb"


def test_the_document_runs(
    finished_run: Path, config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a run of digits, whose layer4 is too small to show anything; what it trains composes."""
    first, *blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    (typed,) = re.findall(r"cifar_pl\.train(\(.*\))", first)
    assert config(*ast.literal_eval(typed)).trainer.max_epochs == 10
    copy_run(finished_run, tmp_path / "outputs/day/run")
    copy_run(finished_run, tmp_path / "multirun/one")
    for name in ("cat", "dog"):
        Image.new("RGB", (30, 40), "red").save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    mistake = next(iter(cifar_pl.open_run("outputs/day/run").mistakes(1)))
    ours = {"cat": mistake.true, "dog": mistake.predicted, "layer4": "layer1", "layer3": "conv1"}
    code = re.sub(f'"({"|".join(ours)})"', lambda name: f'"{ours[name[1]]}"', "".join(blocks))
    names = {"cifar_pl": cifar_pl}
    exec(code, names)
    assert Path("cats.png").stat().st_size > 1000
    assert len(names["compared"].runs) == 1  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """With two steps of training."""
    tour: Any = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert len(tour.cells) == 12
    assert not any(cell.outputs or cell.execution_count for cell in code)
    (training,) = [cell for cell in code if "train(" in cell.source]
    short = ("trainer.max_epochs=1", "+trainer.limit_train_batches=2", "lr_finder=none", "trainer=cpu")
    training.source = training.source.replace('"experiment=demo"', f'"experiment=demo", *{short}')
    NotebookClient(tour, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pages = "".join(str(output.get("data")) for cell in code for output in cell.outputs)
    assert pages.count("data:image/png") == 4  # the curves, and three galleries
    assert pages.count("Prediction(label=") == 2
    assert len(list(tmp_path.glob("outputs/*/*/report.html"))) == 1
