"""The digits, CIFAR-10's official format, and folders of images."""

import hashlib
import io
import os
import pickle
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_pl.data import cifar10 as official
from cifar_pl.data import image_folder as folder
from cifar_pl.data.digits import digits
from cifar_pl.data.images import Source
from cifar_pl.data.pictures import fit_square
from cifar_pl.errors import UserError
from cifar_pl.machine import hardware


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
    directory = root / official.CIFAR10.base_folder
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
    return directory, {path.name: md5(path) for path in directory.iterdir()}, np.concatenate(pixels[:5])


def known(monkeypatch: pytest.MonkeyPatch, data: Any, files_md5: dict[str, str], archive_md5: str = "") -> None:
    """Let these md5s be the right ones of a data set of torchvision."""
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(data, part, [[name, files_md5[name]] for name, _ in getattr(data, part)])
    monkeypatch.setattr(data, "meta", {**data.meta, "md5": files_md5[data.meta["filename"]]})
    monkeypatch.setattr(data, "tgz_md5", archive_md5)


def pack(directory: Path) -> Path:
    archive = directory.parent / official.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, official.CIFAR10.base_folder)
    return archive


def check(source: Source, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(source.train.pixels, pixels)
    assert source.train.labels.tolist() == [0, 1, 2, 3] * 5
    assert source.classes[3] == "cat"
    assert len(source.test) == 4


def test_cifar10_from_its_folder_and_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, files_md5, pixels = write_batches(tmp_path)
    known(monkeypatch, official.CIFAR10, files_md5)
    check(official.cifar10(tmp_path), pixels)
    known(monkeypatch, official.CIFAR10, files_md5, md5(pack(directory)))
    directory.rename(tmp_path / "elsewhere")
    check(official.cifar10(tmp_path), pixels)


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / official.CIFAR100.base_folder
    folder.mkdir()
    planes = rng.integers(0, 256, (6, 3, 32, 32), np.uint8)
    for name, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        labels = {b"fine_labels": [99, 0, 7, 98][: rows.stop - rows.start], b"coarse_labels": [1] * 4}
        (folder / name).write_bytes(pickle.dumps({b"data": planes[rows].reshape(-1, 3072), **labels}))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"c%d" % n for n in range(100)]}))
    known(monkeypatch, official.CIFAR100, {path.name: md5(path) for path in folder.iterdir()})
    source = official.cifar100(tmp_path)
    np.testing.assert_array_equal(source.train.pixels, planes[:4].transpose(0, 2, 3, 1))
    assert source.train.labels.tolist() == [99, 0, 7, 98]
    assert (len(source.test), len(source.classes), source.classes[99]) == (2, 100, "c99")


class Payload:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def spoil(directory: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("data_batch_3", lambda right: flipped(right, 2000), "is damaged or altered: its md5 is"),
        ("test_batch", lambda right: right[:-1], "is damaged or altered: its md5 is"),
        ("batches.meta", lambda _: pickle.dumps(Payload(Path("owned"))), "is damaged or altered: its md5 is"),
        ("data_batch_2", lambda _: None, "is missing"),
    ],
)
def test_an_altered_file_is_named_and_never_unpickled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    packed: bool,
    name: str,
    change: Callable[[bytes], bytes | None],
    words: str,
) -> None:
    """In an archive too, whose own md5 is right here: each file has to be what its md5 says."""
    monkeypatch.chdir(tmp_path)
    directory, files_md5, _ = write_batches(tmp_path)
    spoil(directory, name, change((directory / name).read_bytes()))
    archive = pack(directory)
    known(monkeypatch, official.CIFAR10, files_md5, md5(archive))
    if packed:
        directory.rename(tmp_path / "elsewhere")
    place = archive if packed else directory
    with pytest.raises(UserError) as caught:
        official.cifar10(tmp_path)
    assert str(caught.value).startswith(f"{place / name} {words}")
    assert f"Delete {place}: " in str(caught.value)
    assert not Path("owned").exists()


