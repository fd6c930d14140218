"""Operations that PyTorch cannot compute deterministically on a GPU, and those that a piece of code runs.

Operators are listed on the CPU. They are those that a GPU would run, but for attention and bilinear interpolation. The
kernels of attention are deterministic where PyTorch is asked for errors and not for warnings (ATen/native/transformers/
cuda/attention_backward.cu), and torch/nn/functional.py has a deterministic form of `interpolate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DOCUMENTED: Final = (
    "AvgPool3d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool2d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "interpolate",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "NLLLoss",
    "CTCLoss",
    "EmbeddingBag",
    "put_",
    "put_",
    "histc",
    "bincount",
    "median",
    "grid_sample",
    "cumsum",
    "scatter_reduce",
    "resize_",
)
"""What "will throw a RuntimeError" in the documentation of torch.use_deterministic_algorithms (2.13), in its order."""


def _always(arguments: dict[str, Any]) -> bool:
    return True


_WITHOUT: Final[dict[str, Callable[[dict[str, Any]], bool]]] = {
    "avg_pool3d_backward": _always,
    "_adaptive_avg_pool2d_backward": _always,
    "_adaptive_avg_pool3d_backward": _always,
    "adaptive_max_pool2d_backward": _always,
    "adaptive_max_pool3d_backward": _always,
    "fractional_max_pool2d_backward": _always,
    "fractional_max_pool3d_backward": _always,
    "max_pool3d_with_indices_backward": _always,
    "max_unpool2d": _always,
    "max_unpool3d": _always,
    "upsample_linear1d_backward": _always,
    "upsample_bicubic2d_backward": _always,
    "upsample_trilinear3d_backward": _always,
    "_upsample_bilinear2d_aa_backward": _always,
    "_upsample_bicubic2d_aa_backward": _always,
    "reflection_pad1d_backward": _always,
    "reflection_pad2d_backward": _always,
    "reflection_pad3d_backward": _always,
    # NLLLoss of images alone, and not where each pixel's loss is kept (NLLLoss2d.cu).
    "nll_loss2d_forward": lambda arguments: arguments["reduction"] != 0,
    "_ctc_loss_backward": _always,
    "_embedding_bag_dense_backward": lambda arguments: arguments["mode"] == 2,
    "put": _always,
    "put_": _always,
    "histc": _always,
    "bincount": lambda arguments: arguments.get("weights") is not None,
    "kthvalue": _always,
    "median": lambda arguments: "dim" in arguments,
    "grid_sampler_2d_backward": _always,
    "grid_sampler_3d_backward": _always,
    "cumsum": lambda arguments: arguments["self"].is_floating_point(),
    "cumsum_": lambda arguments: arguments["self"].is_floating_point(),
    "scatter_reduce": lambda arguments: arguments["reduce"] == "prod",
    "scatter_reduce_": lambda arguments: arguments["reduce"] == "prod",
    "index_reduce": _always,
    "index_reduce_": _always,
}
"""The same as operators of ATen, with what else alerts in its sources; the value tells by the arguments."""


def documented() -> tuple[str, ...]:
    """Return the operations that the documentation of the installed PyTorch says have no deterministic form."""
    text = torch.use_deterministic_algorithms.__doc__ or ""
    listed = text.partition("operations will throw a\n    :class:`RuntimeError` when ``mode=True``")[2]
    listed = listed.partition("In addition")[0]
    names = [name.rpartition(".")[2] for name in re.findall(r"\* :(?:class|func):`([\w.]+)`", listed)]
    return tuple(names)


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run within it, and those without a deterministic form on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.nondeterministic: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        self.names.add(name)
        if (alerts := _WITHOUT.get(name)) is not None:
            arguments = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
            if alerts(arguments | kwargs):
                self.nondeterministic.add(name)
        return func(*args, **kwargs)
