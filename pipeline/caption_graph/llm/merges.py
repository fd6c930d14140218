"""Merging of names by a language model: it splits groups of similar names into clusters of synonyms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.caption_graph.llm.questions import Answer, Question, QuestionItem, Rejected
from pipeline.caption_graph.llm.run import Estimate, LLMSession, ask, estimate
from pipeline.caption_graph.settings import LLMSettings, read_prompt
from pipeline.errors import DataError

NameKind = Literal["entity", "relation"]


class MergeAnswer(Answer):
    """Clusters of one group of names."""

    clusters: list[list[str]]


@dataclass(frozen=True)
class LLMMerger:
    """Merger of names that mean the same, by a language model.

    Attributes:
        session: Model, endpoint, answer store, treatment of groups without an accepted answer.
    """

    session: LLMSession

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        """Split every group into clusters of names that mean the same.

        The clusters of a group are a partition of it; they and the names in them keep the group's order. Groups of
        fewer than two names are not asked about. A group without an accepted answer, where those are skipped, is
        split into single names: nothing is merged without a decision.

        Raises:
            DataError: A group names something twice, or an empty name.
            SageccError: As `pipeline.caption_graph.llm.run.ask`.
        """
        items = _items(groups, kind)
        result = ask(merge_question(self.session.settings), items, self.session)
        answers = iter(result.answers)
        proposed: list[list[list[str]]] = []
        for group in groups:
            answer = next(answers) if len(group) > 1 else None
            clusters = [[name] for name in group] if answer is None else answer.clusters
            rank = {name: position for position, name in enumerate(group)}
            ordered = [sorted(cluster, key=rank.__getitem__) for cluster in clusters]
            proposed.append(sorted(ordered, key=lambda cluster: rank[cluster[0]]))
        return proposed

    def estimate(self, calls: Iterable[tuple[NameKind, Sequence[Sequence[str]]]]) -> Estimate:
        """Estimate what `calls` of `propose_merges` would send and cost; sends nothing and needs no key."""
        items = [item for kind, groups in calls for item in _items(groups, kind)]
        return estimate(merge_question(self.session.settings), items, self.session)


def merge_question(settings: LLMSettings) -> Question[MergeAnswer]:
    """Return the question for clusters of names; an item is `{"kind": …, "names": […]}`."""
    return Question(
        name="merges",
        items="groups",
        prompt=read_prompt(settings, "merges"),
        answer=MergeAnswer,
        check=check_partition,
        characters=lambda item: 40 + sum(len(name) + 8 for name in item["names"]),
        items_per_request=settings.groups_per_request,
        label=lambda item: f"the group of {item['names'][0]!r}",
    )


def check_partition(item: QuestionItem, answer: MergeAnswer) -> None:
    """Check that clusters are a partition of their group.

    Raises:
        Rejected: A name is missing, invented or in several clusters, or a cluster is empty.
    """
    times = Counter(name for cluster in answer.clusters for name in cluster)
    for name in item["names"]:
        if times[name] != 1:
            raise Rejected(f"the name {name!r} must stand in exactly one cluster, not in {times[name]}")
    if invented := [name for name in times if name not in item["names"]]:
        raise Rejected(f"the name {invented[0]!r} is not of the group")
    if not all(answer.clusters):
        raise Rejected("a cluster is empty")


def _items(groups: Sequence[Sequence[str]], kind: NameKind) -> list[QuestionItem]:
    for group in groups:
        doubled = [name for name, times in Counter(group).items() if times > 1]
        if doubled or not all(name == name.strip() != "" for name in group):
            what = f"names {doubled[0]!r} twice" if doubled else "holds a name that is empty or ends in spaces"
            raise DataError(f"a group of names to merge {what}", where=", ".join(group)[:200])
    return [{"kind": kind, "names": list(group)} for group in groups if len(group) > 1]
