from __future__ import annotations

import asyncio
import json
import re

import pytest

from pipeline.caption_graph.llm.questions import Rejected, check_reply
from pipeline.caption_graph.llm.triples import (
    LLMExtractor,
    Statement,
    TripleAnswer,
    check_triples,
    entities_in,
    find_support,
    triple_question,
)
from pipeline.caption_graph.settings import LLMSettings, read_prompt
from pipeline.caption_graph.triples.records import Caption, Extractor
from pipeline.errors import DataError
from tests.caption_graph.llm.captions import make_captions
from tests.caption_graph.llm.conftest import MakeSession
from tests.caption_graph.llm.server import Endpoint

CAPTION = "Two Swimming pools and a villa are built on the bare land , in the top left ."


def _answer(head: str, relation: str, tail: str, evidence: str = "are built on") -> TripleAnswer:
    return TripleAnswer(id=1, triples=[Statement(head=head, relation=relation, tail=tail, evidence=evidence)])


def _statements(endpoint: Endpoint, *statements: tuple[str, str, str, str]) -> None:
    fields = ("head", "relation", "tail", "evidence")
    endpoint.oracle = lambda item: {"triples": [dict(zip(fields, statement, strict=True)) for statement in statements]}


def test_extracts_in_the_order_of_the_captions(make_session: MakeSession, endpoint: Endpoint) -> None:
    extractor: Extractor = LLMExtractor(make_session())
    captions = make_captions(12)
    triples = extractor.extract(captions)
    assert [(triple.pair, triple.sentence) for triple in triples] == [(c.pair, c.sentence) for c in captions]
    assert triples[1].key == ("road", "appear-near", "grass")
    assert {triple.family for triple in triples} == {"appear"}
    assert {triple.engine for triple in triples} == {extractor.name} == {"llm"}
    for caption, triple in zip(captions, triples, strict=True):
        assert caption.text[slice(*triple.span)].endswith(f"appears near the {triple.tail}")
    assert len(endpoint.log) == 3  # five captions a request


def test_equal_sentences_are_sent_once_and_each_gets_its_triples(make_session: MakeSession, endpoint: Endpoint) -> None:
    (first,) = make_captions(1)
    second = Caption(pair="other", sentence=3, text="  " + first.text.replace(" near", "   near"))
    triples = LLMExtractor(make_session()).extract([first, second, first])
    assert [len(exchange.items) for exchange in endpoint.log] == [1]
    assert [triple.pair for triple in triples] == ["pair_0000", "other", "pair_0000"]
    assert second.text[slice(*triples[1].span)] == "a new house appears   near the grass"


