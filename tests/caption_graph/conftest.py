from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipeline.caption_graph.build import rebuild
from pipeline.caption_graph.merging import MergeMap
from pipeline.caption_graph.records import CaptionGraph, Key
from pipeline.caption_graph.text_encoders import TextEncoder, TextEncoderSettings, build_text_encoder

STATEMENTS: Mapping[Key, int] = {
    ("house", "build-along", "road"): 6,
    ("villa", "build-along", "road"): 3,
    ("road", "appear-on", "bareland"): 4,
    ("road", "replace", "tree"): 2,
    ("house", "replace", "house"): 1,
    ("tree", "remove", "scene"): 5,
}


def repeated(statements: Mapping[Key, int]) -> list[Key]:
    return [key for key, count in statements.items() for _ in range(count)]


@pytest.fixture
def graph() -> CaptionGraph:
    return rebuild(repeated(STATEMENTS), 1, MergeMap()).graph


@pytest.fixture(scope="session")
def minilm() -> TextEncoder:
    return build_text_encoder(TextEncoderSettings())
