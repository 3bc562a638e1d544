"""Checkpoints: written atomically, read as plain values, so that no code in a file ever runs."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils._pytree import tree_map_only

from cifar_pl.errors import UserError
from cifar_pl.runs import files

log = logging.getLogger(__name__)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint with `files.atomic`.

    Lightning writes it in the system's temporary directory; if that is another disk, a full disk or a signal leaves
    half a file in place of the last good one.

    Attributes:
        holds: Keep copies on the CPU until `flush`, one for each path, in place of writing at once.
    """

    def __init__(self) -> None:
        self.holds = False
        self._held: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save to `path`; if that fails, what was there before still is."""
        if self.holds:
            copied = tree_map_only(torch.Tensor, lambda value: value.to("cpu", copy=True), checkpoint)
            self._held.pop(Path(path), None)  # so that files appear in the order of saving
            self._held[Path(path)] = copied
        else:
            _write(checkpoint, Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file, and the copy that waits to be written there."""
        self._held.pop(Path(path), None)
        super().remove_checkpoint(path)

    def flush(self) -> None:
        """Write the copies. A signal leaves the rest for the next call; a full disk drops it.

        Raises:
            UserError: a file could not be written.
        """
        while self._held:
            path, checkpoint = next(iter(self._held.items()))
            try:
                _write(checkpoint, path)
            except UserError:
                self._held.clear()
                raise
            del self._held[path]


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        with files.atomic(path) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk, or a signal, into a RuntimeError
        if isinstance(error.__context__, (KeyboardInterrupt, SystemExit)):
            raise error.__context__ from None
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(f"{path} could not be written: {reason}. What was there before still is.") from error


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's plain values, on the CPU; anything else in the file is refused."""
    with _using(path):
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
            raise ValueError("It holds no state_dict.")
    return checkpoint


def load_network(path: Path, checkpoint: Mapping[str, Any], network: nn.Module) -> nn.Module:
    """A copy of `network` with the weights of `checkpoint`, which came from `path`; another network's are refused."""
    loaded = copy.deepcopy(network)
    with _using(path):
        loaded.load_state_dict(_of_network(checkpoint["state_dict"]))
    return loaded


def load_weights(path: Path, network: nn.Module) -> None:
    """Start `network` with the weights in a file: a checkpoint, a state dict or safetensors.

    Its last layer stays new if the file's is of other classes.

    Raises:
        UserError: the file cannot be read, or is of another network.
    """
    with _using(path):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # an optional extra

            weights = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            weights = content.get("state_dict", content)
        own = network.state_dict()
        names = (weights, _of_network(weights), {f"network.{k}": v for k, v in weights.items()})  # the last: timm's own
        weights = max(names, key=lambda named: len(named.keys() & own.keys()))
        head = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
        new = {f"{name}.{kind}" for name in head for kind in ("weight", "bias")} & own.keys()
        if any(key in weights and weights[key].shape != own[key].shape for key in new):
            log.info("%s: its last layer is of other classes and stays new.", path)
            weights = {**weights, **{key: own[key] for key in new}}
        network.load_state_dict(weights)


def _of_network(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a classifier's network."""
    return {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}


@contextmanager
def _using(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise UserError(f"{path} cannot be used: {reason} It is damaged, or of another network.") from error
