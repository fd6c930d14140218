"""A process that extracts the triples of captions, to be killed: `ADDRESS STORE FILE`, a caption a line as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.caption_graph.llm.run import LLMSession
from pipeline.caption_graph.llm.triples import LLMExtractor
from pipeline.caption_graph.settings import LLMSettings, TrafficSettings
from pipeline.caption_graph.triples.records import Caption

CONCURRENCY = 6


def faulty_session(address: str, store: Path) -> LLMSession:
    traffic = TrafficSettings(concurrency=CONCURRENCY, backoff=0.01, backoff_limit=0.05, timeout=60)
    settings = LLMSettings(base_url=address, model="test-model", captions_per_request=10, traffic=traffic)
    return LLMSession(settings, store, "fatal", lambda line: None)


if __name__ == "__main__":
    address, store, file = sys.argv[1:]
    captions = [Caption.model_validate_json(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    LLMExtractor(faulty_session(address, Path(store))).extract(captions)
