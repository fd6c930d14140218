from __future__ import annotations

import pytest
import torch

from pipeline.captioners.explanation import by_section, explain
from pipeline.captioners.generation import generate
from pipeline.captioners.learned_scene import NO_SCENES
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import GenerationSettings
from pipeline.errors import CheckpointError
from tests.captioners.fused import WIDTHS, fused_settings, make_evidence
from tests.captioners.small import SCENE, VOCABULARY, captions, stir

NOTHING = torch.zeros(3, 2, *NO_SCENES, dtype=torch.float16)


@pytest.fixture(params=["paper", "release"])
def model(request: pytest.FixtureRequest) -> SageCC:
    whole = fused_settings(request.param, evidence={"motion": False, "graph": False}, paper={"dates_apart": True})
    values = whole.model_dump() | {"scene": {"features": "none", "learned_tokens": 5, "channels": 12}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(type(whole).model_validate(values), VOCABULARY, NO_SCENES, WIDTHS)
        stir(model)
    return model.eval()


def test_every_pair_has_the_same_tokens_and_no_change(model):
    memory = model.scene(NOTHING)
    assert memory.tokens.shape == (3, 5, 12) and memory.change.shape == memory.consistency.shape == (3, 1, 5)
    assert torch.equal(memory.tokens[0], memory.tokens[2])
    assert not memory.change.any() and memory.consistency.eq(1).all()


def test_the_dates_of_regions_are_told_apart(model):
    evidence, tokens, rows = make_evidence(), captions(3, 6), torch.arange(3)
    there = model.decode(model.encode(NOTHING, evidence), tokens, rows)
    assert evidence.semantics is not None and evidence.semantics.dates is not None
    turned = evidence.semantics.map(lambda tensor: 1 - tensor if tensor.dtype == torch.int64 else tensor)
    back = model.decode(model.encode(NOTHING, type(evidence)(semantics=turned)), tokens, rows)
    named = evidence.semantics.mask.any(1)
    assert ((there - back).abs().amax((1, 2)) > 1e-3).tolist() == named.tolist()


def test_captions_are_generated_and_explained(model):
    memory = model.encode(NOTHING, make_evidence())
    found = generate(model, memory, GenerationSettings(beams=2, max_length=7))
    assert len(found) == 3
    looked = explain(model, memory, found[0][0].tokens, 0)
    parts = by_section(looked, memory)
    assert parts["image"].shape[-1] == 5
    torch.testing.assert_close(looked.sum(-1), torch.ones(looked.shape[:-1]))


def test_every_weight_learns(model):
    model.train()
    model.decode(model.encode(NOTHING, make_evidence()), captions(3, 6), torch.arange(3)).square().sum().backward()
    # An absence is learnt from pairs without regions only.
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_scenes_are_refused(model):
    with pytest.raises(CheckpointError, match="takes no scenes"):
        model.encode(torch.zeros(3, 2, *SCENE), make_evidence())
