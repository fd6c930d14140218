"""A process that extracts the triples of synthetic captions, to be killed: `ADDRESS STORE COUNT`."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.language.llm.asking import Asking
from pipeline.language.llm.settings import LLMSettings, TrafficSettings
from pipeline.language.llm.triples import LLMExtractor
from tests.language.llm.captions import make_captions

CONCURRENCY = 6


def faulty_asking(address: str, store: Path) -> Asking:
    # A minute, because the lemma tables load within the first answer's check.
    traffic = TrafficSettings(concurrency=CONCURRENCY, backoff=0.01, backoff_limit=0.05, timeout=60)
    settings = LLMSettings(base_url=address, model="test-model", captions_per_request=10, traffic=traffic)
    return Asking(settings, store, "fatal", lambda line: None)


if __name__ == "__main__":
    address, store, count = sys.argv[1:]
    LLMExtractor(faulty_asking(address, Path(store))).extract(make_captions(int(count)))
