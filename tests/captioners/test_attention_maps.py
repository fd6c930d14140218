from __future__ import annotations

import pytest
import torch

from pipeline.captioners.attention_maps import by_section, explain
from tests.captioners.fused import make_fused, make_side_inputs


def test_explanation_starts_with_the_attention_of_the_first_word(model, memory):
    attention = explain(model, memory, (5, 7, 3), row=2)
    expected = model.cross_attention(memory, torch.tensor([[2, 5, 7]]), torch.tensor([2]))[0]
    torch.testing.assert_close(attention, expected)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2, 2))


@pytest.mark.parametrize("fusion", ["none", "paper", "release"])
def test_attention_is_split_by_the_sections_of_the_memory(scenes, fusion):
    model, side_inputs = make_fused(fusion), make_side_inputs()
    memory = model.encode({"scenes": scenes, **side_inputs})
    sections = by_section(explain(model, memory, (5, 7, 3), row=0), memory)
    if fusion != "release":
        assert list(sections) == ["image"]
        assert sections["image"].shape == (3, 2, 2, 6)
        return
    assert list(sections) == ["image", "motion", "semantics", "nodes", "image attended"]
    torch.testing.assert_close(sum(weights.sum(-1) for weights in sections.values()), torch.ones(3, 2, 2))
    for section, name in (("motion", "regions"), ("semantics", "semantics")):
        mask = side_inputs[name].mask[0]
        assert (sections[section][..., mask] > 0).all()
        assert not sections[section][..., ~mask].any()
