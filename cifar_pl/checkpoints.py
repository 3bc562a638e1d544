"""Reading checkpoints: plain values only, so that no code in a file ever runs."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_pl.errors import UserError


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
