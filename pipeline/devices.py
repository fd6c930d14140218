"""Where tensors live."""

from __future__ import annotations

from typing import Literal

import torch

from pipeline.errors import ServiceError


def resolve_device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Turn the setting `engine.device` into a device; `auto` takes a GPU when there is one.

    Raises:
        ServiceError: A GPU is asked for and none is usable.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ServiceError("no usable GPU", where="engine.device", fix="set engine.device to auto or cpu")
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(choice)
