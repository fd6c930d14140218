"""Our SuperGlue's weights in the names and the order of channels of transformers' implementation."""

from __future__ import annotations

import torch
from torch import Tensor


def to_transformers(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Rename published tensors; channels go from (channel of head, head) to (head, channel of head)."""
    converted = {"bin_score": state["bin_score"]}

    def heads_first(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (-1, heads)).transpose(0, 1).flatten(0, 1)

    for name, tensor in state.items():
        value = tensor.squeeze(-1) if tensor.ndim == 3 else tensor
        module, _, rest = name.partition(".")
        if module == "final_proj":
            converted[f"final_projection.final_proj.{rest}"] = value
        elif module == "kenc":
            converted[f"keypoint_encoder.{_in_perceptron(rest, 'encoder')}"] = value
        elif module == "gnn":
            number, _, inner = rest.removeprefix("layers.").partition(".")
            layer = f"gnn.layers.{number}"
            if inner.startswith("mlp."):
                converted[f"{layer}.{_in_perceptron(inner, 'mlp')}"] = value
            elif inner.startswith("attn.merge."):
                merged = heads_first(value.T).T if value.ndim == 2 else value
                converted[f"{layer}.attention.output.dense.{inner.rpartition('.')[2]}"] = merged
            else:
                _, _, which, kind = inner.split(".")
                role = ("query", "key", "value")[int(which)]
                converted[f"{layer}.attention.self.{role}.{kind}"] = heads_first(value)
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def _in_perceptron(name: str, prefix: str) -> str:
    """`mlp.4.weight` of a sequence linear, norm, ReLU, linear, norm, … → the linear or norm of block 1."""
    _, number, kind = name.split(".")
    block, position = divmod(int(number), 3)
    return f"{prefix}.{block}.{'linear' if position == 0 else 'batch_norm'}.{kind}"


def load_into(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Load converted tensors; the last linear layer of each perceptron has no norm beside it and no name of its own."""
    expected = model.state_dict()
    renamed = {}
    for name, tensor in state.items():
        short = name.replace(".linear.", ".")
        renamed[name if name in expected else short] = tensor
    absent = {name for name in expected.keys() - renamed.keys() if not name.startswith("keypoint_detector.")}
    assert not absent
    assert renamed.keys() <= expected.keys()
    model.load_state_dict(renamed, strict=False)
