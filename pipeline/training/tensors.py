"""Tensors and a little JSON in one safetensors file: read as data, written whole, byte for byte the same each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import CheckpointError, OutputError
from pipeline.files import atomic_path

# One key: the writer gives no fixed order to several.
_META = "sagecc"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> Path:
    """Write tensors, and JSON-able values `about` them in the order given, to a safetensors file.

    Raises:
        OutputError: The file cannot be written.
    """
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = None if about is None else {_META: json.dumps(about, allow_nan=False)}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            # Its own errors hide the operating system's number.
            raise OutputError(
                f"cannot write: {error}", where=path, fix="make room on the disk and try again"
            ) from error
    return path


def load_tensors(path: Path, *, fix: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors, on the CPU, and what was said about them.

    Raises:
        CheckpointError: The file is missing, damaged, or not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            about = json.loads((file.metadata() or {}).get(_META, "{}"))
    except FileNotFoundError as error:
        raise CheckpointError("the weights are not there", where=path, fix=fix) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"these weights cannot be read: {error}", where=path, fix=fix) from error
    return tensors, about
