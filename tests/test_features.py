import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from torch import nn
from werkzeug.test import Client

from cifar_pl.data.images import Images, Source
from cifar_pl.errors import UserError
from cifar_pl.evaluation import features
from cifar_pl.evaluation.features import Explored, Neighbours
from cifar_pl.models.resnet import Normalize, resnet
from cifar_pl.runs import files
from cifar_pl.training.callbacks import Explore
from cifar_pl.training.callbacks.explore import compared
from tests.test_classifier import loaded, make, trainer

Pixels = NDArray[np.uint8]

# --- features ---


def images(n: int, side: int = 8) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def test_features_are_what_enters_resnet18s_last_layer() -> None:
    torch.manual_seed(0)
    network, pixels = resnet(10, [0.5] * 3, [0.25] * 3, dropout={"block": 0.5}), images(5, 16)
    network.train()
    found = features.features(network, [pixels[:3], pixels[3:]])
    assert network.training
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    network.eval()
    with torch.no_grad():
        network.fc = nn.Identity()
        expected = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert (found.dtype, found.shape) == (torch.float16, (5, 512))
    torch.testing.assert_close(found.float(), nn.functional.normalize(expected), atol=1e-3, rtol=0)


class Gated(nn.Module):
    """Its head was made first and runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.gate = nn.Linear(3, 4), nn.Linear(3, 3)
        self.normalize = Normalize([0.5] * 3, [0.25] * 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pooled = self.normalize(image).mean((2, 3))
        return self.head(pooled * self.gate(pooled).sigmoid()).log_softmax(1)


def test_the_layer_that_runs_last_counts() -> None:
    torch.manual_seed(0)
    network, pixels = Gated(), images(4)
    pooled = network.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)).mean((2, 3))
    expected = nn.functional.normalize(pooled * network.gate(pooled).sigmoid())
    torch.testing.assert_close(features.features(network, [pixels]).float(), expected, atol=1e-3, rtol=0)


def test_a_network_without_a_linear_layer_has_none() -> None:
    pooled = nn.Sequential(Normalize([0.5] * 3, [0.25] * 3), nn.Conv2d(3, 4, 8), nn.Flatten())
    with pytest.raises(UserError, match="does not end in a linear layer"):
        features.features(pooled, [images(2)])


def test_they_are_computed_in_the_precision_that_was_asked_for(tiny_network: nn.Module) -> None:
    dtypes = []
    tiny_network[1].register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))  # type: ignore[index]
    features.features(tiny_network, [images(2)], autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert dtypes == [torch.bfloat16]


# --- the nearest ---


def on_circle(*degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


@pytest.mark.parametrize("at_once", [1, 2**24])
def test_the_nearest_by_angle(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(features, "SIMILARITIES", at_once)
    bank = 3 * on_circle(0, 90, 30, 180, 30)  # length does not matter; 30 degrees twice
    near, similarity = features.nearest(on_circle(20, 100), bank)
    assert near.tolist() == [[2, 4, 0], [1, 2, 4]]
    expected = np.cos(np.radians([[10, 10, 20], [10, 70, 70]]))
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    assert (near.dtype, similarity.dtype) == (np.int64, np.float32)


def test_the_nearest_agree_with_sorting_all() -> None:
    torch.manual_seed(0)
    queries, bank = torch.randn(50, 16).half(), torch.randn(300, 16).half()
    near, similarity = features.nearest(queries, bank, 5)
    unit = [v.double() / v.double().norm(dim=1, keepdim=True) for v in (queries, bank)]
    cosines = unit[0] @ unit[1].T
    assert near.tolist() == cosines.argsort(descending=True)[:, :5].tolist()
    np.testing.assert_allclose(similarity, cosines.sort(descending=True).values[:, :5], atol=1e-6)


def test_a_feature_of_zeros_is_like_no_other_and_too_few_images_are_refused() -> None:
    near, similarity = features.nearest(torch.zeros(1, 2), on_circle(0, 90, 30))
    assert near.tolist() == [[0, 1, 2]]
    assert similarity.tolist() == [[0, 0, 0]]
    with pytest.raises(UserError, match="only 2 training images"):
        features.nearest(on_circle(0), on_circle(0, 90))


# --- near-duplicates ---


@pytest.fixture
def photos() -> Pixels:
    """Forty images of blurred spots, 40x40."""
    spots = torch.from_numpy(images(40, 10)).permute(0, 3, 1, 2).float()
    large = nn.functional.interpolate(spots, (40, 40), mode="bicubic").clamp(0, 255)
    return large.permute(0, 2, 3, 1).byte().numpy()


COPIES: dict[str, Callable[[Pixels], Any]] = {
    "same": lambda p: p[:, 4:36, 4:36],
    "shifted": lambda p: p[:, 8:40, 2:34],
    "mirrored": lambda p: p[:, 4:36, 4:36][:, :, ::-1],
    "pale": lambda p: p[:, 4:36, 4:36] // 3 + 150,
    "grey": lambda p: p[:, 4:36, 4:36].mean(3, keepdims=True).repeat(3, 3),
    "larger": lambda p: np.stack([np.asarray(Image.fromarray(one[5:35, 5:35]).resize((32, 32))) for one in p]),
    "noisy": lambda p: (p[:, 4:36, 4:36] + np.random.default_rng(0).normal(0, 5, (len(p), 32, 32, 3))).clip(0, 255),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_duplicates(photos: Pixels, kind: str) -> None:
    copies = COPIES[kind](photos).astype(np.uint8)
    near = np.stack([np.roll(copies, 1, 0), np.roll(copies, 2, 0), copies], 1)  # the third of the nearest
    assert features.duplicates(photos[:, 4:36, 4:36], near).all()


def test_other_images_are_not(photos: Pixels) -> None:
    here = photos[:, 4:36, 4:36]
    near = np.stack([np.roll(here, k, 0) for k in range(1, 20)], 1)
    assert not features.duplicates(here, near).any()


def test_blank_images_are_not(photos: Pixels) -> None:
    blank = np.full((1, 8, 8, 3), 7, np.uint8)
    assert not features.duplicates(blank, blank[None]).any()


# --- samples and the map ---


@pytest.mark.parametrize(("number", "expected"), [(0, 0), (7, 7), (100, 100), (1000, 100)])
def test_a_sample_has_of_each_class_its_share(number: int, expected: int) -> None:
    labels = np.repeat(np.arange(4), [70, 20, 9, 1])[np.random.default_rng(1).permutation(100)]
    rows = features.sample(labels, number)
    assert len(rows) == expected
    assert (np.diff(rows) > 0).all()
    share = np.array([70, 20, 9, 1]) * expected / 100
    assert (np.abs(np.bincount(labels[rows], minlength=4) - share) < 1).all()
    assert rows.tolist() == features.sample(labels, number).tolist()
    assert number != 7 or rows.tolist() != features.sample(labels, number, seed=1).tolist()


@pytest.mark.parametrize(
    ("wrong", "number", "mistakes", "others"),
    [(3, 20, 3, 17), (30, 20, 10, 10), (95, 20, 15, 5), (0, 20, 0, 20), (100, 20, 20, 0), (3, 500, 3, 97)],
)
def test_a_map_begins_with_the_mistakes(wrong: int, number: int, mistakes: int, others: int) -> None:
    is_wrong = np.random.default_rng(0).permutation(100) < wrong
    rows = features.chosen(np.arange(100) % 2, is_wrong, number)
    assert len(set(rows.tolist())) == len(rows)
    assert is_wrong[rows].tolist() == [True] * mistakes + [False] * others


def test_a_map_keeps_groups_together_and_is_the_same_every_time() -> None:
    torch.manual_seed(0)
    group = torch.arange(60) % 3
    vectors = features.reduced((torch.eye(64)[group] + 0.1 * torch.randn(60, 64)).half())
    assert vectors.shape == (60, 50)
    place = features.layout(vectors)
    assert (place.dtype, place.min(0).tolist(), place.max(0).tolist()) == (np.float32, [0, 0], [1, 1])
    apart = np.linalg.norm(place[:, None] - place, axis=2) + 9 * np.eye(60)
    assert (group[apart.argmin(1)] == group).all()
    assert place.tolist() == features.layout(vectors).tolist()


def test_the_smallest_map() -> None:
    torch.manual_seed(0)
    assert features.layout(features.reduced(torch.randn(features.FEWEST, 3))).shape == (features.FEWEST, 2)


# --- the file ---


def explored(n: int = 4) -> Explored:
    index = np.arange(n)
    of = Neighbours(index, np.tile(index[:3], (n, 1)), np.full((n, 3), 0.5, np.float32), index % 2 == 0)
    return Explored({"val": of, "test": of}, 100, index[:2], np.array([[0, 1], [1, 0]], np.float32), 100)


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    written = explored()
    files.write_npz(tmp_path / "explored.npz", written.arrays())
    read = Explored.load(tmp_path / "explored.npz")
    assert set(read.neighbours) == {"test", "val"}
    assert (read.compared, read.train) == (100, 100)
    for one, other in zip(written.neighbours["val"], read.neighbours["val"], strict=True):
        assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())
    assert (read.mapped.tolist(), read.place.tolist()) == (written.mapped.tolist(), written.place.tolist())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    good, path = explored().arrays(), tmp_path / "explored.npz"
    for name, value in {
        "test_near": good["test_near"][:2],
        "val_near": good["val_near"] - 1,
        "test_similarity": good["test_similarity"].astype(float),
        "place": good["place"] + 1,
        "mapped": good["mapped"][:1],
        "train": 2,  # images; some of the nearest are not among them
    }.items():
        files.write_npz(path, {**good, name: value})
        with pytest.raises(UserError, match=r"explored.npz cannot be used.*damaged"):
            Explored.load(path)
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="damaged"):
        Explored.load(path)


# --- the callback ---


@pytest.mark.parametrize(
    ("train", "others", "epochs", "expected"),
    [
        (45_000, 15_000, 16, 45_000),  # the default: all
        (50_000, 10_000, 10, 32_500),  # 0.085 * 10 * 50,000 - 10,000
        (50_000, 10_000, 5, 11_250),
        (50_000, 10_000, 1, 2_000),
        (1_258, 539, 2, 1_258),
        (10**6, 10_000, 100, 100_000),
    ],
)
def test_how_many_training_images_are_compared(train: int, others: int, epochs: int, expected: int) -> None:
    assert compared(train, others, epochs) == expected


def ran(source: Source, network: nn.Module, path: Path, *callbacks: Callback, tta: str = "none", **data: Any) -> Any:
    """The predictions of a network that was trained for two epochs and tested, and its images."""
    seed_everything(1, verbose=False)
    images, module = loaded(source, **data), make(network, tta=tta)
    module.hparams["classes"] = list(source.classes)
    run = trainer(path, callbacks=list(callbacks), logger=TensorBoardLogger(path, name="", version=""))
    run.fit(module, datamodule=images)
    run.test(module, datamodule=images, verbose=False)
    return module.predictions, images


def test_training_and_test_stay_as_they_are(tiny_network: nn.Module, tiny_source: Source, tmp_path: Path) -> None:
    other = copy.deepcopy(tiny_network)
    bare, _ = ran(tiny_source, tiny_network, tmp_path / "bare")
    drawn = torch.rand(1), np.random.rand()  # noqa: NPY002
    with_it, _ = ran(tiny_source, other, tmp_path, Explore(tmp_path))
    assert drawn == (torch.rand(1), np.random.rand())  # noqa: NPY002
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in tiny_network.state_dict().items())
    assert torch.equal(bare["test"].logits, with_it["test"].logits)
    assert not any(layer._forward_pre_hooks for layer in other.modules())


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_what_a_run_leaves(tiny_network: nn.Module, tiny_source: Source, tmp_path: Path, tta: str) -> None:
    said, data = ran(tiny_source, tiny_network, tmp_path, Explore(tmp_path), tta=tta)
    found = Explored.load(tmp_path / "explored.npz")
    train = data.rows("train")
    assert found.compared == len(train) == 75
    assert found.train == len(tiny_source.train)
    pixels = {split: tiny_source.test.pixels if split == "test" else tiny_source.train.pixels for split in said}
    bank = features.features(tiny_network, [tiny_source.train.pixels[train]])
    for split in ("val", "test"):
        of = found.neighbours[split]
        assert of.index.tolist() == said[split].index.tolist() == data.rows(split).tolist()
        near, similarity = features.nearest(features.features(tiny_network, [pixels[split][of.index]]), bank)
        assert of.near.tolist() == train[near].tolist()
        np.testing.assert_allclose(of.similarity, similarity, atol=1e-6)
        assert not of.duplicate.any()
    wrong = said["test"].index[said["test"].predicted != said["test"].label].tolist()
    assert found.mapped[: len(wrong)].tolist() == wrong
    assert sorted(found.mapped.tolist()) == list(range(30))


def test_copies_in_a_data_set_are_found(tiny_network: nn.Module, tiny_source: Source, tmp_path: Path) -> None:
    train, test = tiny_source.train, tiny_source.test
    pixels = test.pixels.copy()
    copied = {2: 7, 11: 30, 28: 51}
    pixels[[*copied]] = train.pixels[[*copied.values()]]
    source = Source(train, Images(pixels, test.labels), tiny_source.classes)
    ran(source, tiny_network, tmp_path, Explore(tmp_path), val_size=0)
    of = Explored.load(tmp_path / "explored.npz").neighbours["test"]
    assert np.flatnonzero(of.duplicate).tolist() == [*copied]
    assert of.near[[*copied], 0].tolist() == [*copied.values()]
    np.testing.assert_allclose(of.similarity[[*copied], 0], 1, atol=1e-5)


def test_no_image_is_called_a_copy_where_all_are_alike(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path
) -> None:
    train, test = (
        Images(part.pixels // 20 + images(1) // 20 * 18, part.labels) for part in (tiny_source.train, tiny_source.test)
    )
    assert features.duplicates(test.pixels, train.pixels[:30, None]).all()  # strangers, with one pattern
    ran(Source(train, test, tiny_source.classes), tiny_network, tmp_path, Explore(tmp_path))
    assert not any(of.duplicate.any() for of in Explored.load(tmp_path / "explored.npz").neighbours.values())


def test_test_images_that_stand_in_for_the_validation_are_one_split(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path
) -> None:
    ran(tiny_source, tiny_network, tmp_path, Explore(tmp_path), protocol="published", val_size=0)
    assert set(Explored.load(tmp_path / "explored.npz").neighbours) == {"test"}


def test_few_images_have_neighbours_and_no_map(tiny_network: nn.Module, tiny_source: Source, tmp_path: Path) -> None:
    few = Images(tiny_source.test.pixels[:9], tiny_source.test.labels[:9])
    ran(Source(tiny_source.train, few, tiny_source.classes), tiny_network, tmp_path, Explore(tmp_path))
    found = Explored.load(tmp_path / "explored.npz")
    assert (found.neighbours["test"].near.shape, found.mapped.shape, found.place.shape) == ((9, 3), (0,), (0, 2))
    assert not (tmp_path / "projector_config.pbtxt").exists()


def test_test_images_that_are_all_the_same_have_no_map(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path
) -> None:
    same = Images(tiny_source.test.pixels[:1].repeat(30, 0), tiny_source.test.labels)
    ran(Source(tiny_source.train, same, tiny_source.classes), tiny_network, tmp_path, Explore(tmp_path))
    found = Explored.load(tmp_path / "explored.npz")
    assert (found.neighbours["test"].near.shape, found.mapped.shape) == ((30, 3), (0,))


def test_a_network_that_is_blind_leaves_no_file_and_says_so(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "explored.npz").write_text("of the run that is resumed")
    torch.nn.init.constant_(tiny_network[2].bias, -1e9)  # type: ignore[index]  # before a ReLU
    ran(tiny_source, tiny_network, tmp_path, Explore(tmp_path))
    assert "No nearest training images: all of them are the same to the network." in caplog.text
    assert not (tmp_path / "explored.npz").exists()


def test_a_failure_does_not_end_the_run(
    tiny_network: nn.Module, tiny_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(features, "layout", lambda vectors: vectors.nosuch)
    said, _ = ran(tiny_source, tiny_network, tmp_path, Explore(tmp_path))
    assert "test" in said
    assert "could not be found; the run continues" in caplog.text
    assert not (tmp_path / "explored.npz").exists()


# --- TensorBoard's projector ---


def test_tensorboard_reads_the_projector_files(tiny_network: nn.Module, tiny_source: Source, tmp_path: Path) -> None:
    source = Source(tiny_source.train, tiny_source.test, ("a\tb", "<b>x</b>\n", "blue"))
    for _ in range(2):  # the second as in a resumed run
        said, _ = ran(source, tiny_network, tmp_path, Explore(tmp_path))
    mapped = Explored.load(tmp_path / "explored.npz").mapped
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    context = TBContext(logdir=str(tmp_path), data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path)))
    routes = ProjectorPlugin(context).get_plugin_apps()

    def ask(route: str, **query: str) -> Any:
        answer = Client(routes[route]).get(route, query_string=query)
        assert answer.status_code == 200, answer.text
        return answer

    assert ask("/runs").json == ["."]
    (embedding,) = ask("/info", run=".").json["embeddings"]
    assert embedding["tensorName"] == "embedding/test:00000"
    assert embedding["tensorShape"] == [30, 8]
    of = {"run": ".", "name": embedding["tensorName"]}
    vectors = np.frombuffer(ask("/tensor", **of).data, np.float32).reshape(30, 8)
    seen = features.features(tiny_network, [source.test.pixels[mapped]])
    np.testing.assert_allclose(vectors, features.reduced(seen), atol=6e-4)
    header, *rows = [line.split("\t") for line in ask("/metadata", **of).text.splitlines()]
    assert header == ["class", "predicted", "right"]
    names = ["a b", "<b>x</b>", "blue"]
    predicted, label = said["test"].predicted[mapped].tolist(), said["test"].label[mapped].tolist()
    assert rows == [[names[t], names[p], "yes" if t == p else "no"] for t, p in zip(label, predicted, strict=True)]
    assert embedding["sprite"]["singleImageDim"] == [8, 8]
    sprite = np.asarray(Image.open(io.BytesIO(ask("/sprite_image", **of).data)))
    assert sprite.shape == (48, 48, 3)  # six by six
    difference = sprite[8:16, 16:24].astype(int) - source.test.pixels[mapped[8]]
    assert np.abs(difference).max() <= 1
