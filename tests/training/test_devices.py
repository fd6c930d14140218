"""A step of training and one of the search on a GPU that PyTorch only pretends: tensors have a device and no values.

An operation on tensors of two devices raises an error there, and so does one for which a GPU makes the host wait,
because its result, or the size of it, depends on values.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from pipeline.captioners.inputs import Regions
from pipeline.graph_encoders.tensors import GraphTensors
from pipeline.training.model import PairCaptioner, build_model
from tests.captioners.fused import make_fused, make_side_inputs
from tests.captioners.small import SCENE, VOCABULARY
from tests.worlds import world

TOKENS = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 4, 4, 3], [2, 4, 5, 3]])
OWNERS = torch.tensor([0, 1, 1, 2])
SCENES = torch.zeros(3, 2, *SCENE)

CAPTIONERS: list[tuple[str, dict[str, Any]]] = [
    ("none", {"decoder": {"norm": "post", "tied": True, "bias_scope": "layer"}}),
    ("paper", {}),
    ("paper", {"paper": {"pooling": "attention", "dates_apart": True}, "inputs": {"top_q": 2, "drop": 0.3}}),
    ("paper", {"paper": {"condition": "projected", "empty": "zero", "region_width": None, "region_feedforward": 2}}),
    ("paper", {"graph_encoder": {"kind": "sage", "readout": "attention"}}),
    ("release", {"inputs": {"top_q": 2, "drop": 0.3}}),
]


class PretendedGpu:
    """Moves what a step needs to a GPU that is not there."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode()

    def tensor(self, tensor: Tensor) -> Tensor:
        pretended = self.mode.from_tensor(tensor.detach())
        with self.mode:
            return pretended.to("cuda")

    def model(self, model: nn.Module) -> None:
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(self.tensor(weight), requires_grad=weight.requires_grad))
            for name, values in module.named_buffers(recurse=False):
                setattr(module, name, self.tensor(values))

    def inputs(self, fusion: str) -> dict[str, Any]:
        moved: dict[str, Any] = {"scenes": self.tensor(SCENES)}
        for name, value in make_side_inputs().items() if fusion != "none" else ():
            if isinstance(value, Regions):
                moved[name] = value.map(self.tensor)
            else:
                tensors = (value.features, value.edge_index, value.edge_type)
                moved[name] = GraphTensors(*map(self.tensor, tensors), value.relations)
        return moved

    def loss(self, model: PairCaptioner, inputs: dict[str, Any]) -> Tensor:
        tokens, owners = self.tensor(TOKENS), self.tensor(OWNERS)
        with self.mode:
            loss: Tensor = model(inputs, tokens, owners)
        return loss


@pytest.mark.parametrize(("fusion", "options"), CAPTIONERS, ids=str)
def test_a_step_mixes_no_devices_and_waits_for_nothing(fusion: str, options: dict[str, Any]) -> None:
    gpu, model = PretendedGpu(), PairCaptioner(make_fused(fusion, **options), smoothing=0.1)
    gpu.model(model)
    inputs = gpu.inputs(fusion)
    assert gpu.loss(model.train(), inputs).device.type == "cuda"
    captioner = model.eval().captioner
    words = gpu.tensor(torch.full((3, 2), 2))
    with gpu.mode, torch.inference_mode():
        state = captioner.start(model.encode(inputs), 2, 5)
        for position in range(3):
            logits = captioner.step(state, words, position)
            captioner.reorder(state, words.clamp(max=1))
    assert logits.device.type == "cuda" and logits.shape == (3, 2, VOCABULARY)


def test_what_such_a_check_notices() -> None:
    gpu, model = PretendedGpu(), build_model(world.TINY, VOCABULARY, {"scenes": SCENE}, seed=1)
    gpu.model(model)
    model.captioner.decoder.logits.bias = nn.Parameter(gpu.mode.from_tensor(torch.ones(VOCABULARY)))
    with pytest.raises(RuntimeError, match="same device"):
        gpu.loss(model, gpu.inputs("none"))
    # PyTorch Geometric looks for self-loops, by value, in every layer of GCN and GAT.
    waiting = PairCaptioner(make_fused("paper", graph_encoder={"kind": "gat"}))
    gpu.model(waiting)
    with pytest.raises(DynamicOutputShapeException):
        gpu.loss(waiting, gpu.inputs("paper"))