@pytest.mark.parametrize("change", [lambda right: right[: len(right) // 2], lambda right: flipped(right, 500)])
def test_a_damaged_archive_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    directory, files_md5, _ = write_batches(tmp_path)
    archive = pack(directory)
    directory.rename(tmp_path / "elsewhere")
    right = md5(archive)
    known(monkeypatch, official.CIFAR10, files_md5, right)
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(UserError, match=rf"{archive} is not CIFAR-10 or is damaged: its md5 is .*, not {right}"):
        official.cifar10(tmp_path)
    archive.unlink()
    archive.mkdir()
    with pytest.raises(UserError, match=f"{archive} is not a file"):
        official.cifar10(tmp_path)


def test_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.image_size=28"):
        official.cifar10(tmp_path, image_size=28)


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
    assert source.train.files[3] == root / "train/dog/0.png"
    assert [len(part.files) for part in (source.train, source.test)] == [6, 6]
    with Image.open(source.train.files[3]) as image:
        np.testing.assert_array_equal(source.train.pixels[3], np.asarray(image))


def test_large_images_shrink_by_area_and_lose_their_margins() -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :4] = image[:, 12:] = 255  # a centre crop drops both margins
    image[:4, 4:8] = 200
    image[0, 4] = 100
    out = fit_square(Image.fromarray(image), 4)
    expected = np.zeros((4, 4, 3), np.uint8)
    expected[:2, :2] = 200
    expected[0, 0] = 175  # the mean of 100, 200, 200, 200
    np.testing.assert_array_equal(out, expected)


def test_sixteen_bits_keep_their_highest_eight() -> None:
    image = Image.fromarray(np.full((8, 8), 0x7FFF, np.uint16))
    assert (fit_square(image, 8) == 0x7F).all()


def test_a_jpeg_on_its_side_is_put_upright(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255  # bright on the left; turned clockwise for display, bright above
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", image, exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        out = fit_square(opened, 8)
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


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))  # its name may have 107 bytes


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def bomb(path: Path) -> None:
    """A JPEG whose head says that it is 65,280 pixels high and wide."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    head, mark, rest = buffer.getvalue().partition(b"\xff\xc0")
    path.write_bytes(head + mark + rest[:3] + b"\xff\x00\xff\x00" + rest[7:])


def save_eps(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, "EPS")


def copies(root: Path) -> None:
    for n in range(7):
        shutil.copy(root / "train/cat/0.png", root / f"test/dog/copy{n}.png")


NEITHER, SAME = "its content is neither PNG nor JPEG", "the same image as"


BROKEN: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("test/dog/a.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\nno more"), []),
    ("test/dog/a.jpg", lambda path: path.write_bytes(b""), [NEITHER]),
    ("test/dog/a.png", lambda path: path.write_text("hello"), [NEITHER]),
    ("test/dog/a.txt", lambda path: path.write_text("hello"), ["not a .png, .jpg or .jpeg file"]),
    ("test/dog/2.JPEG", lambda path: path.write_bytes(path.read_bytes()[:-100]), ["truncated"]),
    ("test/dog/a.png", Path.mkdir, ["not a regular file"]),
    ("test/dog/a.png", os.mkfifo, ["not a regular file"]),
    ("test/dog/a.png", bound, ["not a regular file"]),
    ("test/dog/a.png", lambda path: path.symlink_to("/dev/zero"), ["not a regular file"]),
    ("test/dog/a.png", lambda path: path.symlink_to("nowhere"), ["No such file"]),
    ("test/dog/a.png", loop, ["Too many levels of symbolic links"]),
    ("test/dog/a.png", sparse, ["1099511627776 bytes"]),
    ("test/dog/a.png", bomb, ["4261478400 pixels"]),
    ("test/dog/a.png", save_eps, [NEITHER]),
    ("train/cat/up.png", lambda path: path.symlink_to(".."), ["not a regular file"]),
    ("train/cat/3.png", lambda path: shutil.copy(path.with_name("0.png"), path), [f"{SAME} train/cat/0.png"]),
    ("test/cat/3.png", lambda path: path.symlink_to("../../train/dog/0.png"), [f"{SAME} train/dog/0.png"]),
    ("test/dog/copy4.png", lambda path: copies(path.parents[2]), [f"{SAME} train/cat/0.png", "and 2 more"]),
]


@pytest.mark.parametrize(("name", "make", "words"), BROKEN)
def test_what_is_no_image_or_a_copy_is_left_out_and_named_or_refused(
    root: Path, caplog: pytest.LogCaptureFixture, name: str, make: Callable[[Path], object], words: list[str]
) -> None:
    """A test image that is also trained on is left out of the test."""
    make(root / name)
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        source = folder.image_folder(root, image_size=8)
        for word in ("left out", f"{root / name}: ", *words):
            assert word in caplog.text
        for part in (source.train, source.test):
            assert len(part) == (5 if name == "test/dog/2.JPEG" and part is source.test else 6)
            for file, pixels in zip(part.files, part.pixels, strict=True):
                with Image.open(file) as image:
                    np.testing.assert_array_equal(pixels, fit_square(image, 8))
    assert str(root / name) in (root / ".cifar_pl/left_out.txt").read_text()
    with pytest.raises(UserError, match=r"data\.strict=true") as caught:
        folder.image_folder(root, image_size=8, strict=True)
    for word in (f"{root / name}: ", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("test/loop", loop, ["delete or replace"]),
        ("train/gone", lambda path: path.symlink_to("nowhere"), ["delete or replace"]),
        ("train", lambda path: (shutil.rmtree(path), loop(path)), ["delete or replace"]),
        ("train/bird", Path.mkdir, ["nothing to train on of bird"]),
        ("test/bird", lambda path: shutil.copytree(path.with_name("dog"), path), ["nothing to train on of bird"]),
        ("nowhere", lambda _: None, ["there is no such folder"]),
        ("nowhere", lambda path: save(path / "cat/0.png", np.zeros((8, 8, 3), np.uint8)), ["not two classes"]),
    ],
)
def test_a_class_that_cannot_be_trained_on_is_refused(
    root: Path, name: str, make: Callable[[Path], object], words: list[str]
) -> None:
    make(root / name)
    with pytest.raises(UserError) as caught:
        folder.image_folder(root / name if name == "nowhere" else root, image_size=8)
    for word in (name.rpartition("/")[2], *words):
        assert word in str(caught.value)
    assert not (root / "nowhere/.cifar_pl").exists()


def left(root: Path) -> set[str]:
    """How the names of what lies in the cache's directory end."""
    return {path.suffix for path in (root / ".cifar_pl").glob("*")}


def test_a_file_with_the_size_and_time_of_the_one_before_is_noticed(root: Path) -> None:
    path = root / "train/cat/0.png"
    folder.image_folder(root, image_size=8)
    before = path.stat()
    with Image.open(path) as image:
        negative = 255 - np.asarray(image)
    save(path, negative)
    assert path.stat().st_size == before.st_size
    time = (before.st_atime_ns, before.st_mtime_ns)
    os.utime(path, ns=time)
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # a file system's clock has its ticks
        os.utime(path, ns=time)
    np.testing.assert_array_equal(folder.image_folder(root, image_size=8).train.pixels[0], negative)


BLACK = b"[]\n" + bytes(12 * 8 * 8 * 3)  # nothing is left out


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-50],
        lambda content: content + b"x",
        lambda content: flipped(content, 1000),
        lambda content: flipped(content, 0),
        lambda content: content[:32] + b"[[1, 'a']]" + content[32:],
        lambda _: b"",
    ],
)
def test_a_damaged_cache_is_named(root: Path, change: Callable[[bytes], bytes]) -> None:
    folder.image_folder(root, image_size=8)
    (path,) = (root / ".cifar_pl").glob("*.pixels")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        folder.image_folder(root, image_size=8)
    assert str(caught.value).startswith(f"{path} is damaged or altered: ")
    assert str(caught.value).endswith("Delete it.")
    path.unlink()
    assert len(folder.image_folder(root, image_size=8).train) == 6


