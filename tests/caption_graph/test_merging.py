from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.caption_graph.llm.merges import NameKind
from pipeline.caption_graph.merging import (
    MergeMap,
    RuleMerger,
    apply_merges,
    entities_agree,
    group_names,
    merge_names,
    read_merges,
    relations_agree,
    write_merges,
)
from pipeline.caption_graph.records import NameCounts
from pipeline.caption_graph.settings import MergeSettings
from pipeline.caption_graph.text_encoders import TextEncoder
from pipeline.errors import DataError


def test_the_written_map_is_readable_and_reads_back(tmp_path: Path) -> None:
    merges = MergeMap({"pool": ("swimming pool",), "yes": ("no", "on", "1")}, {})
    path = write_merges(tmp_path / "merges.yaml", merges)
    assert "  pool: [swimming pool]\n" in path.read_text()
    assert "relations: {}" in path.read_text()
    assert read_merges(path) == merges
    assert merges.targets("entities")["swimming pool"] == "pool"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("entities: [", "not valid YAML"),
        ("- a", "no mapping"),
        ("entitys: {}", "`entitys`"),
        ("entities: [a]", "`entities` is no mapping"),
        ("entities: {a: b}", "'a' is not a name with a list"),
        ("entities: {a: [b], b: []}", "'b' stands in two places"),
        ("relations: {a: ['']}", "is empty"),
        ("entities: {1: [b]}", "1 is not a name"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(DataError, match=said):
        read_merges(tmp_path / "own.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_merges(tmp_path / "absent.yaml")


COUNTS = NameCounts(
    {
        "road": 90, "scene": 80, "house": 50, "woods": 20, "parking lot": 15, "forest": 14, "car": 9, "pool": 8,
        "vehicle": 7, "swimming pool": 6, "parking area": 3, "building": 3, "construction": 2,
    },
    {
        "appear-on": 40, "build": 30, "construct-on": 20, "build-on": 10, "disappear": 9, "show-up-on": 8,
        "vanish": 5, "widen": 4, "narrow": 3, "appear-above": 2, "appear-below": 2, "beside": 2, "next-to": 1,
    },
)  # fmt: skip


def test_the_rule_merges_synonyms_and_leaves_doubtful_names_alone(minilm: TextEncoder) -> None:
    merges = merge_names(COUNTS, MergeSettings(), MergeMap(), minilm, None)
    assert dict(merges.entities) == {
        "woods": ("forest",),
        "parking lot": ("parking area",),
        "pool": ("swimming pool",),
    }
    assert dict(merges.relations) == {
        "appear-on": ("show-up-on",),
        "build-on": ("construct-on",),
        "disappear": ("vanish",),
        "beside": ("next-to",),
    }


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("pool", "swimming pool", True),
        ("parking lot", "parking area", True),
        ("villa", "villa area", False),
        ("car", "vehicle", False),
        ("parking lot", "storage lot", True),
        ("parking lot", "teaching area", False),
    ],
)
def test_agreement_of_entities(one: str, other: str, agree: bool) -> None:
    assert entities_agree(one, other) is agree


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [("appear", "arise", True), ("appear", "vanish", False), ("widen", "narrow", False), ("above", "below", False)],
)
def test_agreement_of_verbs_and_prepositions(one: str, other: str, agree: bool) -> None:
    assert relations_agree(one, other) is agree


def test_no_chain_of_similar_names_merges() -> None:
    # b is close to a and c to b, but c is far from a, which stays.
    angles = {"x a": 0.0, "y a": 0.5, "z a": 1.0}
    vectors = {name: np.array([np.cos(v), np.sin(v)], np.float32) for name, v in angles.items()}
    clusters = RuleMerger(vectors, 0.85).propose_merges([["x a", "y a", "z a"]])
    assert clusters == [[["x a", "y a"], ["z a"]]]


def test_overrides_come_first_and_nothing_joins_their_names(minilm: TextEncoder) -> None:
    overrides = MergeMap({"pool": (), "automobile": ("car", "vehicle")}, {"build-on": ()})
    merges = merge_names(COUNTS, MergeSettings(), overrides, minilm, None)
    assert merges.entities["automobile"] == ("car", "vehicle")
    assert "pool" not in merges.entities
    assert "build-on" not in merges.relations
    assert apply_merges([("vehicle", "construct-on", "scene")], merges) == [("automobile", "construct-on", "scene")]


def test_none_merges_by_the_overrides_alone() -> None:
    merges = merge_names(COUNTS, MergeSettings(by="none"), MergeMap({"woods": ("forest",)}), None, None)
    assert (dict(merges.entities), dict(merges.relations)) == ({"woods": ("forest",)}, {})


class Model:
    """A language model that merges in each round the first two names of each group, up to a number of rounds."""

    def __init__(self, rounds: int) -> None:
        self.remaining, self.seen = rounds, []

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        self.seen.append((kind, [list(group) for group in groups]))
        self.remaining -= 1
        if self.remaining < 0:
            return [[[name] for name in group] for group in groups]
        return [[list(group[:2]), *([name] for name in group[2:])] for group in groups]


def test_the_model_decides_in_rounds_and_the_most_frequent_name_stands_for_a_cluster(minilm: TextEncoder) -> None:
    counts = NameCounts({"car": 5, "vehicle": 9, "truck": 3, "scene": 50}, {})
    model = Model(rounds=2)
    merges = merge_names(counts, MergeSettings(by="llm", propose=0.3), MergeMap(), minilm, model)
    assert model.seen[0] == ("entity", [["vehicle", "car", "truck"]])
    assert model.seen[1] == ("entity", [["vehicle", "truck"]])
    assert dict(merges.entities) == {"vehicle": ("car", "truck")}


def test_groups_are_close_and_never_too_large() -> None:
    rng = np.random.default_rng(0)
    near = rng.normal(size=(60, 8)) * 0.05 + 1
    matrix = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    names = [f"n{number:02}" for number in range(60)]
    groups = group_names(names, dict(zip(names, matrix, strict=True)), 0.5)
    assert groups
    assert max(map(len, groups)) <= 24
    assert all(group == sorted(group) for group in groups)
    assert group_names(["a"], {"a": matrix[0]}, 0.5) == []
