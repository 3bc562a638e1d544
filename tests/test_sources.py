"""The digits, CIFAR-10's official format, and folders of images."""

import hashlib
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from cifar_pl.errors import UserError
from cifar_pl.sources import Source
from cifar_pl.sources import cifar10 as official
from cifar_pl.sources import image_folder as folder
from cifar_pl.sources.digits import digits


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


# --- digits ---


def test_digits_are_1797_real_images_and_their_test_part_never_changes() -> None:
    one, two = digits(), digits(16)
    assert len(one.train) + len(one.test) == 1797
    assert one.train.pixels.shape[1:] == (32, 32, 3)
    assert two.train.pixels.shape[1:] == (16, 16, 3)
    np.testing.assert_array_equal(one.test.labels, two.test.labels)
    assert set(np.unique(one.test.labels)) == set(range(10))
    assert one.train.pixels.max() > 240


# --- cifar10 ---


def write_batches(root: Path, images_per_batch: int = 4) -> tuple[Path, dict[str, str], np.ndarray]:
    """The official layout with few random images; returns the folder, its md5s, and all training pixels."""
    rng = np.random.default_rng(0)
    directory = root / official.FOLDER
    directory.mkdir(parents=True)
    pixels = []
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        images = rng.integers(0, 256, (images_per_batch, 32, 32, 3), np.uint8)
        planes = images.transpose(0, 3, 1, 2).reshape(images_per_batch, 3072)
        labels = [n % 10 for n in range(images_per_batch)]
        (directory / name).write_bytes(pickle.dumps({b"data": planes, b"labels": labels}))
        pixels.append(images)
    names = b"airplane automobile bird cat deer dog frog horse ship truck".split()
    (directory / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}))
    return directory, {p.name: md5(p) for p in directory.iterdir()}, np.concatenate(pixels[:5])


def pack(directory: Path) -> Path:
    archive = directory.parent / official.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, official.FOLDER)
    return archive


def check(source: Source, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(source.train.pixels, pixels)
    assert source.train.labels.tolist() == [0, 1, 2, 3] * 5
    assert source.classes[3] == "cat"
    assert len(source.test) == 4


def test_cifar10_from_its_folder_and_from_its_archive(tmp_path: Path) -> None:
    directory, files_md5, pixels = write_batches(tmp_path)
    check(official.cifar10(tmp_path, files_md5=files_md5), pixels)
    archive = pack(directory)
    directory.rename(tmp_path / "elsewhere")
    check(official.cifar10(tmp_path, archive_md5=md5(archive), files_md5=files_md5), pixels)


def test_the_md5s_are_torchvisions() -> None:
    theirs = torchvision.datasets.CIFAR10
    assert theirs.tgz_md5 == official.ARCHIVE_MD5
    files = [*theirs.train_list, *theirs.test_list, [theirs.meta["filename"], theirs.meta["md5"]]]
    assert dict(files) == official.FILES_MD5


class Payload:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_an_altered_batch_is_named_and_never_unpickled(tmp_path: Path) -> None:
    directory, files_md5, _ = write_batches(tmp_path)
    (directory / "data_batch_3").write_bytes(pickle.dumps(Payload(tmp_path / "owned")))
    with pytest.raises(UserError, match="data_batch_3 is damaged or altered"):
        official.cifar10(tmp_path, files_md5=files_md5)
    archive = pack(directory)
    directory.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not CIFAR-10 or is damaged"):
        official.cifar10(tmp_path, files_md5=files_md5)
    assert archive.exists()
    assert not (tmp_path / "owned").exists()


def test_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.image_size=28"):
        official.cifar10(tmp_path, image_size=28)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    directory, files_md5, _ = write_batches(tmp_path)
    (directory / "data_batch_2").unlink()
    with pytest.raises(UserError, match="data_batch_2 is missing"):
        official.cifar10(tmp_path, files_md5=files_md5)


# --- image_folder ---


def save(path: Path, image: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, PNG and JPEG of several sizes, some of them grey."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for n in range(3):
                size = (8 + n, 8 + 2 * n) if n == 2 else (8 + n, 8 + 2 * n, 3)
                suffix = ("png", "jpg", "JPEG")[n]
                save(tmp_path / part / name / f"{n}.{suffix}", rng.integers(0, 256, size, np.uint8))
    return tmp_path


def test_a_folder_gives_classes_by_name_and_the_pixels_of_its_png(root: Path) -> None:
    source = folder.image_folder(root, image_size=8)
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(root / "train/dog/0.png") as image:
        np.testing.assert_array_equal(source.train.pixels[3], np.asarray(image))


def test_large_images_shrink_by_area_and_lose_their_margins() -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :4] = image[:, 12:] = 255  # a centre crop drops both margins
    image[:4, 4:8] = 200
    image[0, 4] = 100
    out = folder.fit_square(Image.fromarray(image), 4)
    expected = np.zeros((4, 4, 3), np.uint8)
    expected[:2, :2] = 200
    expected[0, 0] = 175  # the mean of 100, 200, 200, 200
    np.testing.assert_array_equal(out, expected)


def test_sixteen_bits_keep_their_highest_eight() -> None:
    image = Image.fromarray(np.full((8, 8), 0x7FFF, np.uint16))
    assert (folder.fit_square(image, 8) == 0x7F).all()


def test_a_jpeg_on_its_side_is_put_upright(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255  # bright on the left; turned clockwise for display, bright above
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", image, exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        out = folder.fit_square(opened, 8)
    assert out[:3].mean() > 200
    assert out[5:].mean() < 50


def test_the_cache_serves_an_unchanged_folder_and_notices_a_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder.image_folder(root, image_size=8)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_decode", lambda *_: pytest.fail("decoded again"))
        np.testing.assert_array_equal(folder.image_folder(root, image_size=8).train.pixels, first.train.pixels)
    save(root / "train/cat/0.png", np.full((8, 8, 3), 9, np.uint8))
    assert (folder.image_folder(root, image_size=8).train.pixels[0] == 9).all()
    assert folder.image_folder(root, image_size=4).train.pixels.shape == (6, 4, 4, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [("broken.png", b"\x89PNG\r\n\x1a\nno more"), ("empty.jpg", b""), ("notes.txt", b"hello"), ("text.png", b"hello")],
)
def test_a_file_that_is_no_image_is_named_and_nothing_is_cached(root: Path, name: str, content: bytes) -> None:
    (root / "test/dog" / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        folder.image_folder(root)
    assert not list((root / ".cifar_pl").glob("*.npz"))


def test_hidden_files_are_passed_over(root: Path) -> None:
    (root / "train/cat/.DS_Store").write_bytes(b"x")
    assert len(folder.image_folder(root, image_size=8).train) == 6


def test_other_layouts_are_refused_by_name(root: Path) -> None:
    (root / "train/bird").mkdir()
    with pytest.raises(UserError, match="train alone has bird"):
        folder.image_folder(root)
    (root / "test/bird").mkdir()
    with pytest.raises(UserError, match=r"train/bird is empty"):
        folder.image_folder(root)
    with pytest.raises(UserError, match=r"no directory .*nowhere/train"):
        folder.image_folder(root / "nowhere")
