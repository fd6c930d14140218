from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.caption_graph.llm.triples import LLMExtractor
from pipeline.errors import OutputError, ServiceError, UnreadableError
from pipeline.files import content_key, write_json
from tests.caption_graph.llm.captions import make_captions, oracle
from tests.caption_graph.llm.conftest import MakeSession
from tests.caption_graph.llm.server import Endpoint
from tests.faults import FAILED_READS, error_names, failing

CAPTIONS = make_captions(15)  # three requests of five


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("store/triples-*/answers/*.json"))


def test_repeated_build_asks_nothing_and_needs_no_key(
    make_session: MakeSession, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LLMExtractor(make_session())
    triples = first.extract(CAPTIONS)
    assert (first.usage.requests, first.usage.stored, first.usage.prompt_tokens, first.usage.answer_tokens) == (
        3,
        0,
        300,
        30,
    )
    monkeypatch.delenv("OPENAI_API_KEY")
    again = LLMExtractor(make_session(base_url="http://127.0.0.1:9/v1"))
    assert again.extract(CAPTIONS[::-1]) == triples[::-1]
    assert (again.usage.requests, again.usage.stored) == (0, 15)
    assert len(endpoint.log) == 3


def test_only_new_captions_are_sent(make_session: MakeSession, endpoint: Endpoint) -> None:
    LLMExtractor(make_session()).extract(CAPTIONS[:7])
    LLMExtractor(make_session(captions_per_request=20)).extract(CAPTIONS)
    assert [len(exchange.items) for exchange in endpoint.log] in ([5, 2, 8], [2, 5, 8])


@pytest.mark.parametrize("change", [{"model": "other"}, {"temperature": 0.5}, {"structured": "none"}, {"seed": None}])
def test_other_model_or_parameters_ask_anew(
    make_session: MakeSession, endpoint: Endpoint, change: dict[str, object]
) -> None:
    LLMExtractor(make_session()).extract(CAPTIONS[:5])
    LLMExtractor(make_session(**change)).extract(CAPTIONS[:5])
    assert len(endpoint.log) == 2


def test_other_prompt_asks_anew(make_session: MakeSession, endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "triples.md").write_text("Find triples.")
    LLMExtractor(make_session()).extract(CAPTIONS[:5])
    LLMExtractor(make_session(prompts=tmp_path)).extract(CAPTIONS[:5])
    assert len(endpoint.log) == 2


def _truncate(text: str) -> str:
    return text[: len(text) // 2]


def _alter(text: str) -> str:
    return text.replace("house", "tower")


def _of_another_question(text: str) -> str:
    return json.dumps(json.loads(text) | {"question": "0" * 64})


def _without_answers(text: str) -> str:
    return json.dumps({name: value for name, value in json.loads(text).items() if name != "answers"})


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _alter,
        _of_another_question,
        _without_answers,
        lambda text: "",
        lambda text: "[1]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: "\ud800",
    ],
)
def test_damaged_file_is_dropped_with_a_line_and_asked_again(
    make_session: MakeSession, endpoint: Endpoint, tmp_path: Path, lines: list[str], damage
) -> None:
    triples = LLMExtractor(make_session()).extract(CAPTIONS)
    target = next(path for path in _files(tmp_path) if "house" in path.read_text())
    target.write_bytes(damage(target.read_text()).encode("utf-8", "surrogatepass"))
    assert LLMExtractor(make_session()).extract(CAPTIONS) == triples
    assert len(endpoint.log) == 4
    assert len(lines) == 1
    assert lines[0].startswith(f"{target}: a damaged file of stored answers is dropped")
    assert LLMExtractor(make_session()).extract(CAPTIONS) == triples
    assert (len(lines), len(endpoint.log)) == (1, 4)


@pytest.mark.parametrize("number", FAILED_READS, ids=error_names(FAILED_READS))
@pytest.mark.parametrize("place", ["file", "folder", "failures"])
def test_paid_answers_that_cannot_be_read_stay_and_are_not_asked_again(
    make_session: MakeSession, endpoint: Endpoint, tmp_path: Path, number: int, place: str
) -> None:
    LLMExtractor(make_session()).extract(CAPTIONS[:5])
    (path,) = _files(tmp_path)
    failures = write_json(path.parents[1] / "failures.json", {"failures": []})
    content = path.read_bytes(), failures.read_bytes()
    chosen = {"file": path, "folder": path.parent, "failures": failures}[place]
    with failing(number, chosen), pytest.raises(UnreadableError) as caught:
        LLMExtractor(make_session()).extract(CAPTIONS[: 5 if place != "failures" else 7])
    assert caught.value.where == str(chosen)
    assert (path.read_bytes(), failures.read_bytes()) == content
    assert len(endpoint.log) == 1 if place != "failures" else len(endpoint.log) <= 2


