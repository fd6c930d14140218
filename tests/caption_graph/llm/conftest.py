from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.caption_graph.llm.run import LLMSession
from pipeline.caption_graph.settings import LLMSettings
from pipeline.caption_graph.triples.normalisation import load_lemmas
from tests.caption_graph.llm.captions import oracle
from tests.caption_graph.llm.server import Endpoint

KEY = "sk-test-7f3a91c2e5"

MakeSession = Callable[..., LLMSession]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _lemma_tables() -> None:
    """Read the lemma tables before any test measures time."""
    load_lemmas()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(oracle, key=KEY) as server:
        yield server


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def make_session(tmp_path: Path, endpoint: Endpoint, lines: list[str]) -> MakeSession:
    def make(on_bad_item: str = "fatal", traffic: dict[str, Any] | None = None, **settings: Any) -> LLMSession:
        pace = {"backoff": 0.01, "backoff_limit": 0.05, "concurrency": 4, "timeout": 5.0} | (traffic or {})
        fields = {"base_url": endpoint.address, "model": "test-model", "captions_per_request": 5} | settings
        return LLMSession(LLMSettings(**fields, traffic=pace), tmp_path / "store", on_bad_item, lines.append)

    return make
