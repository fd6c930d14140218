"""A thousand captions through a bad endpoint and a killed process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks._graph_captions import LEVIR, present, real_captions
from pipeline.language.llm.questions import Rejected
from pipeline.language.llm.triples import LLMExtractor, Statement, TripleAnswer, check_triples
from pipeline.language.no_change import implies_change
from pipeline.language.triples.records import Caption, Triple, write_triples
from pipeline.language.triples.rules import RulesExtractor
from tests.language.llm.captions import make_captions, oracle
from tests.language.llm.client_process import CONCURRENCY, faulty_asking
from tests.language.llm.conftest import KEY
from tests.language.llm.server import Endpoint, Exchange, Fault, Oracle

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


def rules_oracle(captions: Sequence[Caption]) -> Oracle:
    """A model that answers as the rules do, but for the few statements that an answer's check refuses."""
    found: dict[str, list[dict[str, str]]] = {}
    text = {(caption.pair, caption.sentence): caption.text for caption in captions}
    for triple in RulesExtractor().extract(captions):
        caption = text[triple.pair, triple.sentence]
        statement = _statement(triple, caption)
        try:
            check_triples({"caption": caption}, TripleAnswer(id=1, triples=[Statement(**statement)]))
        except Rejected:
            continue
        found.setdefault(" ".join(caption.split()), []).append(statement)
    return lambda item: {"triples": found.get(item["caption"], [])}


def _statement(triple: Triple, caption: str) -> dict[str, str]:
    head, relation, tail = triple.key
    return {"head": head, "relation": relation, "tail": tail, "evidence": caption[slice(*triple.evidence)]}


def _real() -> list[Caption]:
    if not present(LEVIR):
        pytest.skip(f"no reference captions at {LEVIR[0]}; set SAGECC_REFERENCE_DATA to their folder")
    distinct = {caption.text: caption for caption in real_captions(LEVIR, "train") if implies_change(caption.text)}
    return random.Random(0).sample(list(distinct.values()), COUNT)


def _asked(exchanges: Sequence[Exchange]) -> list[str]:
    return [item["caption"] for exchange in exchanges for item in exchange.items]


def _stored(store: Path) -> set[str]:
    return {
        entry["item"]["caption"]
        for path in store.glob("*/answers/*.json")
        for entry in json.loads(path.read_text(encoding="utf-8"))["answers"]
    }


def _start(endpoint: Endpoint, store: Path, captions: Sequence[Caption]) -> subprocess.Popen[bytes]:
    file = store.with_suffix(".jsonl")
    file.write_text("".join(caption.model_dump_json() + "\n" for caption in captions), encoding="utf-8")
    arguments = [sys.executable, "-m", "tests.language.llm.client_process", endpoint.address, str(store), str(file)]
    return subprocess.Popen(arguments, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["synthetic", pytest.param("real", marks=pytest.mark.reference_data)])
def test_thousand_captions_through_faults_and_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    captions = make_captions(COUNT) if kind == "synthetic" else _real()
    model = oracle if kind == "synthetic" else rules_oracle(captions)
    with Endpoint(model) as perfect:
        expected = LLMExtractor(faulty_asking(perfect.address, tmp_path / "perfect")).extract(captions)
    assert len({(triple.pair, triple.sentence) for triple in expected}) > 0.99 * COUNT

    store = tmp_path / "store"
    with Endpoint(model, injected, key=KEY) as endpoint:
        client = _start(endpoint, store, captions)

        def kill_midway() -> None:
            if len(endpoint.answered) >= 45:
                os.kill(client.pid, signal.SIGKILL)

        endpoint.after = kill_midway
        assert client.wait(timeout=120) == -signal.SIGKILL
        endpoint.after = lambda: None
        before = list(endpoint.log)
        stored = _stored(store)
        assert 0.3 * COUNT < len(stored) < 0.7 * COUNT
        # What was answered and is not stored was under way when the process died: on the wire, or not yet written.
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


@pytest.mark.slow
def test_an_answer_is_stored_though_others_are_still_under_way(tmp_path: Path) -> None:
    captions = make_captions(60)  # six requests, all under way together
    quick = {caption.text.strip() for caption in captions[:30]}
    with Endpoint(
        oracle, lambda items, seen: None if items[0]["caption"] in quick else Fault(delay=60), KEY
    ) as endpoint:
        client = _start(endpoint, tmp_path / "store", captions)
        limit = time.monotonic() + 60
        while len(_stored(tmp_path / "store")) < 30 and time.monotonic() < limit:
            time.sleep(0.05)
        client.kill()
        client.wait(timeout=60)
        assert _stored(tmp_path / "store") == quick
        assert len(endpoint.answered) == 3
