"""A thousand captions through a bad endpoint and a killed process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.language.llm.triples import LLMExtractor
from pipeline.language.triples.records import write_triples
from tests.language.llm.captions import make_captions, oracle
from tests.language.llm.client_process import CONCURRENCY, faulty_asking
from tests.language.llm.conftest import KEY
from tests.language.llm.server import Endpoint, Fault

ROOT = Path(__file__).resolve().parents[3]
COUNT = 1000
LIMITED = Fault(status=429, headers={"retry-after": "0.02"}, kind="429")
BROKEN = Fault(status=500, kind="500")
MALFORMED = (
    Fault(content=lambda right: right[: len(right) // 2], finish="length", kind="malformed"),
    Fault(content="I see two pictures.", kind="malformed"),
    Fault(content=lambda right: right.replace('"tail": "', '"tail": "volcano of '), kind="malformed"),
)


def injected(items: tuple[Mapping[str, Any], ...], seen: int) -> Fault | None:
    """10 % 429, 5 % 500, 5 % malformed, drawn from the request's content and how often it came."""
    digest = hashlib.sha256(json.dumps([items, seen], sort_keys=True).encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    if share < 0.10:
        return LIMITED
    if share < 0.15:
        return BROKEN
    return MALFORMED[digest[4] % len(MALFORMED)] if share < 0.20 else None


def _asked(exchanges: list[Any]) -> list[str]:
    return [item["caption"] for exchange in exchanges for item in exchange.items]


def test_thousand_captions_through_faults_and_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = make_captions(COUNT)
    with Endpoint(oracle) as perfect:
        expected = LLMExtractor(faulty_asking(perfect.address, tmp_path / "perfect")).extract(captions)
    assert len(expected) == COUNT

    store = tmp_path / "store"
    with Endpoint(oracle, injected, key=KEY) as endpoint:
        arguments = [
            sys.executable,
            "-m",
            "tests.language.llm.client_process",
            endpoint.address,
            str(store),
            str(COUNT),
        ]
        client = subprocess.Popen(arguments, cwd=ROOT)

        def kill_midway() -> None:
            if len(endpoint.answered) >= 45:
                os.kill(client.pid, signal.SIGKILL)

        endpoint.after = kill_midway
        assert client.wait(timeout=120) == -signal.SIGKILL
        endpoint.after = lambda: None
        before = list(endpoint.log)
        stored = {
            entry["item"]["caption"]
            for path in store.glob("*/answers/*.json")
            for entry in json.loads(path.read_text())["answers"]
        }
        assert 0.3 * COUNT < len(stored) < 0.7 * COUNT
        # What was answered and is not stored was under way when the process died.
        answered = [exchange for exchange in before if exchange.fault is None]
        lost = [exchange for exchange in answered if not stored.issuperset(_asked([exchange]))]
        assert len(lost) <= CONCURRENCY

        extractor = LLMExtractor(faulty_asking(endpoint.address, store))
        triples = extractor.extract(captions)
        assert triples == expected
        assert extractor.usage.stored == len(stored)

        after = endpoint.log[len(before) :]
        assert stored.isdisjoint(_asked(after))
        succeeded = _asked(
            [exchange for exchange in [*before, *after] if exchange.fault is None and exchange not in lost]
        )
        assert len(succeeded) == len(set(succeeded))
        kinds = endpoint.kinds()
        assert set(kinds) == {"429", "500", "malformed"}
        assert kinds["429"] >= 0.05 * len(endpoint.log)
        total = len(endpoint.log)

        monkeypatch.delenv("OPENAI_API_KEY")
        offline = LLMExtractor(faulty_asking(endpoint.address, store))
        assert offline.extract(captions) == expected
        assert len(endpoint.log) == total
    print(f"{total} requests, faults {dict(kinds)}, stored at the kill {len(stored)}, lost with it {len(lost)}")
    files = [write_triples(tmp_path / f"{name}.jsonl", found) for name, found in (("a", expected), ("b", triples))]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