def test_a_cache_of_another_version_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = folder.image_folder(root, image_size=8).train.pixels
    (path,) = (root / ".cifar_pl").glob("*.pixels")
    path.write_bytes(hashlib.sha256(BLACK).digest() + BLACK)
    assert not folder.image_folder(root, image_size=8).train.pixels.any()  # so it is the cache that is read
    monkeypatch.setattr(folder, "VERSION", folder.VERSION + 1)
    np.testing.assert_array_equal(folder.image_folder(root, image_size=8).train.pixels, right)


def test_caches_of_the_folder_as_it_was_are_deleted(root: Path) -> None:
    for size in (8, 16):
        folder.image_folder(root, image_size=size)
    old = {*(root / ".cifar_pl").glob("*.pixels")}
    save(root / "train/cat/new.png", np.full((8, 8, 3), 9, np.uint8))
    assert len(folder.image_folder(root, image_size=8).train) == 7
    now = {*(root / ".cifar_pl").glob("*.pixels")}
    assert (len(old & now), len(now - old)) == (1, 1)  # that of the other size, and the new one


def test_what_a_killed_process_left_does_no_harm(root: Path) -> None:
    right = folder.image_folder(root, image_size=8).train.pixels
    (path,) = (root / ".cifar_pl").glob("*.pixels")
    path.rename(path.with_name(f".{path.name}.abcd1234"))
    with path.with_name(f".{path.name}.abcd1234").open("r+b") as half:
        half.truncate(100)
    path.with_suffix(".lock").touch()
    np.testing.assert_array_equal(folder.image_folder(root, image_size=8).train.pixels, right)
    assert path.is_file()


