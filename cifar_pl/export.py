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
    network = run.network.cpu().float().to(memory_format=torch.contiguous_format)
    expected = _probabilities(network, images)
    try:
        whole = nn.Sequential(network, nn.Softmax(1))
        onnx, program, safetensors = _onnx(whole, images[:2]), _program(whole, images[:2]), _safetensors(run)
        exported = [_run_onnx(onnx, images.numpy()), _run_safetensors(safetensors, network, images)]
        exported += [_run_program(program, images)]
    except ModuleNotFoundError as error:
        raise UserError(f"{error}. Install what exporting needs: {install('export')}") from error
    difference = max(float(np.abs(p - expected).max()) for p in exported)
    require(difference < TOLERANCE, f"The exported network gives other probabilities, by up to {difference:.1e}.")
    files.write(out / "model.onnx", onnx)
    files.write(out / "model.pt2", program)
    files.write(out / "model.safetensors", safetensors)
    files.write(out / "README.md", page.render("card.md", run=run, facts=run.facts, size=images.shape[-1]))
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
            network,
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
    parts = np.array_split(images, max(1, len(images) // 128))  # of two sizes, to check that any batch size works
    return np.concatenate([session.run(None, {"image": part})[0] for part in parts])


def _program(network: nn.Module, images: torch.Tensor) -> bytes:
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _run_program(program: bytes, images: torch.Tensor) -> Array:
    network = torch.export.load(io.BytesIO(program)).module()
    with torch.inference_mode():
        return torch.cat([network(part) for part in torch.split(images, 128)]).numpy()


def _safetensors(run: Saved) -> bytes:
    from safetensors.torch import save  # an optional extra

    weights = {name: value.contiguous() for name, value in run.network.state_dict().items()}
    normalize: Any = next(m for m in run.network.modules() if isinstance(m, Normalize))
    statistics = {name: json.dumps(getattr(normalize, name).flatten().tolist()) for name in ("mean", "std")}
    return save(weights, {"classes": json.dumps(run.classes), **statistics})


def _run_safetensors(weights: bytes, network: nn.Module, images: torch.Tensor) -> Array:
    from safetensors.torch import load

    spare = copy.deepcopy(network)
    spare.load_state_dict(load(weights))
    return _probabilities(spare, images)


if __name__ == "__main__":
    sys.exit(command.script(main))
