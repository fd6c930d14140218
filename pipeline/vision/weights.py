"""Reading weight files as data: safetensors, or torch state dicts without executing anything."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.checkpoints import missing_advice
from pipeline.errors import CheckpointError

_FETCH = "run `sagecc checkpoints list` to see what can be fetched, or correct the path"


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a flat state dict from `.safetensors`, or from a `.pth`/`.pt` file with `weights_only`.

    Raises:
        CheckpointError: The file is missing, truncated, or holds anything but a mapping of names to tensors.
    """
    if not path.is_file():
        raise CheckpointError("the weights are not there", where=path, fix=missing_advice(path) or _FETCH)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"these weights cannot be read as plain tensors ({reason})",
            where=path,
            fix="fetch the file again; files that need code to be run are refused",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError("not a state dict: expected names of tensors", where=path, fix=_FETCH)
    return state
