from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.caption_graph.triples.records import Caption
from pipeline.caption_graph.triples.rules import RulesExtractor

Key = tuple[str, str, str]


@pytest.fixture(scope="session")
def rules() -> RulesExtractor:
    return RulesExtractor()


@pytest.fixture(scope="session")
def keys(rules: RulesExtractor) -> Callable[[str], set[Key]]:
    """What the rules state about one sentence: its (head, relation, tail)."""

    def find(text: str) -> set[Key]:
        return {triple.key for triple in rules.extract([Caption(pair="p", sentence=0, text=text)])}

    return find
