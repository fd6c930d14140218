from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from pipeline.datasets.world.files import generate_world
from pipeline.vision.grounding.prompts import load_text_encoder
from pipeline.vision.grounding.scenes import Scenes, read_scenes
from tests.vision.grounding.grounding_data import ENGINE, TEXT_ENCODER, WORLD


@pytest.fixture(scope="package")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    folder = tmp_path_factory.mktemp("world")
    generate_world(WORLD, folder, engine=ENGINE)
    return read_scenes(folder, "train")


@pytest.fixture(scope="package")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_text_encoder(str(TEXT_ENCODER))[0]
