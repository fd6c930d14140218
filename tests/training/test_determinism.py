"""No operation of a training on a GPU may be without a deterministic form, since there it would raise an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.captioners.attention_maps import attention_maps
from pipeline.captioners.settings import GenerationSettings, SceneEncoderSettings
from pipeline.training.inference import no_change_mass
from pipeline.training.loop import WeightAverage
from pipeline.training.model import ImageFront, PairCaptioner, build_model
from pipeline.vision.regions.settings import GRID
from pipeline.vision.scenes.settings import BackboneSettings
from tests.captioners.fused import SHAPES, fused_settings, make_fused, make_regions, make_side_inputs
from tests.captioners.small import SCENE, VOCABULARY
from tests.training.cuda_determinism import DOCUMENTED, Operators, documented
from tests.worlds import world

TOKENS = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 4, 4, 3], [2, 4, 5, 3]])
OWNERS = torch.tensor([0, 1, 1, 2])

CAPTIONERS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("none", {"decoder": {"norm": "post", "tied": True, "bias_scope": "layer"}}),
    ("none", {"decoder": {"norm": "none", "spatial_bias": False}}),
    ("paper", {}),
    ("paper", {"paper": {"pooling": "attention", "dates_apart": True}, "inputs": {"top_q": 2, "drop": 0.3}}),
    ("paper", {"paper": {"condition": "projected", "empty": "zero", "region_width": None, "region_feedforward": 2}}),
    ("paper", {"inputs": {"frozen_graph": True, "date_embedding": False}}),
    ("paper", {"graph_encoder": {"bases": None}}),
    ("release", {}),
    ("release", {"inputs": {"top_q": 2, "drop": 0.3, "date_embedding": False}}),
    *[
        ("paper", {"graph_encoder": {"kind": kind, "readout": readout}})
        for kind in ("rgcn", "gcn", "gat", "sage", "monet", "none")
        for readout in ("mean", "attention")
    ],
]


def test_the_list_is_that_of_the_installed_pytorch() -> None:
    assert documented() == DOCUMENTED


def test_an_operation_without_a_deterministic_form_is_noticed() -> None:
    image = torch.ones(1, 1, 4, 4, requires_grad=True)
    with Operators() as ran:
        nn.functional.grid_sample(image, torch.zeros(1, 2, 2, 2), align_corners=False).sum().backward()
        torch.ones(3).cumsum(0)
        torch.ones(3, dtype=torch.int64).cumsum(0)
        nn.functional.cross_entropy(torch.rand(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64))
    assert ran.nondeterministic == {"grid_sampler_2d_backward", "cumsum", "nll_loss2d_forward"}


def scenes() -> Tensor:
    return torch.randn((3, 2, *SCENE), generator=torch.Generator().manual_seed(1))


def operators(model: PairCaptioner, inputs: dict[str, Any]) -> Operators:
    """Run two steps of a training, a validation and captions with their attention maps."""
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], fused=True)
    average = WeightAverage(0.9)
    with Operators() as ran:
        for step in range(2):
            model.train()
            loss = model(inputs, TOKENS, OWNERS)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model, step)
        model.eval()
        with torch.inference_mode():
            memory = model.encode(inputs)
            model.generate(memory, GenerationSettings(beams=1, max_length=5))
            # A finished model describes in full precision.
            finished = PairCaptioner(model.captioner, model.front)
            memory = finished.encode(inputs)
            captions = finished.generate(memory, GenerationSettings(beams=2, max_length=5))
            no_change_mass(finished, memory, [[2, 4, 3]])
            attention_maps(model.captioner, memory, [best.tokens for best, *_ in captions])
    assert {"embedding_dense_backward", "_fused_adam_"} <= ran.names
    return ran


@pytest.mark.parametrize(("fusion", "options"), CAPTIONERS, ids=str)
def test_every_captioner_trains_by_deterministic_operations(fusion: str, options: dict[str, Any]) -> None:
    captioner = make_fused(fusion, **options)
    inputs = {"scenes": scenes(), **(make_side_inputs() if fusion != "none" else {})}
    assert not operators(PairCaptioner(captioner, smoothing=0.1, bf16=True), inputs).nondeterministic


@pytest.mark.parametrize("head_norm", ["batch", "group"])
@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_every_scene_encoder_does(head_norm: str, norm: str) -> None:
    scene = {"head_norm": head_norm, "norm": norm, "positions": "sinusoid", "feedforward": 2}
    settings = world.TINY.model_copy(update={"scene": world.TINY.scene.model_copy(update=scene)})
    model = build_model(settings, VOCABULARY, {"scenes": SCENE}, seed=1)
    assert not operators(model, {"scenes": scenes()}).nondeterministic


@pytest.mark.parametrize("fusion", ["paper", "release"])
def test_captioners_without_scenes_and_with_a_head_of_their_own_do(fusion: str) -> None:
    grids = 2 * GRID * GRID
    inputs = {**make_side_inputs(), "regions": make_regions((2, 0, 4), grids, seed=3)}
    settings = fused_settings(fusion, inputs={"descriptor_width": 8})
    settings = settings.model_copy(update={"scene": SceneEncoderSettings(features="none", learned_tokens=4)})
    model = build_model(settings, VOCABULARY, {**SHAPES, "regions": (grids,)}, seed=1)
    assert not operators(model, inputs).nondeterministic


@pytest.mark.parametrize("batch_norm", ["trained", "all"])
def test_a_backbone_that_is_trained_too_does(batch_norm: Any) -> None:
    front = ImageFront(BackboneSettings(), None, batch_norm)
    images = torch.randint(256, (3, 2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shape = tuple(front.eval()(images[:1]).shape[2:])
    model = build_model(world.TINY, VOCABULARY, {"scenes": shape}, seed=1, front=front)
    assert not operators(model, {"images": images}).nondeterministic
