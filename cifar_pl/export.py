"""`cifar-pl export RUN`: the network as ONNX, torch.export and safetensors, with a card, checked."""

import argparse
import copy
import io
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
from cifar_pl.errors import UserError, install, require
from cifar_pl.inference import saved
from cifar_pl.inference.saved import Saved
from cifar_pl.models.resnet import Normalize
from cifar_pl.reporting import page
from cifar_pl.runs import files, rundir

log = logging.getLogger(__name__)

IMAGES = 1000  # on which the files are checked
TOLERANCE = 1e-4  # of a probability
Array = NDArray[Any]
Exported = tuple[bytes, Array]  # a file, and the probabilities that it gives


def main() -> None:
    """Write `model.onnx`, `.pt2`, `.safetensors` and `README.md`, unless they differ from the network."""
    parser = argparse.ArgumentParser(prog="cifar-pl export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="run directory, a checkpoint in it, or latest")
    parser.add_argument("--out", type=Path, help="a new directory; default: RUN/export-epochN")
    ask = parser.parse_args()
    run = saved.find(ask.run)
    out = ask.out or run.directory / f"export-epoch{run.epoch}"
    rundir.require_empty(out)
    data = run.data()
    split = "val" if data.size("val") else "test"
    images = data.batch(split, 0, min(IMAGES, data.size(split))).image.contiguous()
    whole = nn.Sequential(run.network.cpu().float().to(memory_format=torch.contiguous_format), nn.Softmax(1))
    try:
        made = {"onnx": _onnx(whole, images), "pt2": _program(whole, images)}
        made["safetensors"] = _safetensors(run, whole, images)
    except ModuleNotFoundError as error:
        raise UserError(f"{error}. Install what exporting needs: {install('export')}") from error
    expected = _probabilities(whole, images)
    difference = max(float(np.abs(p - expected).max()) for _, p in made.values())
    require(difference < TOLERANCE, f"The exported network gives other probabilities, by up to {difference:.1e}.")
    for suffix, (content, _) in made.items():
        files.write(out / f"model.{suffix}", content)
    files.write(out / "README.md", page.render("card.md", run=run, facts=run.facts, size=images.shape[-1]))
    log.info("%s: checked on %d images; probabilities differ by %.1e at most.", out, len(images), difference)


def _probabilities(whole: nn.Module, images: torch.Tensor) -> Array:
    with torch.inference_mode():
        return torch.cat([whole(part) for part in torch.split(images, 100)]).numpy()


def _onnx(whole: nn.Module, images: torch.Tensor) -> Exported:
    import onnxruntime  # an optional extra

    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            whole,
            (images[:2],),
            path,
            input_names=["image"],
            output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        model = path.read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = np.array_split(images.numpy(), max(1, len(images) // 128))  # of two sizes: any batch size has to work
    return model, np.concatenate([session.run(None, {"image": part})[0] for part in parts])


def _program(whole: nn.Module, images: torch.Tensor) -> Exported:
    program = torch.export.export(whole, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(program, file)
    content = file.getvalue()
    return content, _probabilities(torch.export.load(io.BytesIO(content)).module(), images)


def _safetensors(run: Saved, whole: nn.Sequential, images: torch.Tensor) -> Exported:
    from safetensors.torch import load, save  # an optional extra

    weights = {name: value.contiguous() for name, value in run.network.state_dict().items()}
    normalize: Any = next(m for m in run.network.modules() if isinstance(m, Normalize))
    statistics = {name: json.dumps(getattr(normalize, name).flatten().tolist()) for name in ("mean", "std")}
    content = save(weights, {"classes": json.dumps(run.classes), **statistics})
    spare = copy.deepcopy(whole)
    spare[0].load_state_dict(load(content))
    return content, _probabilities(spare, images)


if __name__ == "__main__":
    sys.exit(command.script(main))
