"""Checkpoints: written whole or not at all; read as plain values, so that no code in a file ever runs."""

import copy
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from torch import nn

from cifar_pl import rundir
from cifar_pl.errors import UserError


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning writes it in the system's temporary directory; where that is another disk, a full disk or a
    signal leaves half a file in place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save to `path`.

        Raises:
            UserError: it could not be written; what was at `path` is still there.
        """
        try:
            with rundir.whole(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise UserError(f"{path} could not be written: {reason}. What was there before still is.") from error


def read(path: Path, network: nn.Module) -> tuple[dict[str, Any], nn.Module]:
    """A checkpoint and a copy of `network` with its weights, on the CPU; `network` stays as it is.

    Raises:
        UserError: the file is damaged, holds more than plain values, or is of another network.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
        loaded = copy.deepcopy(network)
        loaded.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    except Exception as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise UserError(f"{path} cannot be used: {reason} It is damaged, or of another network.") from error
    return checkpoint, loaded
