from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.caption_graph.llm.questions import Answer, Question, QuestionItem, Rejected, batches, check_reply, compose


class Word(Answer):
    word: str


def _check(item: QuestionItem, answer: Word) -> None:
    if answer.word not in item["text"]:
        raise Rejected(f"{answer.word!r} is not in the text")


QUESTION = Question("words", "texts", "prompt", Word, _check, lambda item: 10, 2, lambda item: item["text"])
ITEMS = [{"text": "a house"}, {"text": "a road"}, {"text": "a tree"}]
GOOD = [{"id": 1, "word": "house"}, {"id": 2, "word": "road"}, {"id": 3, "word": "tree"}]


def _check_reply(answers: Any) -> tuple[list[int], dict[int, str]]:
    text = answers if isinstance(answers, str) else json.dumps({"answers": answers})
    checked = check_reply(QUESTION, ITEMS, text)
    assert sorted([*checked.accepted, *checked.rejected]) == [0, 1, 2]
    return sorted(checked.accepted), checked.rejected


def test_good_answer_in_any_order() -> None:
    checked = check_reply(QUESTION, ITEMS, json.dumps({"answers": GOOD[::-1]}))
    assert [checked.accepted[position].word for position in range(3)] == ["house", "road", "tree"]
    assert not checked.rejected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("I cannot help with that.", "not JSON"),
        ('{"answers": [{"id": 1, "wo', "cut off"),
        ('{"answers": "none"}', "no list `answers`"),
        ('{"captions": []}', "no list `answers`"),
        ('{"answers": []}', "list of answers is empty"),
        ("[" * 100_000 + "{", "cut off"),
        ('{"answers": ' + "[" * 100_000, "cut off"),
        ('{"answers": [{"id": ' + "9" * 5000 + "}]}", "cut off"),
    ],
)
def test_unreadable_answers_concern_everyone(text: str, reason: str) -> None:
    accepted, rejected = _check_reply(text)
    assert accepted == []
    assert all(reason in why for why in rejected.values())


def test_text_around_the_object_is_passed_over() -> None:
    assert _check_reply("Sure!\n```json\n" + json.dumps({"answers": GOOD}) + "\n```\nDone.")[0] == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        "```json\n" + json.dumps(GOOD) + "\n```",
        "Here they are: " + json.dumps(GOOD) + " Done.",
        "<think>{a brace} and [a bracket]</think>" + json.dumps({"answers": GOOD}),
        "\ufeff" + json.dumps(GOOD),
    ],
)
def test_list_that_plainly_is_the_answer_is_taken(text: str) -> None:
    assert _check_reply(text)[0] == [0, 1, 2]


def test_single_answer_without_its_list_is_taken() -> None:
    for text in (json.dumps(GOOD[1]), json.dumps([GOOD[1]])):
        assert _check_reply(text)[0] == [1]


@pytest.mark.parametrize("text", ["[]", "[1, 2]", '["a house"]', '[{"word": "house"}]'])
def test_list_of_something_else_is_refused(text: str) -> None:
    accepted, rejected = _check_reply(text)
    assert accepted == []
    assert "no list `answers`" in rejected[0]


def test_complete_answers_of_a_truncated_list_are_kept() -> None:
    text = json.dumps(GOOD)
    accepted, rejected = _check_reply(text[: text.index("tree")])
    assert accepted == [0, 1]
    assert "cut off" in rejected[2]


def test_complete_answers_of_a_truncated_text_are_kept() -> None:
    text = json.dumps({"answers": GOOD})
    accepted, rejected = _check_reply(text[: text.index("tree")])
    assert accepted == [0, 1]
    assert "cut off" in rejected[2]


def test_answer_about_another_item_is_distrusted_as_a_whole() -> None:
    for strange in (0, 4, -1):
        accepted, rejected = _check_reply([*GOOD[:2], {"id": strange, "word": "tree"}])
        assert accepted == []
        assert f"names item {strange}, which was not asked" in rejected[0]


def test_item_answered_twice_is_rejected_alone() -> None:
    accepted, rejected = _check_reply([*GOOD, {"id": 2, "word": "road"}])
    assert accepted == [0, 2]
    assert "2 times" in rejected[1]


def test_left_out_and_unnumbered_answers() -> None:
    assert "left out" in _check_reply(GOOD[:2])[1][2]
    for element in ({"word": "tree"}, {"id": True, "word": "tree"}, {"id": 3.0, "word": "tree"}, "tree", None):
        accepted, rejected = _check_reply([*GOOD[:2], element])
        assert accepted == [0, 1]
        assert "names no item" in rejected[2]


def test_wrong_form_is_rejected_alone() -> None:
    for element in ({"id": 2}, {"id": 2, "word": 7}, {"id": 2, "word": None}, {"id": 2, "words": ["road"]}):
        accepted, rejected = _check_reply([GOOD[0], element, GOOD[2]])
        assert accepted == [0, 2]
        assert "not of the schema asked for: word" in rejected[1]


def test_wrong_content_is_rejected_alone() -> None:
    accepted, rejected = _check_reply([GOOD[0], {"id": 2, "word": "lake"}, GOOD[2]])
    assert (accepted, rejected) == ([0, 2], {1: "'lake' is not in the text"})


def test_half_surrogates_are_rejected() -> None:
    accepted, rejected = _check_reply('{"answers": [{"id": 1, "word": "\\ud800"}, {"id": 2, "word": "road"}]}')
    assert accepted == [1]
    assert "unicode" in rejected[0]


def test_numbers_in_quotes_and_further_fields_are_tolerated() -> None:
    checked = check_reply(QUESTION, ITEMS[:1], '{"answers": [{"id": "1", "word": "house", "remark": "x"}]}')
    assert checked.accepted[0].model_dump(exclude={"id"}) == {"word": "house"}


def test_compose_numbers_items_and_tells_problems() -> None:
    assert json.loads(compose(QUESTION, ITEMS[:2], [None, "bad"])) == {
        "texts": [{"id": 1, "text": "a house"}, {"id": 2, "text": "a road", "problem": "bad"}]
    }


def test_batches() -> None:
    assert list(batches(["a", "b", "c"], 2)) == [["a", "b"], ["c"]]
    assert list(batches([], 2)) == []


def test_question_key_depends_on_all_that_shapes_an_answer() -> None:
    base = QUESTION.key("m", {"temperature": 0})
    other = Question("words", "texts", "other prompt", Word, _check, lambda item: 10, 2, str)
    assert (
        len({base, other.key("m", {"temperature": 0}), QUESTION.key("n", {"temperature": 0}), QUESTION.key("m", {})})
        == 4
    )
    larger = Question("words", "texts", "prompt", Word, _check, lambda item: 99, 50, str)
    assert larger.key("m", {"temperature": 0}) == base
