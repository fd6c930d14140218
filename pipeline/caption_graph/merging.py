"""Merging of names: text embeddings propose which names to compare, a rule or a language model decides.

In the order of the data: `merge_names` clusters names in rounds, `RuleMerger` decides by similarity where no language
model does, and merges.yaml keeps the result (`MergeMap`) for people to read and change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import yaml

from pipeline.caption_graph.llm.merges import NameKind
from pipeline.caption_graph.records import Key, NameCounts
from pipeline.caption_graph.settings import HASHED, MergeSettings
from pipeline.caption_graph.text_encoders import TextEncoder
from pipeline.caption_graph.triples.normalisation import (
    PREPOSITIONS,
    SCENE,
    family_of,
    join_relation,
    split_relation,
    word_set,
)
from pipeline.errors import DataError
from pipeline.files import write_text

_KINDS: Final = ("entities", "relations")


@dataclass(frozen=True)
class MergeMap:
    """Names that became one.

    Attributes:
        entities: Merged names by the name that represents them; a name that stands alone need not be listed.
        relations: The same for relations.
    """

    entities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    relations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def targets(self, kind: str) -> dict[str, str]:
        """Return the representative of every listed name of `kind` ("entities" or "relations")."""
        clusters: Mapping[str, tuple[str, ...]] = getattr(self, kind)
        return {name: target for target, others in clusters.items() for name in (target, *others)}


_LARGEST: Final = 24
"""Most names of a group; larger groups are split at a higher cosine."""
_ALIKE: Final = 1e-3
"""Distance from 1 below which cosines no longer separate names; such a group is split by order."""


class Merger(Protocol):
    """Method that decides which names of a group mean the same."""

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        """Split every group into clusters of names that mean the same."""


def merge_names(
    counts: NameCounts, settings: MergeSettings, overrides: MergeMap, encoder: TextEncoder | None, llm: Merger | None
) -> MergeMap:
    """Find which entities and which relations mean the same (the map μ of section 3.4).

    Names in `overrides` are decided there. The others are clustered in rounds until nothing merges any more: names with
    close vectors form groups, the merger splits each group into clusters, and a cluster's most frequent name represents
    it in the next round. Verbs and prepositions of relations are clustered separately. "scene" is never merged.

    Args:
        counts: How often every name occurs.
        settings: Method, thresholds, rounds.
        overrides: The user's decisions.
        encoder: Text encoder for the vectors; None where `settings.by` is "none".
        llm: Decides where `settings.by` is "llm".

    Returns:
        The names that became one; names that stand alone are not listed.
    """
    merged: dict[str, dict[str, tuple[str, ...]]] = {}
    for kind, occurrences in (("entities", counts.entities), ("relations", counts.relations)):
        decided = overrides.targets(kind)
        free = [name for name in by_count(occurrences) if name not in decided and name != SCENE]
        targets = {name: target for name, target in decided.items() if name in occurrences}
        if settings.by != "none" and encoder is not None:
            cluster = _merge_entities if kind == "entities" else _merge_relations
            proposed = cluster({name: occurrences[name] for name in free}, settings, encoder, llm)
            # No name joins one that the user has decided.
            targets |= {name: target for name, target in proposed.items() if target not in decided}
        merged[kind] = _clusters(targets, occurrences)
    return MergeMap(**merged)


def by_count(occurrences: Mapping[str, int]) -> list[str]:
    """Return the names, the most frequent first, equals by name."""
    return sorted(occurrences, key=lambda name: (-occurrences[name], name))


def apply_merges(statements: Iterable[Key], merges: MergeMap) -> list[Key]:
    """Replace every name in statements by its representative."""
    entities, relations = merges.targets("entities"), merges.targets("relations")
    return [
        (entities.get(head, head), relations.get(relation, relation), entities.get(tail, tail))
        for head, relation, tail in statements
    ]


def group_names(
    names: Sequence[str], vectors: Mapping[str, npt.NDArray[np.float32]], similarity: float
) -> list[list[str]]:
    """Group names by average linkage: clusters merge while their mean cosine is at least `similarity`.

    Groups and the names in them keep the order of `names`; single names form no group.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(names) < 2:
        return []
    matrix = np.stack([vectors[name] for name in names]).astype(np.float64)
    upper = np.triu_indices(len(names), 1)
    distances = np.maximum(1 - (matrix @ matrix.T)[upper], 0)
    labels = fcluster(linkage(distances, "average"), 1 - similarity, "distance")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    sized: list[list[str]] = []
    for group in groups.values():
        if len(group) <= _LARGEST:
            sized.extend([group] if len(group) > 1 else [])
        elif 1 - similarity > _ALIKE:
            sized.extend(group_names(group, vectors, 1 - (1 - similarity) / 2))
        else:
            sized.extend(group[start : start + _LARGEST] for start in range(0, len(group), _LARGEST))
    return sized


