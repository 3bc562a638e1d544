"""What a network sees in images: its features, the nearest training images by them, near-duplicates, a map."""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from cifar_pl.errors import UserError, require
from cifar_pl.evaluation.predictions import SPLITS
from cifar_pl.machine import hardware

NEAREST = 3  # training images of each image
SIMILARITIES = 2**24  # at once: 64 MB
SMALL, SHIFT = 16, 2  # pixels of the images that are compared, and how far they are shifted
# Correlation of copies. With the network of ten epochs 300 of CIFAR-10's test images reach it. Of these, ciFAIR (Barz
# and Denzler 2020, arXiv 1902.00423) lists 180 as copies or very similar; we looked at the other 120: 99 are copies.
COPY = 0.75
FEWEST, MAPPED = 10, 2000  # images on a map
COMPONENTS = 50  # as scikit-learn advises before t-SNE


class Neighbours(NamedTuple):
    """The nearest training images of the N images of a split."""

    index: NDArray[np.int64]  # type: ignore[assignment]  # (N,), as in `Predictions`
    near: NDArray[np.int64]  # (N, 3) indices into the source's training part, nearest first
    similarity: NDArray[np.float32]  # (N, 3) cosine of penultimate features, in [-1, 1]
    duplicate: NDArray[np.bool_]  # (N,) whether one of them is a copy, see `duplicates`; not judged if all are alike


class Explored(NamedTuple):
    """What `explored.npz` holds."""

    neighbours: Mapping[str, Neighbours]  # by split: test, and val if the run has one of its own
    compared: int  # number of training images among which the nearest were looked for
    mapped: NDArray[np.int64]  # (M,) indices of test images
    place: NDArray[np.float32]  # (M, 2) in [0, 1]; M is 0 if there are too few images for a map
    train: int  # images in the source's training part

    @classmethod
    def load(cls, path: Path) -> "Explored":
        """Read what `arrays` gives; UserError if it is damaged."""
        try:
            with np.load(path) as file:
                neighbours = {
                    split: Neighbours(*(file[f"{split}_{name}"] for name in Neighbours._fields))
                    for split in SPLITS
                    if f"{split}_index" in file
                }
                return cls(
                    neighbours, int(file["compared"]), file["mapped"], file["place"], int(file["train"])
                ).validated()
        except Exception as error:  # numpy raises many kinds for damaged files
            raise UserError(f"{path} cannot be used: {error} It is damaged, or of another version.") from error

    def arrays(self) -> dict[str, Any]:
        """One array per name, for `files.write_npz`."""
        parts = {f"{s}_{name}": value for s, of in self.neighbours.items() for name, value in of._asdict().items()}
        return {**parts, "compared": self.compared, "mapped": self.mapped, "place": self.place, "train": self.train}

    def validated(self) -> "Explored":
        """Return self after checking shapes, dtypes, and the range of indices."""
        for of in self.neighbours.values():
            n = len(of.index)
            require(
                [str(values.dtype) for values in of] == ["int64", "int64", "float32", "bool"]
                and [values.shape for values in of] == [(n,), (n, NEAREST), (n, NEAREST), (n,)]
                and min(of.index.min(), of.near.min()) >= 0
                and of.near.max() < self.train,
                "Its neighbours do not belong together.",
            )
        require(
            [str(self.mapped.dtype), str(self.place.dtype)] == ["int64", "float32"]
            and self.place.shape == (*self.mapped.shape, 2)
            and bool(((self.place >= 0) & (self.place <= 1)).all()),
            "Its map is not one.",
        )
        return self


def features(
    network: nn.Module,
    batches: Iterable[NDArray[np.uint8]],
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> torch.Tensor:
    """What enters the linear layer that runs last, scaled to length 1: float16 (N, D), on the CPU.

    A copy of the network runs, in evaluation mode. UserError if it has no such layer.

    Args:
        network: uint8 (N, 3, H, W) to logits.
        batches: uint8 (n, H, W, 3), N images in all.
        device: Device of the copy.
        autocast: A context with the precision to compute in.
    """
    seen, entered = list[torch.Tensor](), list[torch.Tensor]()
    memory_format = hardware.memory_format(torch.device(device).type)
    spare = copy.deepcopy(network).to(device).eval()
    for layer in spare.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.inference_mode():
        for pixels in batches:
            with autocast():
                spare(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device, memory_format=memory_format))
            require(entered and entered[-1].ndim == 2, "the network does not end in a linear layer: no features.")
            seen.append(F.normalize(entered[-1].float()).half().cpu())
            entered.clear()
    return torch.cat(seen)


