"""Which layer's heat maps, by which method, show what mattered to the network: the test of a run's page.

`python -m benchmarks.heat_maps RUN... [--images N] [--data TEXT] [--out FILE]`

For so many misclassified and so many right images of each run, of its validation if it has one: how far the probability
of the predicted class drops when the hottest quarter of the image is hidden, and when a quarter of the same shape is at
random places (`gradcam.deletion`).
"""

from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import common
from benchmarks.common import head, save, table
from cifar_pl.evaluation.gradcam import METHODS, deletion, heat_maps
from cifar_pl.inference.saved import Saved, find

KINDS = ("misclassified", "right")
LAYERS = ("layer2", "layer3", "layer4")


def measure(run: Saved, number: int) -> dict[tuple[str, str, str], NDArray[np.float32]]:
    """The drops of every layer, method and kind of image, each (up to `number`, 2)."""
    data = run.data()
    split = run.split(None, data)
    predictions = run.predictions(split, data)
    predicted = predictions.logits.argmax(1)
    wrong = (predicted != predictions.label).numpy()
    drops = {}
    for kind, chosen in zip(KINDS, (wrong, ~wrong), strict=True):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(chosen))[:number]
        pixels = torch.from_numpy(data.pixels(split, predictions.index.numpy()[rows])).permute(0, 3, 1, 2)
        classes = predicted[rows]
        for method in METHODS:
            maps = heat_maps(run.network, LAYERS, pixels, classes, run.device, method)
            for layer, one in zip(LAYERS, maps, strict=True):
                found = deletion(run.network, pixels, one, classes, data.mean, run.device)
                drops[layer, method, kind] = found
                print(run.directory, layer, method, kind, *found.mean(0).round(3), flush=True)
    return drops


def main() -> None:
    """Measure all runs, and join their images."""
    parser = common.parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--images", type=int, default=200, help="of each kind, of each run")
    parser.add_argument("--data", default="", help="what the images are, in a few words")
    args = parser.parse_args()
    runs = [find(name) for name in args.runs]
    measured = [measure(run, args.images) for run in runs]
    joined = {key: np.concatenate([one[key] for one in measured]) for key in measured[0]}
    record = {
        "benchmark": "heat_maps",
        **head("benchmarks.heat_maps", runs[0].device.type),
        "data": args.data,
        "runs": [{"overrides": run.facts["overrides"], "commit": run.facts["git"]["commit"]} for run in runs],
        "maps": [
            {
                "layer": layer,
                "method": method,
                "kind": kind,
                "images": len(drops),
                "hottest": float(drops[:, 0].mean()),
                "random": float(drops[:, 1].mean()),
                "standard_error": float((drops[:, 0] - drops[:, 1]).std(ddof=1) / len(drops) ** 0.5),
                "hottest_mattered_more": float((drops[:, 0] > drops[:, 1]).mean()),
            }
            for (layer, method, kind), drops in joined.items()
        ],
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """A row for each method and layer: what hiding the hottest quarter costs more than hiding a random one."""
    of = {(m["method"], m["layer"], m["kind"]): m for m in r["maps"]}
    header, rows = ["method", "layer"], [[METHODS[method][0], layer] for method in METHODS for layer in LAYERS]
    for kind in KINDS:
        header += [f"{kind}: points more than at random", "in"]
        for row, (method, layer) in zip(rows, product(METHODS, LAYERS), strict=True):
            m = of[method, layer, kind]
            more = f"{100 * (m['hottest'] - m['random']):.1f} ± {100 * m['standard_error']:.1f}"
            row += [more, f"{m['hottest_mattered_more']:.0%}"]
    runs = [f"`{' '.join(['python train.py', *run['overrides']])}` (commit {run['commit'][:7]})" for run in r["runs"]]
    number = r["maps"][0]["images"]
    return (
        table(header, rows)
        + f"\n\n{number} images of each kind ({r['data']}), ± the standard error, of {', '.join(runs)}."
    )


if __name__ == "__main__":
    main()