def _merge_entities(
    occurrences: Mapping[str, int], settings: MergeSettings, encoder: TextEncoder, llm: Merger | None
) -> dict[str, str]:
    return _cluster(occurrences, "{}", "entity", settings, encoder, llm)


def _merge_relations(
    occurrences: Mapping[str, int], settings: MergeSettings, encoder: TextEncoder, llm: Merger | None
) -> dict[str, str]:
    """Merge verbs and prepositions separately, so that "construct" becomes "build" with every preposition."""
    verbs: Counter[str] = Counter()
    prepositions: Counter[str] = Counter()
    for name, count in occurrences.items():
        verb, preposition = split_relation(name)
        verbs[verb or ""] += count
        prepositions[preposition or ""] += count
    del verbs[""], prepositions[""]
    # In this frame the encoder reads words as verbs; alone they may be nouns ("cut").
    frame = "{}" if encoder.identity["encoder"] == HASHED else "it was {}"
    verb_of = _cluster(verbs, frame, "relation", settings, encoder, llm)
    preposition_of = _cluster(prepositions, "{}", "relation", settings, encoder, llm)
    targets = {}
    for name in occurrences:
        verb, preposition = split_relation(name)
        merged = verb_of.get(verb or "", verb), preposition_of.get(preposition or "", preposition)
        if merged != (verb, preposition):
            targets[name] = join_relation(*merged)
    return targets


def _cluster(
    occurrences: Mapping[str, int],
    frame: str,
    kind: NameKind,
    settings: MergeSettings,
    encoder: TextEncoder,
    llm: Merger | None,
) -> dict[str, str]:
    """Return the representative of every name that merges into another."""
    representatives = by_count(occurrences)
    vectors = _vectors(representatives, frame, encoder)
    threshold = settings.entity_threshold if kind == "entity" else settings.relation_threshold
    targets: dict[str, str] = {}
    for _ in range(settings.rounds):
        if llm is None:
            # The rule compares every two names itself.
            decided = RuleMerger(vectors, threshold).propose_merges([representatives], kind)
        else:
            decided = llm.propose_merges(group_names(representatives, vectors, settings.propose), kind)
        replaced: dict[str, str] = {}
        for cluster in (cluster for clusters in decided for cluster in clusters):
            target = by_count({name: occurrences[name] for name in cluster})[0]
            replaced |= {name: target for name in cluster if name != target}
        if not replaced:
            break
        targets = {name: replaced.get(target, target) for name, target in targets.items()} | replaced
        representatives = [name for name in representatives if name not in replaced]
    return targets


