"""Images of a run as files in folders by their true and their predicted class."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cifar_pl.data.datamodule import DataModule
from cifar_pl.evaluation.cases import Case


def write(out: Path, split: str, cases: Sequence[Case], data: DataModule) -> None:
    """Copy the file of each image to `out/<true>/<predicted>/`; one without a file becomes `<index>.png`."""
    classes, files, written = data.load().classes, data.images(split).files, set[Path]()
    for case in cases:
        place = out / folder(classes[case.true]) / folder(classes[case.predicted])
        place.mkdir(parents=True, exist_ok=True)
        if files:
            to = place / files[case.index].name
            to = place / f"{case.index}-{to.name}" if to in written else to  # a CSV file may name a/1.png and b/1.png
            written.add(to)
            shutil.copyfile(files[case.index], to)
        else:
            Image.fromarray(data.pixels(split, [case.index])[0]).save(place / f"{case.index}.png")


def folder(name: str) -> str:
    """A class as the name of a folder: a leading dot and what a file system may not take as in an address, `%2F`."""
    return re.sub(r'^\.|[%/\\:*?"<>|\x00-\x1f]', lambda found: f"%{ord(found[0]):02X}", name) or "%"
