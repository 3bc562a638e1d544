"""What to do after a run: at most five sentences, each with the figure that it rests on and the command to type.

Each rule is a function of plain values, and gives None where it has no reason to speak. Settings are judged by images
that were held out; test images are only described.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cifar_pl.evaluation import cases
from cifar_pl.evaluation.calibration import temperature
from cifar_pl.evaluation.metrics import interval
from cifar_pl.evaluation.predictions import SPLITS, Predictions

MOST = 5
RATE_FACTOR = 3  # there the runs of benchmarks/results/rates.json lose 4.7 points on average, at a third 1.7
# The share of its mistakes that a network doubts: 19 to 24 % on CIFAR-10's test set in runs with 89 to 93 % right,
# 40 to 56 % with a label in twenty changed by chance. A worse network doubts more (33 % at 73 %), so do fewer classes.
DOUBTED, SURE, MANY = 1 / 3, 0.85, 10
NOISE = 1 / 4  # of the error: a wider interval would hide gains that are worth their epochs
ANNEALED = 0.1  # of the highest rate: below, the schedule itself ends the rise (Smith 2018, arXiv 1803.09820)
IDLE = 0.1  # of the time; 5,000 validations after 45,000 images of training take 4 %, if forward is a third of a step

Rows = Sequence[Mapping[str, float]]  # of metrics.csv
Again = Callable[..., str]  # overrides to change -> the command that repeats the run but for these


class Advice(NamedTuple):
    """What was found and what to do, and the command that does it."""

    text: str
    command: str | None


def advise(
    run: str,
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    rows: Rows,
    finder: Mapping[str, Any] | None,
    predictions: Mapping[str, Predictions],
    names: Sequence[str],
    again: Again,
) -> list[Advice]:
    """The five most important things to do, in this order; none for weights that the run did not test.

    `run` is the directory, `facts` its summary, `finder` its lr_finder.json, `names` the classes.
    """
    if "test" not in facts:
        return []
    selected, images = facts["protocol"]["test_selected"], facts["protocol"]["images"]
    split = "val" if "val" in predictions else "test"
    own = [] if selected else rows  # whose validation is not the test
    # The figures of fewer images, or of a run that stopped early, say less than these rules take them to say.
    if len(rows) < config["trainer"]["max_epochs"] or config["trainer"].get("limit_val_batches", 1.0) != 1.0:
        own = []
    schedule = length(own, images["val"], again)
    found = [held_out(images, selected, again), fit(own, images["val"], config, again, schedule is not None)]
    if finder and not config["lr_finder"].get("optimizer"):  # another optimizer needs other rates
        found += [rate(finder, again)]
    found += [schedule]
    if split in predictions and not selected:
        judged, counts = predictions[split], predictions[split].confusion(len(names))
        found += [labels(len(cases.suspects(judged)), counts, split, run), classes(counts, names, split, run)]
    if "val" in predictions:
        found += [calibration(predictions["val"], config["classifier"]["label_smoothing"], again)]
    if "acc_tta" in facts["test"] and not selected:
        without, both = facts["test"]["acc"], facts["test"]["acc_tta"]
        text = f"With mirror images {both:.2%} of the test images are right, {without:.2%} without, in twice the time."
        found += [Advice(text, None)]
    every = config["trainer"]["check_val_every_n_epoch"]
    found += [idle(rows, images["train"], config["data"]["batch_size"], every, again)]
    told = [one for one in found if one]
    first = {one.command or one.text: one for one in told[::-1]}  # each command once, with its first reason
    return [one for one in told if one is first[one.command or one.text]][:MOST]


def held_out(images: Mapping[str, int], selected: bool, again: Again) -> Advice | None:
    """No images of its own to judge by; `images` has the size of each part."""
    size = f"data.val_size={images['train'] // 10}"  # as much as the default
    if selected:
        text = "The test images chose these weights, so there is nothing left to judge them by: hold images out."
        return Advice(text, again("protocol=honest", size))
    text = f"All {images['train']:,} images were trained on. To judge any setting without the test, hold some out."
    return None if images["val"] else Advice(text, again(size))


def fit(rows: Rows, n: int, config: Mapping[str, Any], again: Again, settled: bool = False) -> Advice | None:
    """Over- or under-fitted, by the last validation of `n` images: what is larger, the error in training or what adds?

    See Ng, Machine Learning Yearning (2018), chapters 20 to 23. Accuracy in training is of augmented images: too low.
    If the length is `settled` by another rule, this one leaves it alone.
    """
    if not (validated := [row for row in rows if "val/acc" in row]):
        return None
    train, val = validated[-1]["train/acc"], validated[-1]["val/acc"]
    (low, high), missed, gap = interval(round(val * n), n), 1 - train, train - val
    figures = f"{train:.1%} right in training, {val:.1%} in validation ({_span(low, high)})"
    if gap > missed and train > high:
        aug, decay = config["aug"] or {}, config["optimizer"].get("weight_decay") or 2.5e-4
        change = f"optimizer.weight_decay={2 * decay:g}"
        if not aug or ("flip" in aug and "cutout" not in aug):
            change = "aug=cutout" if aug else "aug=affine"  # a mirror image may need another label
        return Advice(f"It over-fits: {figures}. Regularise more.", again(change))
    if missed > gap and missed > high - low and not settled:
        return Advice(f"It under-fits: {figures}. Train longer.", again(f"trainer.max_epochs={2 * len(rows)}"))
    return None


def rate(finder: Mapping[str, Any], again: Again) -> Advice | None:
    """The rate was far from what the range test suggests."""
    used, suggested = finder["lr"], finder["suggestions"].get("auto")
    if not suggested or 1 / RATE_FACTOR <= used / suggested <= RATE_FACTOR:
        return None
    text = f"The rate, {used:.2g}, was too {'high' if used > suggested else 'low'}: the range test suggests"
    change = "lr_finder.method=auto" if finder["source"].startswith("range test") else f"optimizer.lr={suggested:.2g}"
    return Advice(f"{text} {suggested:.2g}.", again(change))


def length(rows: Rows, n: int, again: Again) -> Advice | None:
    """The accuracy of `n` images in validation was flat long before the end, or still rose there."""
    if not (points := [(int(row["epoch"]), row["val/acc"]) for row in rows if "val/acc" in row]):
        return None
    epochs, best = len(rows), max(accuracy for _, accuracy in points)
    low, high = interval(round(best * n), n)
    if (noise := (high - low) / 2) > NOISE * (1 - best):
        return None
    flat = next(epoch for epoch, accuracy in points if accuracy >= best - noise)
    if flat <= epochs / 2:
        text = f"Epoch {flat} of {epochs} was as good as the best, {best:.1%}, within the noise of {noise:.1%}."
        return Advice(f"{text} Train shorter.", again(f"trainer.max_epochs={flat}"))
    gain = best - max((accuracy for epoch, accuracy in points if epoch <= 0.8 * epochs), default=best)
    if gain > noise and rows[-1]["lr"] > ANNEALED * max(row["lr"] for row in rows):
        text = f"Validation rose by {gain:.1%} in the last fifth of the epochs, more than the noise of {noise:.1%}."
        return Advice(f"{text} Train longer.", again(f"trainer.max_epochs={2 * epochs}"))
    return None


def labels(doubted: int, counts: NDArray[np.int64], split: str, run: str) -> Advice | None:
    """More of the mistakes are of suspect labels than right labels explain; `counts` are (true, predicted)."""
    right, n = int(counts.trace()), int(counts.sum())
    if right < SURE * n or len(counts) < MANY or right == n or interval(doubted, n - right)[0] <= DOUBTED:
        return None
    text = f"Labels are doubtful: those of {doubted:,} {SPLITS[split]} images, {doubted / (n - right):.0%} of its "
    text += f"mistakes, where up to a third is usual. Look through suspect_labels_{split}.csv."
    return Advice(text, f"python -m cifar_pl.explain {shlex.quote(run)} --by loss")


def classes(counts: NDArray[np.int64], names: Sequence[str], split: str, run: str) -> Advice | None:
    """Classes with a recall whose interval lies below that of all others together; `counts` are (true, predicted).

    The intervals hold for all classes at once (Bonferroni).
    """
    right, support, found, level = counts.diagonal(), counts.sum(axis=1), [], 1 - 0.05 / len(counts)
    for c in np.flatnonzero(support).tolist():
        span, others = interval(int(right[c]), int(support[c]), level), int(support.sum() - support[c])
        if others and span[1] < interval(int(right.sum() - right[c]), others, level)[0]:
            share = right[c] / support[c]
            found.append((share, c, f"{names[c]} {share:.1%} ({span[0]:.1%} to {span[1]:.1%})"))
    if not found:
        return None
    weakest, c = ", ".join(told for *_, told in sorted(found)[:3]), min(found)[1]
    other = int(np.where(np.arange(len(counts)) == c, -1, counts[c]).argmax())
    text = f"Right less often than other {SPLITS[split]} images: {weakest}. Look at what they are taken for."
    pair = [run, "--pair", names[c], names[other]]
    dash = any(name.startswith("-") for name in pair[2:])  # argparse takes it for an option
    return Advice(text, None if dash else f"python -m cifar_pl.explain {shlex.join(pair)}")


def calibration(val: Predictions, smoothing: float, again: Again) -> Advice | None:
    """The mean confidence in validation lies outside the interval of the accuracy."""
    n, right = len(val.label), int((val.predicted == val.label).sum())
    confidence, (low, high) = float(val.logits.double().softmax(1).amax(1).mean()), interval(right, n)
    if not (confidence < low or confidence > high):  # NaN neither
        return None
    surer = confidence > high
    text = f"It is {'over' if surer else 'under'}-confident: {confidence:.1%} sure on average, {right / n:.1%} right "
    text += f"in validation ({_span(low, high)}). Divide the logits by {temperature(val):.2f}"
    if not surer or smoothing > 0:  # less sure is what smoothed labels make it (Müller et al. 2019, arXiv 1906.02629)
        return Advice(f"{text}.", None)
    return Advice(f"{text}, or smooth labels.", again("classifier.label_smoothing=0.1"))


def idle(rows: Rows, n: int, batch_size: int, now: int, again: Again) -> Advice | None:
    """A large share of the epochs' time was not training, of `n` images in whole batches; it validates every `now`."""
    validations = sum("val/acc" in row for row in rows)
    trained = sum(n // batch_size * batch_size / row["images_per_second"] for row in rows)
    share = 1 - trained / sum(row["seconds"] for row in rows) if validations else 0.0
    text = f"{share:.0%} of the epochs' time was not training but validation. Validate less often."
    most = min(5 * len(rows) // max(validations, 1), len(rows))
    every = max((n for n in range(1, most + 1) if len(rows) % n == 0), default=0)  # the last epoch has to be judged
    return Advice(text, again(f"trainer.check_val_every_n_epoch={every}")) if share > IDLE and every > now else None


def _span(low: float, high: float) -> str:
    return f"95 % interval {low:.1%} to {high:.1%}"
