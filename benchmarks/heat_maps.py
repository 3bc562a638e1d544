"""Which layer's heat maps, by which method, show what mattered to the network: the test of a run's page.

`python -m benchmarks.heat_maps RUN... [--images N] [--data TEXT] [--out FILE]`

For so many misclassified and so many right images of each run, of its validation if it has one: how far the probability
of the predicted class drops when the hottest quarter of the image is hidden, and when a quarter of the same shape is at
random places (`gradcam.deletion`). Beside them are maps that know nothing of the image: things are often in the middle.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import common
from benchmarks.common import head, save, table
from cifar_pl.evaluation.gradcam import METHODS, deletion, heat_maps, middle
from cifar_pl.inference.saved import Saved, find

KINDS = ("misclassified", "right")
LAYERS = ("layer2", "layer3", "layer4")


def measure(run: Saved, number: int) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The drops by kind of image and by the name of the maps, each (up to `number`, 3)."""
    data = run.data()
    split = run.split(None, data)
    predictions = run.predictions(split, data)
    predicted = predictions.logits.argmax(1)
    wrong = (predicted != predictions.label).numpy()
    drops: dict[str, dict[str, NDArray[np.float32]]] = {}
    for kind, chosen in zip(KINDS, (wrong, ~wrong), strict=True):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(chosen))[:number]
        pixels = torch.from_numpy(data.pixels(split, predictions.index.numpy()[rows])).permute(0, 3, 1, 2)
        classes = predicted[rows]
        maps: dict[str, NDArray[Any]] = {}
        for method, (title, _) in METHODS.items():
            found = heat_maps(run.network, LAYERS, pixels, classes, run.device, method)
            maps |= {f"{title} of {layer}": one for layer, one in zip(LAYERS, found, strict=True)}
        maps["another image's Grad-CAM of layer4"] = np.roll(maps["Grad-CAM of layer4"], 1, axis=0)
        maps["the middle of the image"] = np.broadcast_to(middle(*pixels.shape[2:]), (len(rows), *pixels.shape[2:]))
        drops[kind] = {}
        for name, one in maps.items():
            drops[kind][name] = deletion(run.network, pixels, one, classes, data.mean, run.device)
            print(run.directory, kind, name, *drops[kind][name].mean(0).round(3), flush=True)
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

    def joined(kind: str, name: str) -> dict[str, float]:
        drops = np.concatenate([one[kind][name] for one in measured])
        more = drops[:, 0] - drops[:, 1]
        return {
            "images": len(drops),
            "hottest": float(drops[:, 0].mean()),
            "random": float(drops[:, 1].mean()),
            "standard_error": float(more.std(ddof=1) / len(more) ** 0.5),
            "hottest_mattered_more": float((more > 0).mean()),
        }

    record = {
        "benchmark": "heat_maps",
        **head("benchmarks.heat_maps", runs[0].device.type),
        "data": args.data,
        "runs": [{"overrides": run.facts["overrides"], "commit": run.facts["git"]["commit"]} for run in runs],
        "maps": {name: {kind: joined(kind, name) for kind in KINDS} for name in measured[0][KINDS[0]]},
    }
    print(tables(record))
    save(args.out, record)


def tables(r: dict[str, Any]) -> str:
    """A row for each sort of map: what hiding its hottest quarter costs more than hiding a random one."""
    header, rows = ["hottest quarter of"], []
    for kind in KINDS:
        header += [f"{kind}: points more than at random", "in"]
    for name, kinds in r["maps"].items():
        rows.append([name])
        for m in (kinds[kind] for kind in KINDS):
            more = f"{100 * (m['hottest'] - m['random']):.1f} ± {100 * m['standard_error']:.1f}"
            rows[-1] += [more, f"{m['hottest_mattered_more']:.0%}"]
    runs = [f"`{' '.join(['python train.py', *run['overrides']])}` (commit {run['commit'][:7]})" for run in r["runs"]]
    return (
        table(header, rows) + f"\n\n{m['images']} images of each kind ({r['data']}), ± the standard error, "
        f"of {', '.join(runs)}."
    )


if __name__ == "__main__":
    main()