def test_unchanged_and_no_captions_send_nothing(make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    extractor = LLMExtractor(make_session())
    unchanged = [Caption(pair="a", sentence=0, text=text) for text in ("the two scenes seem identical .", "", " . ")]
    assert extractor.extract([]) == extractor.extract(unchanged) == []


@pytest.mark.parametrize("text", ["Haus", "在道路旁边建了很多房子", "une maison apparaît près de la route", "🏠"])
def test_other_languages_and_single_words_do_no_harm(make_session: MakeSession, text: str) -> None:
    assert LLMExtractor(make_session()).extract([Caption(pair="a", sentence=0, text=text)]) == []


def test_statements_are_normalised(make_session: MakeSession, endpoint: Endpoint) -> None:
    _statements(
        endpoint,
        ("Two swimming pools", "are built on", "the bare land", "Two swimming pools and a villa are built on"),
        ("swimming pool", "build-on", "bareland", "are built on"),
        ("villa", "built in", "the top left", "villa are built"),
        ("the top left", "change", "scene", "top left"),
    )
    triples = LLMExtractor(make_session()).extract([Caption(pair="a", sentence=0, text=CAPTION)])
    assert [triple.key for triple in triples] == [
        ("swimming pool", "build-on", "bareland"),
        ("villa", "build", "scene"),
    ]
    assert triples[0].span == (0, 43)


def test_works_inside_a_running_event_loop(make_session: MakeSession) -> None:
    async def notebook() -> int:
        return len(LLMExtractor(make_session()).extract(make_captions(3)))

    assert asyncio.run(notebook()) == 3


@pytest.mark.parametrize("structured", ["json_schema", "json_object", "none"])
def test_forms_of_structured_output(make_session: MakeSession, endpoint: Endpoint, structured: str) -> None:
    assert len(LLMExtractor(make_session(structured=structured, extra={"top_p": 0.5})).extract(make_captions(2))) == 2
    body = endpoint.log[0].body
    assert body.get("response_format", {"type": "none"})["type"] == structured
    assert ("additionalProperties" in body["messages"][0]["content"]) == (structured != "json_schema")
    assert (body["model"], body["temperature"], body["seed"], body["top_p"]) == ("test-model", 0.0, 0, 0.5)
    assert "max_tokens" not in body
    assert "structured" not in body


def test_invented_entity_is_rejected() -> None:
    for answer in (_answer("lake", "build-on", "bareland"), _answer("villa", "build-near", "road")):
        with pytest.raises(Rejected, match=r"the entity '(lake|road)' does not occur in the caption"):
            check_triples({"caption": CAPTION}, answer)


def test_scene_is_a_head_only_where_the_caption_speaks_of_it() -> None:
    check_triples({"caption": CAPTION}, _answer("villa", "build", "scene"))
    check_triples({"caption": "this area was urbanised"}, _answer("area", "urbanise", "scene", "was urbanised"))
    with pytest.raises(Rejected, match="'scene' does not occur"):
        check_triples({"caption": CAPTION}, _answer("scene", "with", "villa"))


def test_evidence_from_elsewhere_is_rejected() -> None:
    for evidence in ("a villa is built", "", "...", "illa are built"):
        with pytest.raises(Rejected, match="is no piece of the caption"):
            check_triples({"caption": CAPTION}, _answer("villa", "build-on", "bareland", evidence))


def test_relation_that_is_no_word_is_rejected() -> None:
    for relation in ("建造", "build2", "a-very-long-relation-made-of-many-words"):
        with pytest.raises(Rejected, match="not made of hyphenated lemmas"):
            check_triples({"caption": CAPTION}, _answer("villa", relation, "bareland"))


def test_entities_in() -> None:
    assert {"swimming pool", "pool", "villa", "bareland"} <= entities_in(CAPTION)
    assert "top left" not in entities_in(CAPTION)
    assert entities_in("") == frozenset()


def test_find_support() -> None:
    assert find_support("bare land in", CAPTION) == (CAPTION.index("bare"), CAPTION.index("in the top") + 2)
    assert find_support("a  VILLA\nare", CAPTION) == (CAPTION.index("a villa"), CAPTION.index("built") - 1)
    assert find_support("pool", CAPTION) is None
    assert find_support("(.*)+", CAPTION) is None


HINDI, CHINESE = "सड़क के पास एक इमारत बनाई गई है।", "在道路旁边新建了两栋房子。"


@pytest.mark.parametrize(
    ("support", "caption", "text"),
    [
        ("इमारत बनाई", HINDI, "इमारत बनाई"),
        ("新建了 两栋", CHINESE, "新建了两栋"),
        ("cafe\u0301", "The Caf\u00e9 is new", "Caf\u00e9"),
    ],
)
def test_support_in_any_script(support: str, caption: str, text: str) -> None:
    span = find_support(support, caption)
    assert span is not None
    assert caption[slice(*span)] == text


def test_part_of_a_word_is_no_support() -> None:
    assert find_support("इम", HINDI) is None
    assert find_support("बनाई ग", HINDI) is None


@pytest.mark.parametrize(
    ("caption", "statement"),
    [
        (HINDI, ("इमारत", "बनाई", "सड़क", "बनाई गई है")),
        (CHINESE, ("房子", "新建", "道路", "新建了")),
        (HINDI, ("इमारत", "build-beside", "scene", "बनाई गई है")),
    ],
)
def test_answers_in_any_script_are_checked_by_the_same_rules(caption: str, statement: tuple[str, ...]) -> None:
    head, relation, tail, evidence = statement
    check_triples({"caption": caption}, _answer(head, relation, tail, evidence))
    with pytest.raises(Rejected, match="does not occur in the caption"):
        check_triples({"caption": caption}, _answer("तालाब", relation, tail, evidence))
    with pytest.raises(Rejected, match="hyphenated lemmas"):
        check_triples({"caption": caption}, _answer(head, "१२३", tail, evidence))


def test_examples_of_the_prompt_obey_the_prompt() -> None:
    settings = LLMSettings(model="m")
    prompt = read_prompt(settings, "triples")
    request, reply = re.findall(r"^\{.*?^\]\}$", prompt, re.DOTALL | re.MULTILINE)
    items = [{"caption": item["caption"]} for item in json.loads(request)["captions"]]
    checked = check_reply(triple_question(settings), items, reply)
    assert not checked.rejected
    assert len(checked.accepted) == 4


def test_own_prompts(make_session: MakeSession, endpoint: Endpoint, tmp_path) -> None:
    (tmp_path / "triples.md").write_text("Find triples.\n")
    LLMExtractor(make_session(prompts=tmp_path)).extract(make_captions(1))
    assert endpoint.log[0].body["messages"][0]["content"] == "Find triples."
    (tmp_path / "triples.md").write_text(" \n")
    with pytest.raises(DataError, match="prompt is empty"):
        LLMExtractor(make_session(prompts=tmp_path)).extract(make_captions(1))
    with pytest.raises(DataError, match="cannot read the prompt"):
        LLMExtractor(make_session(prompts=tmp_path / "none")).extract(make_captions(1))