def test_a_pipe_in_the_place_of_the_cache_does_not_keep_us_waiting(root: Path) -> None:
    folder.image_folder(root, image_size=8)
    (path,) = (root / ".cifar_pl").glob("*.pixels")
    path.unlink()
    os.mkfifo(path)
    assert len(folder.image_folder(root, image_size=8).train) == 6
    assert path.is_file()


@pytest.mark.parametrize("block", [Path.touch, lambda path: path.symlink_to("nowhere/at/all"), loop])
def test_where_no_cache_can_be_written_the_images_are_decoded_each_time(
    root: Path, caplog: pytest.LogCaptureFixture, block: Callable[[Path], None]
) -> None:
    block(root / ".cifar_pl")
    for _ in range(2):
        assert len(folder.image_folder(root, image_size=8).train) == 6
    assert caplog.text.count("the next run decodes again") == 2


def test_a_file_name_may_be_any_bytes(root: Path) -> None:
    path = root / os.fsdecode(b"train/cat/caf\xe9 \n'\".png")
    save(path, np.full((8, 8, 3), 9, np.uint8))
    assert len(folder.image_folder(root, image_size=8).train) == 7
    path.write_bytes(b"")
    with pytest.raises(UserError, match="no images, or copies") as caught:
        folder.image_folder(root, image_size=8, strict=True)
    assert r"caf\udce9" in str(caught.value)
    str(caught.value).encode()  # so that it can be written to a log


def test_hidden_files_are_passed_over(root: Path) -> None:
    (root / "train/cat/.DS_Store").write_bytes(b"x")
    assert len(folder.image_folder(root, image_size=8).train) == 6


def test_a_class_may_be_missing_in_test(root: Path) -> None:
    shutil.rmtree(root / "test/dog")
    source = folder.image_folder(root, image_size=8)
    assert source.classes == ("cat", "dog")
    assert source.test.labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_to_validate_on_is_validated_on(root: Path, name: str) -> None:
    shutil.copytree(root / "test/dog", root / name / "dog")  # copies, which test then lacks
    source = folder.image_folder(root, image_size=8)
    assert source.val == 3
    assert source.train.files[-3:] == tuple(sorted((root / name / "dog").iterdir()))
    assert source.test.labels.tolist() == [0, 0, 0]


def photos(root: Path, number: int, first: int = 0) -> None:
    """Ten times as many cats as dogs and trains, all different, no test part."""
    rng = np.random.default_rng(first)
    for name, n in (("cat", 10 * number), ("dog", number), ("train", number)):
        for i in range(first, first + n):
            save(root / name / f"{i}.png", rng.integers(0, 256, (8, 8, 3), np.uint8))