def nearest(
    queries: torch.Tensor, bank: torch.Tensor, number: int = NEAREST, device: torch.device | str = "cpu"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of `bank` that are nearest to each of `queries`, nearest first, and their cosines: both (N, number).

    Queries are (N, D), `bank` is (M, D). Exact, in float32; of equally near rows the lower one comes first.
    """
    require(len(bank) >= number, f"there are only {len(bank)} training images to compare with.")
    bank = F.normalize(bank.to(device).float())
    near, similarity = np.empty((len(queries), number), np.int64), np.empty((len(queries), number), np.float32)
    step = max(1, SIMILARITIES // len(bank))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        cosines = (F.normalize(queries[part].to(device).float()) @ bank.T).clamp(-1, 1)
        for k in range(number):
            best = cosines.max(1)  # the first of equals, which topk does not promise
            near[part, k], similarity[part, k] = best.indices.cpu(), best.values.cpu()
            cosines.scatter_(1, best.indices[:, None], -torch.inf)
    return near, similarity


def duplicates(images: NDArray[np.uint8], near: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether any of the images that are near to each is a copy of it, perhaps a mirrored one: bool (N,).

    As in a difference hash, differences of neighbouring pixels are compared, in grey images of 16x16 pixels: by their
    correlation, the largest over shifts by up to an eighth of the image. Differences, because copies differ in colour
    and contrast, and every ship is dark on a bright ground.

    Args:
        images: uint8 (N, H, W, 3).
        near: uint8 (N, k, H, W, 3).
    """
    here = _shifted(images)[..., (2 * SHIFT + 1) ** 2 // 2]
    found = np.zeros(len(images), bool)
    for others in near.swapaxes(0, 1):
        for seen in (others, others[:, :, ::-1]):
            correlation = torch.einsum("nd,nds->ns", here, _shifted(seen))
            found |= (correlation.amax(1) >= COPY).numpy()
    return found


def _shifted(images: NDArray[np.uint8]) -> torch.Tensor:
    """Differences to the pixels below and to the right in each shifted window, standardised: float32 (N, 242, 25)."""
    grey = F.adaptive_avg_pool2d(torch.from_numpy(images.mean(3, dtype=np.float32)), SMALL)
    steps = torch.stack([grey[:, 1:, :-1] - grey[:, :-1, :-1], grey[:, :-1, 1:] - grey[:, :-1, :-1]], 1)
    windows = F.unfold(steps, SMALL - 1 - 2 * SHIFT).view(len(images), 2, -1, (2 * SHIFT + 1) ** 2)
    return F.normalize((windows - windows.mean(2, keepdim=True)).flatten(1, 2), dim=1)


def sample(labels: NDArray[np.int64], number: int, seed: int = 0) -> NDArray[np.int64]:
    """Up to `number` rows of `labels`, ascending; from each class its share, rounded up or down."""
    number, n = min(number, len(labels)), len(labels)
    rows = np.random.default_rng(seed).permutation(n)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    return np.sort(rows[np.arange(number) * n // max(number, 1)])


def chosen(labels: NDArray[np.int64], wrong: NDArray[np.bool_], number: int = MAPPED) -> NDArray[np.int64]:
    """Up to `number` rows for a map: first the mistakes, half of it at most if there are others, then a sample."""
    mistakes, right = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    mistakes = mistakes[sample(labels[mistakes], max(number // 2, number - len(right)))]
    return np.concatenate([mistakes, right[sample(labels[right], number - len(mistakes))]])


def reduced(vectors: torch.Tensor) -> NDArray[np.float32]:
    """The first principal components of N features, 50 at most: float32 (N, d)."""
    from sklearn.decomposition import PCA  # here and below, because few commands need it: 0.5 s

    components = min(COMPONENTS, *vectors.shape)
    made: NDArray[np.float32] = PCA(components, random_state=0).fit_transform(vectors.float().numpy())
    return made


def layout(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places of N >= 10 images by t-SNE of what `reduced` gives, the same on every call: float32 (N, 2) in [0, 1]."""
    from sklearn.manifold import TSNE

    place = TSNE(perplexity=min(30.0, (len(vectors) - 1) / 3), random_state=0).fit_transform(vectors)
    place -= place.min(0)
    made: NDArray[np.float32] = place / np.maximum(place.max(0), np.finfo(np.float32).tiny)
    return made
