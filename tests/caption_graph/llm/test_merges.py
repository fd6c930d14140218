from __future__ import annotations

import json
import re

import pytest

from pipeline.caption_graph.llm.merges import LLMMerger, merge_question
from pipeline.caption_graph.llm.questions import check_reply
from pipeline.caption_graph.settings import LLMSettings, read_prompt
from pipeline.errors import DataError, ServiceError
from tests.caption_graph.llm.conftest import MakeSession
from tests.caption_graph.llm.server import Endpoint

GROUPS = [["road", "house", "raod", "hut"], ["tree"], [], ["lake", "pond", "lagoon"]]
MERGED = [[["road", "raod"], ["house", "hut"]], [["tree"]], [], [["lake", "lagoon"], ["pond"]]]


def test_groups_are_cut_into_clusters(make_session: MakeSession, endpoint: Endpoint) -> None:
    merger = LLMMerger(make_session())
    assert merger.propose_merges(GROUPS) == MERGED
    assert [[item["kind"] for item in exchange.items] for exchange in endpoint.log] == [["entity", "entity"]]
    assert merger.propose_merges(GROUPS) == MERGED
    assert len(endpoint.log) == 1


def test_order_of_the_answer_does_not_matter(make_session: MakeSession, endpoint: Endpoint) -> None:
    endpoint.oracle = lambda item: {"clusters": [["hut", "house"], ["raod", "road"]]}
    assert LLMMerger(make_session()).propose_merges(GROUPS[:1]) == MERGED[:1]


def test_kinds_are_kept_apart(make_session: MakeSession, endpoint: Endpoint) -> None:
    merger = LLMMerger(make_session())
    merger.propose_merges([["build", "construct"]], "entity")
    merger.propose_merges([["build", "construct"]], "relation")
    assert [exchange.items[0]["kind"] for exchange in endpoint.log] == ["entity", "relation"]


@pytest.mark.parametrize(
    ("clusters", "reason"),
    [
        ([["road", "raod"], ["house"]], "'hut' must stand in exactly one cluster, not in 0"),
        ([["road", "raod"], ["house", "hut"], ["road"]], "'road' must stand in exactly one cluster, not in 2"),
        ([["road", "raod", "way"], ["house", "hut"]], "'way' is not of the group"),
        ([["road", "raod"], ["house", "hut"], []], "a cluster is empty"),
        ([], "in exactly one cluster, not in 0"),
    ],
)
def test_what_is_no_partition_is_rejected(
    make_session: MakeSession, endpoint: Endpoint, clusters: list[list[str]], reason: str
) -> None:
    endpoint.oracle = lambda item: {"clusters": clusters}
    with pytest.raises(ServiceError, match=f"1 of 1 distinct groups got no usable answer.*{re.escape(reason)}"):
        LLMMerger(make_session()).propose_merges(GROUPS[:1])
    assert LLMMerger(make_session("skip")).propose_merges(GROUPS[:1]) == [[["road"], ["house"], ["raod"], ["hut"]]]


@pytest.mark.parametrize("group", [["road", "road"], ["road", ""], ["road", "house "]])
def test_groups_must_be_sets_of_names(make_session: MakeSession, group: list[str]) -> None:
    with pytest.raises(DataError, match="a group of names to merge"):
        LLMMerger(make_session()).propose_merges([group])


def test_estimate_counts_groups_of_two_names_or_more(make_session: MakeSession) -> None:
    estimate = LLMMerger(make_session(groups_per_request=1)).estimate([("entity", GROUPS), ("relation", GROUPS[:1])])
    assert (estimate.what, estimate.requests) == ("groups", 3)


def test_example_of_the_prompt_obeys_the_prompt() -> None:
    settings = LLMSettings(model="m")
    request, reply = re.findall(r"^\{.*?^\]\}$", read_prompt(settings, "merges"), re.DOTALL | re.MULTILINE)
    items = [{key: item[key] for key in ("kind", "names")} for item in json.loads(request)["groups"]]
    checked = check_reply(merge_question(settings), items, reply)
    assert len(checked.accepted) == 2
