import io
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from multiprocessing.reduction import ForkingPickler

import albumentations as A
import numpy as np
import pytest
import torch

from cifar_pl.data.batches import Batch, EpochSampler
from cifar_pl.data.datamodule import DataModule
from cifar_pl.data.images import Images, Source, channel_statistics, stratified_split
from cifar_pl.errors import UserError, complete
from cifar_pl.machine import hardware


def make(source: Source, **changes: object) -> DataModule:
    arguments = {"val_size": 15, "batch_size": 16, "num_workers": 0, **changes}
    transforms = {"crop": A.RandomCrop(6, 6), "flip": A.HorizontalFlip(p=0.5)}
    data = DataModule(lambda: source, transforms, **arguments)  # type: ignore[arg-type]
    data.load()
    return data


def epoch_of(loader: torch.utils.data.DataLoader[Batch], epoch: int) -> list[Batch]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def test_split_is_stratified_exact_and_disjoint() -> None:
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    np.random.default_rng(1).shuffle(labels)
    train, val = stratified_split(labels, 101, 0)
    assert sorted([*train, *val]) == list(range(1000))
    assert list(np.bincount(labels[val])) == [51, 30, 20]  # shares 50.5, 30.3, 20.2


def test_split_follows_split_seed_and_not_the_runs_seed(tiny_source: Source) -> None:
    def held_out(**seeds: int) -> list[int]:
        return torch.cat([b.index for b in make(tiny_source, **seeds).val_dataloader()]).tolist()

    assert held_out(split_seed=0, seed=0) == held_out(split_seed=0, seed=9)
    assert held_out(split_seed=0) != held_out(split_seed=1)


def test_folds_are_stratified_disjoint_and_together_everything(tiny_source: Source) -> None:
    def held_out(fold: int, **seeds: int) -> list[int]:
        data = make(tiny_source, fold=fold, folds=3, val_size=0, **seeds)
        rows = torch.cat([batch.index for batch in data.val_dataloader()])
        assert np.bincount(tiny_source.train.labels[rows]).tolist() == [10, 10, 10]
        assert data.size("train") + len(rows) == 90
        return rows.tolist()

    assert sorted(chain.from_iterable(held_out(fold) for fold in range(3))) == list(range(90))
    assert held_out(0, seed=0) == held_out(0, seed=9)
    assert held_out(0) != held_out(0, split_seed=1)


def test_no_validation_trains_on_everything(tiny_source: Source) -> None:
    data = make(tiny_source, val_size=0)
    assert (data.size("train"), data.size("val"), data.size("test")) == (90, 0, 30)


def test_images_to_validate_on_are_validated_on_unless_nothing_is(tiny_source: Source) -> None:
    source = replace(tiny_source, val=20)
    assert make(source).rows("val").tolist() == list(range(70, 90))
    assert make(source).rows("train").tolist() == list(range(70))
    assert make(source, val_size=0).size("train") == 90
    assert make(source, fold=0, folds=3).size("val") == 30


def test_a_share_of_the_images_may_be_held_out(tiny_source: Source) -> None:
    np.testing.assert_array_equal(
        make(tiny_source, val_size=0.1).rows("val"), make(tiny_source, val_size=9).rows("val")
    )
    assert make(tiny_source, val_size=0.001).size("val") == 1


def test_batches_keep_their_contract(tiny_source: Source) -> None:
    data = make(tiny_source)
    batch = next(iter(data.train_dataloader()))
    assert (batch.image.dtype, tuple(batch.image.shape)) == (torch.uint8, (16, 3, 6, 6))
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.label.dtype == batch.index.dtype == torch.int64
    for split, part in (("val", tiny_source.train), ("test", tiny_source.test)):
        loader = data.val_dataloader() if split == "val" else data.test_dataloader()
        for batch in loader:
            index = batch.index.numpy()
            np.testing.assert_array_equal(batch.image.permute(0, 2, 3, 1).numpy(), part.pixels[index])
            np.testing.assert_array_equal(batch.label.numpy(), part.labels[index])
            np.testing.assert_array_equal(data.pixels(split, index), part.pixels[index])


