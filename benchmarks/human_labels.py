"""How many of the training labels that the folds' networks doubt are really wrong, with labels given by people.

`python -m benchmarks.human_labels LABELS.npz [--names NAME...] [--folds K] [--dir DIR] [--out FILE] [override ...]`

CIFAR-10N (Wei et al. 2022, arXiv 2110.12088) has labels by people for CIFAR-10's training images: `aggre` is the vote
of three, `worse` a wrong one wherever one of the three was wrong. LABELS.npz holds arrays (50,000,) in the order of the
official files. For each set of labels the images are written into folders by their human labels; each fold
(`data.fold`) is then predicted by a network that was trained on the others, and all images are ordered by how far their
label is from what was predicted, by the project's rule for suspect labels and by cleanlab's. A human label that differs
from the official one counts as wrong. Started again, it goes on where it stopped.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import campaign, common
from benchmarks.common import head, save, table, write_images
from cifar_pl.config.build import build
from cifar_pl.data.images import Images, Source
from cifar_pl.errors import complete
from cifar_pl.evaluation import cases
from cifar_pl.evaluation.predictions import Predictions
from cifar_pl.runs import rundir
from cifar_pl.runs.overrides import key_of

FIRST = (100, 1000, 4000)
TEST = 10  # images of each class: a folder needs a test part, and the figures of it are not looked at
NO_END = 1e7  # seconds
# One validation, at the end: it is of as many images as the training. And nobody looks for their nearest neighbours.
LEAN = ("data.batch_size=128", "callbacks.explore=null", "trainer.check_val_every_n_epoch=${trainer.max_epochs}")


def write_folder(source: Source, labels: NDArray[np.int64], folder: Path) -> None:
    """Write the training images into folders by `labels`, not their own, named by their index; and a few to test on."""
    few = np.concatenate([np.flatnonzero(source.test.labels == c)[:TEST] for c in range(len(source.classes))])
    write_images(folder / "train", Images(source.train.pixels, labels), source.classes)
    write_images(folder / "test", Images(source.test.pixels[few], source.test.labels[few]), source.classes)


def joined(runs: Sequence[Path], order: NDArray[np.int64]) -> Predictions:
    """The folds' predictions of all images together; `order` has the index in the source of each file of the folder."""
    folds = [Predictions.load(run / rundir.PREDICTIONS["val"]) for run in runs]
    logits, label, index = (torch.cat(parts) for parts in zip(*folds, strict=True))
    assert len(np.unique(index.numpy())) == len(order) == len(index)  # each image once
    return Predictions(logits, label, torch.from_numpy(order)[index])


def cleanlab_order(predictions: Predictions) -> NDArray[np.int64]:
    """Indices of the images whose label cleanlab doubts, the most doubtful first."""
    from cleanlab.filter import find_label_issues  # only here: the project itself does without

    issues = find_label_issues(
        predictions.label.numpy(), predictions.logits.softmax(1).numpy(), return_indices_ranked_by="self_confidence"
    )
    return np.asarray(predictions.index.numpy()[issues])


def counted(order: Sequence[int] | NDArray[np.int64], wrong: NDArray[np.bool_]) -> dict[str, Any]:
    """How many of the first images, and of all, are wrong; `wrong` is bool, of all images of the source."""
    hits = wrong[np.asarray(order, np.int64)]
    return {"suspects": len(hits), "wrong": int(hits.sum()), "first": {n: int(hits[:n].sum()) for n in FIRST}}


def measure(name: str, labels: NDArray[np.int64], source: Source, args: Any) -> dict[str, Any]:
    """Train the folds on these labels, and count."""
    folder = args.dir / name / "images"
    if not (folder / "written").exists():
        write_folder(source, labels, folder)
        (folder / "written").touch()
    runs = []
    for fold in range(args.folds):
        others = [*LEAN, *(o for o in args.overrides if key_of(o) != "data")]
        chosen = ("data=image_folder", f"data.root={folder}", f"data.folds={args.folds}", f"data.fold={fold}")
        job = campaign.Job(name, 0, (*others, *chosen), args.dir / name / f"fold{fold}")
        if job.left():
            campaign.train(job, time.monotonic() + NO_END, [], {})
        if job.left():
            raise SystemExit(f"{job.run_dir} was interrupted.")
        runs.append(job.run_dir)
    order = np.array([int(path.stem) for c in source.classes for path in sorted((folder / "train" / c).iterdir())])
    predictions = joined(runs, order)
    wrong = labels != source.train.labels
    return {
        "images": len(labels),
        "wrong": int(wrong.sum()),
        "accuracy": predictions.accuracy(),  # by the human labels
        "ours": counted([case.index for case in cases.suspects(predictions)], wrong),
        "cleanlab": counted(cleanlab_order(predictions), wrong),
    }


def main() -> None:
    """Train and count for each set of labels."""
    parser = common.parser(__doc__)
    parser.add_argument("labels", type=Path, metavar="LABELS.npz")
    parser.add_argument("--names", nargs="+", default=["aggre", "worse"], help="arrays in it (default: aggre worse)")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("multirun/human_labels"), help="where images and runs go")
    parser.add_argument("overrides", nargs="*", help="of train.py, for every run")
    args = parser.parse_intermixed_args()
    source: Source = complete(build(common.config(args.overrides).data.source), "data")
    with np.load(args.labels) as file:
        labels = {name: file[name].astype(np.int64) for name in args.names}
    measured = {name: measure(name, given, source, args) for name, given in labels.items()}
    record = {
        "benchmark": "human_labels",
        **head("benchmarks.human_labels"),
        "overrides": args.overrides,
        "folds": args.folds,
        "labels": measured,
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """Wrong labels among the first suspects, ours beside cleanlab's."""
    rows = []
    for name, m in r["labels"].items():
        for rule in ("ours", "cleanlab"):
            found = m[rule]
            first = [f"{count:,}" if int(n) <= found["suspects"] else "" for n, count in found["first"].items()]
            rows.append((name, f"{m['wrong']:,}", rule, *first, f"{found['wrong']:,} of {found['suspects']:,}"))
    header = ("labels", "wrong", "rule", *(f"of the first {n:,}" for n in FIRST), "of all suspects")
    accuracies = ", ".join(f"{m['accuracy']:.2%} ({name})" for name, m in r["labels"].items())
    return (
        table(header, rows)
        + f"\n\nThe networks: `python train.py {' '.join(r['overrides'])}` on {r['folds']} folds, which agree with the "
        f"human label of an image that they were not trained on in {accuracies}; one run per fold."
    )


if __name__ == "__main__":
    main()
