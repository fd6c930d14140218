"""Merging of names: text embeddings propose which to look at together, a rule or a language model decides.

merges.yaml: which names became which, for people to read, change, and give back as their own decisions.

The similarity rule: which names are the same thing, decided so that doubt keeps them apart.
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
_HEAD: Final = """\
# Names of the captions that became one; the name before the colon stays. To decide otherwise, copy this file, change
# it, and name the copy in `graph.build.merge.overrides`. What your file names is settled by it alone; `name: []` keeps
# a name to itself. All other names are merged as the settings say.
"""
_FIX: Final = "write `entities:` and `relations:`, each with lines `name: [other name, ...]`"


@dataclass(frozen=True)
class MergeMap:
    """Which names became which.

    Attributes:
        entities: Other names by the name that stays; a name that stands alone need not be listed.
        relations: The same for relations.
    """

    entities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    relations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def targets(self, kind: str) -> dict[str, str]:
        """Return the name that stays, by every listed name of `kind` ("entities" or "relations")."""
        clusters: Mapping[str, tuple[str, ...]] = getattr(self, kind)
        return {name: stays for stays, others in clusters.items() for name in (stays, *others)}


def write_merges(path: Path, merges: MergeMap) -> Path:
    """Write merges.yaml; names that stand alone are left out."""
    lines = [_HEAD]
    for kind in _KINDS:
        clusters = {stays: others for stays, others in getattr(merges, kind).items() if others}
        lines.append(f"{kind}:" + ("" if clusters else " {}") + "\n")
        for stays, others in clusters.items():
            lines.append(f"  {_scalar(stays)}: [{', '.join(map(_scalar, others))}]\n")
    return write_text(path, "".join(lines))


def read_merges(path: Path) -> MergeMap:
    """Read merges.yaml or a file of the same form.

    Raises:
        DataError: It is missing, not YAML, not of this form, or gives a name two places.
    """
    try:
        document = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=path, fix="correct the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise DataError("the map of names is not valid YAML", where=place, fix=_FIX) from error
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
    for stays, others in value.items():
        members = [] if others is None else others
        if not isinstance(stays, str) or not isinstance(members, list) or not all(isinstance(m, str) for m in members):
            raise DataError(f"`{kind}`: the entry {stays!r} is not a name with a list of names", where=path, fix=_FIX)
        for name in (stays, *members):
            if name in seen or not name.strip():
                what = "stands in two places" if name in seen else "is empty"
                raise DataError(f"`{kind}`: the name {name!r} {what}", where=path, fix="keep one of them")
            seen.add(name)
        clusters[stays] = tuple(members)
    return clusters


def _scalar(name: str) -> str:
    """Write a name as YAML reads it back as text: quoted where it could be taken for something else."""
    return yaml.safe_dump(name, default_flow_style=True, width=10_000, allow_unicode=True).split("\n")[0]


_GROUNDS: Final = word_set("area lot space field court ground quarter block zone district site")
"""Nouns for a piece of ground: after the same word they name the same class ("parking lot", "parking area")."""
_EVENTS: Final = frozenset(("appear", "disappear"))
"""Families whose verbs may be synonyms; in the others near verbs often mean opposites ("widen", "narrow")."""

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
"""Names of which no vector is needed to tell that they say the same in a change caption."""
_SAME: Final[Mapping[NameKind, Mapping[str, int]]] = {
    kind: {name: number for number, group in enumerate(groups) for name in group.split(",")}
    for kind, groups in _SYNONYMS.items()
}


def entities_agree(one: str, other: str) -> bool:
    """Tell whether two entities have the same head noun, or are one word with two nouns for a piece of ground."""
    first, second = one.split(), other.split()
    if first[-1] == second[-1]:
        return True
    return first[:-1] == second[:-1] != [] and {first[-1], second[-1]} <= _GROUNDS


def relations_agree(one: str, other: str) -> bool:
    """Tell whether two verbs belong to one family of events; prepositions agree with nothing: near ones differ."""
    if {one, other} & PREPOSITIONS:
        return False
    return family_of(one) == family_of(other) and family_of(one) in _EVENTS


@dataclass(frozen=True)
class RuleMerger:
    """Decides by a short list of synonyms, by cosine and by agreement; has the method of `LLMMerger`.

    Within a group the names, the most frequent first, join the closest earlier one that stays and that they agree
    with; so nothing is merged by a chain of likenesses.

    Attributes:
        vectors: Unit vector of every name.
        threshold: Least cosine of two names that agree.
    """

    vectors: Mapping[str, npt.NDArray[np.float32]]
    threshold: float

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        """Cut every group, its names the most frequent first, into clusters of names that mean the same."""
        proposed = []
        for group in groups:
            clusters: dict[str, list[str]] = {}
            for name in group:
                near = [(self._likeness(name, stays, kind), stays) for stays in clusters]
                likeness, best = max(near, default=(-1.0, name), key=lambda pair: pair[0])
                if likeness >= self.threshold and best != name:
                    clusters[best].append(name)
                else:
                    clusters[name] = [name]
            proposed.append(list(clusters.values()))
        return proposed

    def _likeness(self, one: str, other: str, kind: NameKind) -> float:
        """Return 1 for synonyms, the cosine of names that agree, and less than any threshold for all others."""
        group = _SAME[kind].get(one)
        if group is not None and group == _SAME[kind].get(other):
            return 1.0
        agree = entities_agree(one, other) if kind == "entity" else relations_agree(one, other)
        return float(self.vectors[one] @ self.vectors[other]) if agree else -2.0


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
    for kind, occurrences in (("entities", counts.entities), ("relations", counts.relations)):
        settled = overrides.targets(kind)
        free = [name for name in by_count(occurrences) if name not in settled and name != SCENE]
        targets = {name: target for name, target in settled.items() if name in occurrences}
        if settings.by != "none" and encoder is not None:
            cluster = _merge_entities if kind == "entities" else _merge_relations
            proposed = cluster({name: occurrences[name] for name in free}, settings, encoder, llm)
            # Nothing joins a name that a person has settled.
            targets |= {name: target for name, target in proposed.items() if target not in settled}
        found[kind] = _clusters(targets, occurrences)
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