def test_an_epoch_shows_each_image_at_most_once_and_drops_less_than_a_batch(tiny_source: Source) -> None:
    index = torch.cat([b.index for b in make(tiny_source).train_dataloader()]).tolist()
    assert len(index) == len(set(index)) == 75 // 16 * 16


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_bit_identical_with_any_number_of_workers(tiny_source: Source, workers: int) -> None:
    alone, many = (make(tiny_source, num_workers=n).train_dataloader() for n in (0, workers))
    for epoch in (0, 1, 4):  # persistent workers live through all of them
        for one, other in zip(epoch_of(alone, epoch), epoch_of(many, epoch), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_only_training_has_workers(tiny_source: Source) -> None:
    data = make(tiny_source, num_workers=2)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert [loader.num_workers for loader in loaders] == [2, 0, 0]  # type: ignore[union-attr]


def test_a_gpu_evaluates_larger_batches(tiny_source: Source) -> None:
    for accelerator, larger in (("cpu", 8), ("cuda", 32)):
        data = make(tiny_source, batch_size=8, num_workers=0)
        data.accelerator = accelerator
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        assert [loader.batch_size for loader in loaders] == [8, larger, larger]  # type: ignore[union-attr]


def test_a_worker_sends_one_tensor_per_batch(tiny_source: Source) -> None:
    batch = next(iter(make(tiny_source).train_dataloader()))
    buffer = io.BytesIO()
    pickler = ForkingPickler(buffer)  # what a worker's queue uses
    sent: list[torch.Tensor] = []
    pickler.dispatch_table = {
        **pickler.dispatch_table,
        torch.Tensor: lambda t: sent.append(t) or (torch.clone, (t.tolist(),)),
    }
    pickler.dump(batch)
    assert len(sent) == 1
    assert sent[0] is batch.image


def test_every_epoch_differs_in_order_and_augmentation(tiny_source: Source) -> None:
    loader = make(tiny_source).train_dataloader()
    first, second = (Batch(*map(torch.cat, zip(*epoch_of(loader, e), strict=True))) for e in (0, 1))
    assert not torch.equal(first.index, second.index)
    rows = [(i, j) for i, x in enumerate(first.index) for j, y in enumerate(second.index) if x == y]
    same = [torch.equal(first.image[i], second.image[j]) for i, j in rows]
    assert sum(same) / len(same) < 0.3  # of 9 crops times 2 flips, chance repeats some


def test_processes_share_an_epoch_evenly() -> None:
    rows = np.arange(10, 21)  # eleven: one is left over
    shares = [[row for _, row in EpochSampler(rows, 3, rank, 2)] for rank in (0, 1)]
    assert [len(share) for share in shares] == [5, 5]
    assert len({*shares[0], *shares[1]}) == 10
    assert {*shares[0], *shares[1]} < set(rows)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_step_of_several_processes_is_a_step_of_one(tiny_source: Source, processes: int) -> None:
    data, rows = make(tiny_source, batch_size=12), np.arange(96)
    shares = [[row for _, row in EpochSampler(rows, 3, rank, processes)] for rank in range(processes)]
    alone, each = [row for _, row in EpochSampler(rows, 3)], data.each(processes)
    assert sorted(chain(*shares)) == rows.tolist()
    for step in range(96 // 12):
        together = chain(*(share[step * each : (step + 1) * each] for share in shares))
        assert sorted(together) == sorted(alone[step * 12 : (step + 1) * 12])


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_evaluate_every_image_once(processes: int) -> None:
    rows = np.arange(5, 42)
    samplers = [EpochSampler(rows, None, rank, processes) for rank in range(processes)]
    assert sorted(row for sampler in samplers for _, row in sampler) == rows.tolist()
    for sampler in samplers:
        assert len(sampler) == len([*sampler])


def test_what_processes_cannot_share_is_refused(tiny_source: Source) -> None:
    data = make(tiny_source, val_size=3)
    assert data.each(2) == 8
    with pytest.raises(UserError, match=r"batch_size=16: 5 processes.*Take 20"):
        data.each(5)
    with pytest.raises(UserError, match=r"4 processes are more than there are images of val"):
        data.each(4)
    assert make(tiny_source, val_size=0).each(4) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are given what they need as pickles")
def test_no_image_is_pickled_into_a_worker(tiny_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Images) -> None:
        raise AssertionError("pickled")

    monkeypatch.setattr(Images, "__reduce__", refuse)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)  # as Python 3.14 has it
    try:
        assert len(list(make(tiny_source, num_workers=2).train_dataloader())) == 4
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize(("accelerator", "workers"), [("cpu", 0), ("mps", 0), ("cuda", 8)])
def test_loaders_are_for_what_the_run_trains_on_and_not_for_what_is_there(
    tiny_source: Source, monkeypatch: pytest.MonkeyPatch, accelerator: str, workers: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "cores", lambda: 16)
    data = make(tiny_source, num_workers="auto")
    assert (data.train_dataloader().num_workers, data.train_dataloader().pin_memory) == (0, False)
    data.accelerator = accelerator
    loader = data.train_dataloader()
    assert (loader.num_workers, loader.pin_memory) == (workers, accelerator == "cuda")


def test_channel_statistics_equal_numpys() -> None:
    everything = np.random.default_rng(0).integers(0, 256, (3000, 4, 4, 3), np.uint8)
    rows = np.arange(0, 3000, 2)
    mean, std = channel_statistics(everything, rows)
    pixels = everything[rows]
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)) / 255, rtol=1e-9)


def test_statistics_are_of_the_training_split_alone(tiny_source: Source) -> None:
    data = make(tiny_source)
    val = torch.cat([b.index for b in data.val_dataloader()]).numpy()
    tiny_source.train.pixels[val] = 255  # nothing of the held-out images may show
    assert make(tiny_source).mean == data.mean


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_size": -1}, r"^data\.val_size=-1: it must be greater than or equal to 0 or it must be greater than 0$"),
        ({"val_size": 90}, r"val_size=90.*only 90"),
        ({"val_size": 1.5}, r"val_size=1\.5: it must be a valid integer .* less than 1"),
        ({"batch_size": 0}, r"batch_size=0: it must be greater than 0"),
        ({"batch_size": 76}, r"batch_size=76.*only 75"),
        ({"num_workers": -2}, r"num_workers=-2: it must be greater than or equal to 0 or it must be 'auto'"),
        ({"seed": -1}, r"seed=-1"),
        ({"fold": 5}, r"fold=5: the last of 5 folds .* is 4"),
        ({"fold": 0, "folds": 31}, r"folds=31: the smallest class has 30"),
        ({"fold": 0, "folds": 1}, r"folds=1"),
        ({"fold": 0, "protocol": "published"}, r"fold=0: protocol=published"),
    ],
)
def test_impossible_numbers_are_refused(tiny_source: Source, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        complete(partial(make, tiny_source), "data", **change)


@pytest.mark.parametrize(
    "arrays",
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_images_refuse_other_arrays(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UserError, match="must be"):
        Images(*arrays)


def test_labels_beyond_the_classes_are_refused(tiny_source: Source) -> None:
    build: Callable[[], Source] = partial(Source, tiny_source.train, tiny_source.test, ("a", "b"))
    with pytest.raises(UserError, match=r"0 to 2.*2 classes"):
        build()