def test_a_damaged_file_is_set_aside(make_session: MakeSession, tmp_path: Path) -> None:
    LLMExtractor(make_session()).extract(CAPTIONS[:5])
    (path,) = _files(tmp_path)
    path.write_text("half")
    LLMExtractor(make_session()).extract(CAPTIONS[:5])
    assert path.with_name(f"{path.name}.damaged").read_text() == "half"


def test_stored_answer_is_held_against_its_caption_again(
    make_session: MakeSession, endpoint: Endpoint, tmp_path: Path, lines: list[str]
) -> None:
    triples = LLMExtractor(make_session()).extract(CAPTIONS[:5])
    (path,) = _files(tmp_path)
    document = json.loads(path.read_text().replace('"tail": "grass"', '"tail": "lake"', 1))
    path.write_text(json.dumps(document | {"sha256": content_key(document["answers"])}))
    assert LLMExtractor(make_session()).extract(CAPTIONS[:5]) == triples
    assert "no longer holds" in lines[0]
    assert [len(exchange.items) for exchange in endpoint.log] == [5, 1]


def test_store_says_what_was_asked(make_session: MakeSession, tmp_path: Path) -> None:
    LLMExtractor(make_session()).extract(CAPTIONS)
    (path,) = tmp_path.glob("store/triples-*/question.json")
    document = json.loads(path.read_text())
    assert (document["model"], document["question"]) == ("test-model", "triples")
    assert document["parameters"]["temperature"] == 0.0
    assert "overhead pictures" in document["prompt"]


def test_unwritable_store_is_an_error_before_the_first_request(
    make_session: MakeSession, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(OutputError):
        LLMExtractor(make_session()).extract(CAPTIONS)
    assert endpoint.log == []


def test_skipped_captions_are_recorded_until_they_succeed(
    make_session: MakeSession, endpoint: Endpoint, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.oracle = lambda item: {} if "villa" in item["caption"] else oracle(item)
    extractor = LLMExtractor(make_session("skip"))
    triples = extractor.extract(CAPTIONS)
    assert len(triples) == 13
    assert [(caption.text, reason) for caption, reason in extractor.failures] == [
        (CAPTIONS[index].text, "not of the schema asked for: triples: Field required") for index in (2, 12)
    ]
    (path,) = tmp_path.glob("store/triples-*/failures.json")
    assert [entry["item"]["caption"] for entry in json.loads(path.read_text())["failures"]] == [
        CAPTIONS[index].text for index in (2, 12)
    ]
    # Offline, with the same result.
    with monkeypatch.context() as patch:
        patch.delenv("OPENAI_API_KEY")
        assert extractor.extract(CAPTIONS) == triples
        assert len(extractor.failures) == 2
        assert "2 of the captions got no usable answer in an earlier run" in lines[-1]
    # Records of captions that are not of this run stay; those that succeed where failures are fatal go.
    requests = len(endpoint.log)
    endpoint.oracle = oracle
    assert len(LLMExtractor(make_session()).extract(CAPTIONS[:5])) == 5
    assert len(endpoint.log) == requests + 1
    assert [entry["item"]["caption"] for entry in json.loads(path.read_text())["failures"]] == [CAPTIONS[12].text]
    assert len(LLMExtractor(make_session()).extract(CAPTIONS)) == 15
    assert not path.exists()


def test_damaged_record_of_failures_is_dropped(
    make_session: MakeSession, endpoint: Endpoint, tmp_path: Path, lines: list[str]
) -> None:
    endpoint.oracle = lambda item: {}
    with pytest.raises(ServiceError):
        LLMExtractor(make_session()).extract(CAPTIONS[:2])
    (path,) = tmp_path.glob("store/triples-*/failures.json")
    path.write_text('{"failures": [{"item"')
    endpoint.oracle = oracle
    assert len(LLMExtractor(make_session("skip")).extract(CAPTIONS[:2])) == 2
    assert "failures.json: a damaged file" in lines[0]
