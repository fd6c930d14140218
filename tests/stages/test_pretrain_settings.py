from __future__ import annotations

import pytest

from pipeline.config import parse_section
from stages.settings import PretrainSettings


@pytest.mark.parametrize("model", ["scenes", "sam", "grounding_dino", "matcher"])
def test_a_smaller_world_keeps_the_seed_of_its_own(model: str) -> None:
    # With the seed of the data set a mini model would be trained on the scenes that it is tried on.
    usual = getattr(PretrainSettings(), model).world
    section = parse_section({model: {"world": {"train": 5}}}, "pretrain", PretrainSettings)
    assert getattr(section, model).world == usual.model_copy(update={"train": 5})
    assert usual.seed not in (0, usual.__class__().seed)