def _clusters(targets: Mapping[str, str], occurrences: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    members: dict[str, list[str]] = {}
    for name in by_count({name: occurrences[name] for name in targets}):
        if targets[name] != name:
            members.setdefault(targets[name], []).append(name)
    return {target: tuple(members[target]) for target in _ordered(members, occurrences)}


def _ordered(names: Collection[str], occurrences: Mapping[str, int]) -> list[str]:
    return sorted(names, key=lambda name: (-occurrences.get(name, 0), name))


def _vectors(names: Sequence[str], frame: str, encoder: TextEncoder) -> dict[str, npt.NDArray[np.float32]]:
    matrix = encoder.encode([frame.format(name.replace("-", " ")) for name in names])
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return dict(zip(names, matrix / np.where(lengths > 0, lengths, 1), strict=True))


_GROUNDS: Final = word_set("area lot space field court ground quarter block zone district site")
"""Nouns for a piece of ground: with the same first word they name one class ("parking lot", "parking area")."""
_EVENTS: Final = frozenset(("appear", "disappear"))
"""Families whose verbs may be synonyms; in others close vectors often mean opposites ("widen", "narrow")."""

_SYNONYMS: Final[Mapping[NameKind, tuple[str, ...]]] = {
    "entity": ("forest,woods,woodland", "gym,gymnasium"),
    "relation": (
        "build,construct,erect,edify,build-up,put-up",
        "appear,show-up,show,emerge,appear-up,spring-up,pop-up,come-up",
        "disappear,vanish,go-away",
        "remove,eliminate,take-away,remove-away,clear-away,clear",
        "demolish,tear-down,knock-down,pull-down,raze,bulldoze,dismantle",
        "cut,cut-down,cut-off,fell,chop,chop-down",
        "rebuild,reconstruct",
        "complete,finish",
        "widen,broaden",
        "beside,next-to,by,adjacent-to",
    ),
}
"""Names that are synonyms in change captions, whatever their vectors."""
_SYNONYM_GROUP: Final[Mapping[NameKind, Mapping[str, int]]] = {
    kind: {name: number for number, group in enumerate(groups) for name in group.split(",")}
    for kind, groups in _SYNONYMS.items()
}


def entities_agree(one: str, other: str) -> bool:
    """Tell whether two entities have the same head noun, or one modifier with two nouns for a piece of ground."""
    first, second = one.split(), other.split()
    if first[-1] == second[-1]:
        return True
    return first[:-1] == second[:-1] != [] and {first[-1], second[-1]} <= _GROUNDS


def relations_agree(one: str, other: str) -> bool:
    """Tell whether two verbs belong to one family of events; prepositions never agree."""
    if {one, other} & PREPOSITIONS:
        return False
    return family_of(one) == family_of(other) and family_of(one) in _EVENTS


@dataclass(frozen=True)
class RuleMerger:
    """Merger by a short list of synonyms, cosine similarity and agreement; a `Merger` like `LLMMerger`.

    Within a group each name, the most frequent first, joins the most similar cluster whose first name agrees with it;
    so nothing is merged through a chain of similar names.

    Attributes:
        vectors: Unit vector of every name.
        threshold: Least cosine of two names that agree.
    """

    vectors: Mapping[str, npt.NDArray[np.float32]]
    threshold: float

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        """Split every group, its names the most frequent first, into clusters of names that mean the same."""
        proposed = []
        for group in groups:
            clusters: dict[str, list[str]] = {}
            for name in group:
                near = [(self._similarity(name, target, kind), target) for target in clusters]
                similarity, best = max(near, default=(-1.0, name), key=lambda pair: pair[0])
                if similarity >= self.threshold and best != name:
                    clusters[best].append(name)
                else:
                    clusters[name] = [name]
            proposed.append(list(clusters.values()))
        return proposed

    def _similarity(self, one: str, other: str, kind: NameKind) -> float:
        """Return 1 for synonyms, the cosine of names that agree, and less than any threshold for others."""
        group = _SYNONYM_GROUP[kind].get(one)
        if group is not None and group == _SYNONYM_GROUP[kind].get(other):
            return 1.0
        agree = entities_agree(one, other) if kind == "entity" else relations_agree(one, other)
        return float(self.vectors[one] @ self.vectors[other]) if agree else -2.0


_HEAD: Final = """\
# Names of the captions that became one; the name before the colon stays. To decide otherwise, copy this file, change
# it, and name the copy in `graph.build.merge.overrides`. What your file names is settled by it alone; `name: []` keeps
# a name to itself. All other names are merged as the settings say.
"""
_FIX: Final = "write `entities:` and `relations:`, each with lines `name: [other name, ...]`"


def write_merges(path: Path, merges: MergeMap) -> Path:
    """Write merges.yaml; names that stand alone are left out."""
    lines = [_HEAD]
    for kind in _KINDS:
        clusters = {target: others for target, others in getattr(merges, kind).items() if others}
        lines.append(f"{kind}:" + ("" if clusters else " {}") + "\n")
        for target, others in clusters.items():
            lines.append(f"  {_scalar(target)}: [{', '.join(map(_scalar, others))}]\n")
    return write_text(path, "".join(lines))


def read_merges(path: Path) -> MergeMap:
    """Read merges.yaml or a file of the same form.

    Raises:
        DataError: It is missing, not YAML, not of this form, or lists a name twice.
    """
    try:
        document = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=path, fix="correct the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise DataError("the map of names is not valid YAML", where=where, fix=_FIX) from error
    if document is None:
        document = {}
    if not isinstance(document, dict) or (unknown := [str(key) for key in document if key not in _KINDS]):
        what = f"it holds `{unknown[0]}`" if isinstance(document, dict) else "it is no mapping"
        raise DataError(f"this is no map of names: {what}", where=path, fix=_FIX)
    return MergeMap(**{kind: _read_clusters(document.get(kind), kind, path) for kind in _KINDS})


def _read_clusters(value: Any, kind: str, path: Path) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"`{kind}` is no mapping of names", where=path, fix=_FIX)
    clusters: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for target, others in value.items():
        members = [] if others is None else others
        if not isinstance(target, str) or not isinstance(members, list) or not all(isinstance(m, str) for m in members):
            raise DataError(f"`{kind}`: the entry {target!r} is not a name with a list of names", where=path, fix=_FIX)
        for name in (target, *members):
            if name in seen or not name.strip():
                what = "stands in two places" if name in seen else "is empty"
                raise DataError(f"`{kind}`: the name {name!r} {what}", where=path, fix="keep one of them")
            seen.add(name)
        clusters[target] = tuple(members)
    return clusters


def _scalar(name: str) -> str:
    """Return a name as YAML text, quoted where YAML would read another type."""
    return yaml.safe_dump(name, default_flow_style=True, width=10_000, allow_unicode=True).split("\n")[0]