def exam(root: Path, **options: Any) -> set[str]:
    """The files that are tested on; the others are trained on."""
    source = folder.image_folder(root, image_size=8, **options)
    test, train = ({str(path.relative_to(root)) for path in part.files} for part in (source.test, source.train))
    assert not test & train
    assert len(test | train) == len(list(root.glob("*/*.png")))
    for part in (source.train, source.test):
        assert [source.classes[label] for label in part.labels] == [path.parent.name for path in part.files]
        for file, pixels in zip(part.files, part.pixels, strict=True):
            with Image.open(file) as image:
                np.testing.assert_array_equal(pixels, np.asarray(image))
    return test


def test_of_class_folders_alone_a_share_of_each_is_tested_on_and_stays_so_with_more_images(tmp_path: Path) -> None:
    photos(tmp_path, 5)
    first = exam(tmp_path)
    by_class = {name: sum(file.startswith(name) for file in first) for name in ("cat", "dog", "train")}
    assert by_class == {"cat": 10, "dog": 1, "train": 1}
    other = exam(tmp_path, test_seed=1)
    assert other != first
    assert len(exam(tmp_path, test_size=0.4)) == 24
    shutil.rmtree(tmp_path / ".cifar_pl")
    assert exam(tmp_path, test_seed=1) == other  # it depends on nothing but names and the seed
    assert exam(tmp_path) == first
    photos(tmp_path, 5, first=100)
    save(tmp_path / "owl/0.png", np.zeros((8, 8, 3), np.uint8))
    assert exam(tmp_path) == first
    copied = sorted(first)[0]
    shutil.copy(tmp_path / copied, tmp_path / "cat/0_copy.png")
    tested = folder.image_folder(tmp_path, image_size=8).test.files
    assert {str(path.relative_to(tmp_path)) for path in tested} == first  # the copy is not trained on


@pytest.mark.parametrize("content", ["", "{", "7", "[[]]"])
def test_a_damaged_list_of_what_is_tested_on_is_named(tmp_path: Path, content: str) -> None:
    photos(tmp_path, 2)
    folder.image_folder(tmp_path, image_size=8)
    (path,) = (tmp_path / ".cifar_pl").glob("*.json")
    path.write_text(content)
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        folder.image_folder(tmp_path, image_size=8)


def test_where_no_list_can_be_written_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos(tmp_path, 2)
    (tmp_path / ".cifar_pl").touch()
    assert exam(tmp_path) == exam(tmp_path)
    assert "with more images, others are tested on" in caplog.text


@pytest.mark.parametrize("named", [True, False])
def test_one_csv_file_may_name_the_images_and_their_classes(tmp_path: Path, named: bool) -> None:
    rng = np.random.default_rng(0)
    for n in range(10):
        save(tmp_path / f"{'ab'[n % 2]}/{n}.png", rng.integers(0, 256, (8, 8, 3), np.uint8))
    rows = [f"{'ab'[n % 2]}/{n}.png,{('big', 'small')[n // 5]},x" for n in range(10)]
    table = tmp_path / "labels.csv"
    table.write_text("\ufeffpath,label,by\r\n" + "\r\n".join(rows), "utf-8")
    source = folder.image_folder(table if named else tmp_path, image_size=8)
    assert source.classes == ("big", "small")
    assert (len(source.train), len(source.test)) == (8, 2)
    for part in (source.train, source.test):
        assert [int(path.stem) // 5 for path in part.files] == part.labels.tolist()
    table.write_text(table.read_text() + "\na/0.png,\n")
    with pytest.raises(UserError, match=r"labels\.csv: row 11 has no path or no label"):
        folder.image_folder(tmp_path)


def test_images_that_memory_cannot_hold_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e6 < hardware.free_memory() < 1e15
    info = root / "meminfo"
    info.write_text("MemTotal:       99999999 kB\nMemAvailable:       1024 kB\n")
    monkeypatch.setattr(hardware, "MEMORY", info)
    assert len(folder.image_folder(root, image_size=128).train) == 6
    with pytest.raises(UserError, match=r"image_size=256: 12 images take 2 MB of memory, of which 1 are"):
        folder.image_folder(root, image_size=256)
