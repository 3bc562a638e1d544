"""`python -m cifar_pl.export RUN`: the network as ONNX and safetensors, with a model card, checked against itself."""

import argparse
import copy
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cifar_pl.cli import command
from cifar_pl.errors import UserError, require
from cifar_pl.inference import saved
from cifar_pl.runs import files, rundir

log = logging.getLogger(__name__)

IMAGES = 1000  # that the files are checked on
Array = NDArray[Any]
TOLERANCE = 1e-4  # of a probability


def main() -> None:
    """Write `model.onnx`, `model.safetensors` and `README.md`; print the largest difference of a probability.

    Raises:
        UserError: a package is missing, the run's images are, or a file gives other probabilities.
    """
    parser = argparse.ArgumentParser(prog="python -m cifar_pl.export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="run directory, a checkpoint in it, or latest")
    parser.add_argument("--out", type=Path, help="a new directory; default: RUN/export-epochN")
    ask = parser.parse_args()
    run = saved.find(ask.run)
    out = ask.out or run.directory / f"export-epoch{run.epoch}"
    rundir.require_empty(out)
    data = run.data()
    split = "val" if data.size("val") else "test"
    images = data.batch(split, 0, min(IMAGES, data.size(split))).image.contiguous()
    network = run.network.cpu().float().to(memory_format=torch.contiguous_format)
    expected = _probabilities(network, images)
    try:
        onnx, safetensors = _onnx(network, images[:2]), _safetensors(network, run.classes)
        said = _run_onnx(onnx, images.numpy()), _run_safetensors(safetensors, network, images)
    except ModuleNotFoundError as error:
        raise UserError(f'{error}. Install what exporting needs: pip install -e ".[export]"') from error
    difference = max(float(np.abs(p - expected).max()) for p in said)
    require(difference < TOLERANCE, f"The exported network gives other probabilities, by up to {difference:.1e}.")
    files.write(out / "model.onnx", onnx)
    files.write(out / "model.safetensors", safetensors)
    files.write(out / "README.md", _card(run, images.shape[-1]))
    log.info("%s: checked on %d images; probabilities differ by %.1e at most.", out, len(images), difference)


def _probabilities(network: nn.Module, images: torch.Tensor) -> Array:
    with torch.inference_mode():
        return torch.cat([network(part).softmax(1) for part in torch.split(images, 100)]).numpy()


def _onnx(network: nn.Module, images: torch.Tensor) -> bytes:
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            nn.Sequential(network, nn.Softmax(1)),
            (images,),
            path,
            input_names=["image"],
            output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        return path.read_bytes()


def _run_onnx(model: bytes, images: Array) -> Array:
    import onnxruntime  # an optional extra

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = np.array_split(images, max(1, len(images) // 128))  # of two sizes: the batch is free
    return np.concatenate([session.run(None, {"image": part})[0] for part in parts])


def _safetensors(network: nn.Module, classes: list[str]) -> bytes:
    from safetensors.torch import save  # an optional extra

    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    return save(weights, {"classes": json.dumps(classes)})


def _run_safetensors(weights: bytes, network: nn.Module, images: torch.Tensor) -> Array:
    from safetensors.torch import load

    spare = copy.deepcopy(network)
    spare.load_state_dict(load(weights))
    return _probabilities(spare, images)


def _card(run: saved.Saved, size: int) -> str:
    known, figures = run.facts, "These weights were not tested."
    if run.tested:
        chosen = " **Test-selected**: the test images chose the checkpoint."
        figures = (
            f"Test accuracy {known['test']['acc']:.2%} on {known['protocol']['images']['test']} images, one run, seed "
            f"{known['seed']}, in {known['hardware']['precision']}; these files compute in float32."
            f"{chosen if known['protocol'].get('test_selected') else ''}"
        )
    target = run.config["model"]["_target_"].rpartition(".")[2]
    source = run.config["data"]["source"]["_target_"].rpartition(".")[2]
    git = known.get("git") or {"commit": "unknown", "dirty": False}
    commit = git["commit"] + (" with uncommitted changes" if git["dirty"] else "")
    options = " ".join(known.get("overrides", ["unknown"])) or "the defaults"
    return f"""# {target}, {len(run.classes)} classes

{figures}

* Input `image`: uint8, (batch, 3, {size}, {size}), RGB, 0 to 255. The normalisation is inside.
* Output `probability`: float32, (batch, {len(run.classes)}), in this order: {", ".join(run.classes)}.
* Trained on: {source}, weights of epoch {run.epoch}. Commit {commit}, options: {options}.
* It knows these classes only: it names one of them for every picture, and was never shown that there are others.
  Larger pictures are to be cropped to a square and shrunk by area first.

```python
import numpy as np, onnxruntime
from PIL import Image, ImageOps

picture = ImageOps.fit(Image.open("picture.png").convert("RGB"), ({size}, {size}), Image.Resampling.BOX)
image = np.asarray(picture, np.uint8).transpose(2, 0, 1)[None]
print(onnxruntime.InferenceSession("model.onnx").run(None, {{"image": image}})[0])
```

`model.safetensors` has the weights of `cifar_pl.models.resnet18.{target}`; the classes are in its metadata.
"""


if __name__ == "__main__":
    sys.exit(command.script(main))
