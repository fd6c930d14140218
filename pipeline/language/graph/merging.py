"""Merging of names: text embeddings propose which to look at together, a rule or a language model decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.language.graph.agreement import RuleMerger
from pipeline.language.graph.merge_map import MergeMap
from pipeline.language.graph.records import Key, NameCounts
from pipeline.language.graph.settings import MergeSettings
from pipeline.language.llm.merges import NameKind
from pipeline.language.text_encoders import TextEncoder
from pipeline.language.text_encoders.settings import HASHED
from pipeline.language.triples.conventions import SCENE
from pipeline.language.triples.relations import join_relation, split_relation

_LARGEST: Final = 24
"""Names of a group; larger groups are cut at a higher cosine."""
_ALIKE: Final = 1e-3
"""Names whose cosines differ from 1 by less are no longer told apart, but cut in their order."""


class Merger(Protocol):
    """Decides which names of a group mean the same."""

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        """Cut every group into clusters of names that mean the same."""


def merge_names(
    counts: NameCounts, settings: MergeSettings, overrides: MergeMap, encoder: TextEncoder | None, llm: Merger | None
) -> MergeMap:
    """Find which entities and which relations mean the same (the map μ of section 3.4).

    What `overrides` names is settled by it. The rest is clustered in rounds until nothing merges any more: names whose
    vectors are close form groups, the decider cuts each group into clusters, and a cluster's most frequent name stands
    for it in the next round. Of relations the verbs and the prepositions are clustered, each for itself. "scene" is a
    mark of the convention and never merged.

    Args:
        counts: How often every name occurs.
        settings: Who decides, thresholds, rounds.
        overrides: Decisions of a person.
        encoder: Gives the vectors; None where `settings.by` is "none".
        llm: Decides where `settings.by` is "llm".

    Returns:
        The names that became one; names that stand alone are not listed.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for field, occurrences in (("entities", counts.entities), ("relations", counts.relations)):
        settled = overrides.targets(field)
        free = [name for name in by_count(occurrences) if name not in settled and name != SCENE]
        targets = {name: target for name, target in settled.items() if name in occurrences}
        if settings.by != "none" and encoder is not None:
            cluster = _merge_entities if field == "entities" else _merge_relations
            proposed = cluster({name: occurrences[name] for name in free}, settings, encoder, llm)
            # Nothing joins a name that a person has settled.
            targets |= {name: target for name, target in proposed.items() if target not in settled}
        found[field] = _clusters(targets, occurrences)
    return MergeMap(**found)


def by_count(occurrences: Mapping[str, int]) -> list[str]:
    """Return the names, the most frequent first, equals by name."""
    return sorted(occurrences, key=lambda name: (-occurrences[name], name))


def apply_merges(statements: Iterable[Key], merges: MergeMap) -> list[Key]:
    """Give every statement the names that stay."""
    entities, relations = merges.targets("entities"), merges.targets("relations")
    return [
        (entities.get(head, head), relations.get(relation, relation), entities.get(tail, tail))
        for head, relation, tail in statements
    ]


def group_names(
    names: Sequence[str], vectors: Mapping[str, npt.NDArray[np.float32]], likeness: float
) -> list[list[str]]:
    """Group names by average linkage: the mean cosine between two parts of a group is at least `likeness`.

    Groups and the names in them keep the order of `names`; names alone form no group.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(names) < 2:
        return []
    matrix = np.stack([vectors[name] for name in names]).astype(np.float64)
    upper = np.triu_indices(len(names), 1)
    distances = np.maximum(1 - (matrix @ matrix.T)[upper], 0)
    labels = fcluster(linkage(distances, "average"), 1 - likeness, "distance")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    found: list[list[str]] = []
    for group in groups.values():
        if len(group) <= _LARGEST:
            found.extend([group] if len(group) > 1 else [])
        elif 1 - likeness > _ALIKE:
            found.extend(group_names(group, vectors, 1 - (1 - likeness) / 2))
        else:
            found.extend(group[start : start + _LARGEST] for start in range(0, len(group), _LARGEST))
    return found


def _merge_entities(
    occurrences: Mapping[str, int], settings: MergeSettings, encoder: TextEncoder, llm: Merger | None
) -> dict[str, str]:
    return _cluster(occurrences, "{}", "entity", settings, encoder, llm)


def _merge_relations(
    occurrences: Mapping[str, int], settings: MergeSettings, encoder: TextEncoder, llm: Merger | None
) -> dict[str, str]:
    """Merge verbs and prepositions apart, so that "construct" is "build" beside every preposition or beside none."""
    verbs: Counter[str] = Counter()
    prepositions: Counter[str] = Counter()
    for name, count in occurrences.items():
        verb, preposition = split_relation(name)
        verbs[verb or ""] += count
        prepositions[preposition or ""] += count
    del verbs[""], prepositions[""]
    # In this frame the vectors of verbs lie closer to their meaning than bare words, which may be nouns ("cut").
    frame = "{}" if encoder.identity["encoder"] == HASHED else "it was {}"
    verb_of = _cluster(verbs, frame, "relation", settings, encoder, llm)
    preposition_of = _cluster(prepositions, "{}", "relation", settings, encoder, llm)
    targets = {}
    for name in occurrences:
        verb, preposition = split_relation(name)
        parts = verb_of.get(verb or "", verb), preposition_of.get(preposition or "", preposition)
        if parts != (verb, preposition):
            targets[name] = join_relation(*parts)
    return targets


def _cluster(
    occurrences: Mapping[str, int],
    frame: str,
    kind: NameKind,
    settings: MergeSettings,
    encoder: TextEncoder,
    llm: Merger | None,
) -> dict[str, str]:
    """Return the name that stays, by name, for all that merge."""
    standing = by_count(occurrences)
    vectors = _vectors(standing, frame, encoder)
    threshold = settings.entity_threshold if kind == "entity" else settings.relation_threshold
    targets: dict[str, str] = {}
    for _ in range(settings.rounds):
        if llm is None:
            # The rule looks at every two names itself.
            decided = RuleMerger(vectors, threshold).propose_merges([standing], kind)
        else:
            decided = llm.propose_merges(group_names(standing, vectors, settings.propose), kind)
        gone: dict[str, str] = {}
        for cluster in (cluster for clusters in decided for cluster in clusters):
            stays = by_count({name: occurrences[name] for name in cluster})[0]
            gone |= {name: stays for name in cluster if name != stays}
        if not gone:
            break
        targets = {name: gone.get(stays, stays) for name, stays in targets.items()} | gone
        standing = [name for name in standing if name not in gone]
    return targets


def _clusters(targets: Mapping[str, str], occurrences: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    members: dict[str, list[str]] = {}
    for name in by_count({name: occurrences[name] for name in targets}):
        if targets[name] != name:
            members.setdefault(targets[name], []).append(name)
    return {stays: tuple(members[stays]) for stays in _ordered(members, occurrences)}


def _ordered(names: Collection[str], occurrences: Mapping[str, int]) -> list[str]:
    return sorted(names, key=lambda name: (-occurrences.get(name, 0), name))


def _vectors(names: Sequence[str], frame: str, encoder: TextEncoder) -> dict[str, npt.NDArray[np.float32]]:
    matrix = encoder.encode([frame.format(name.replace("-", " ")) for name in names])
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return dict(zip(names, matrix / np.where(lengths > 0, lengths, 1), strict=True))
