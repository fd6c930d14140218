from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.language.graph.merge_map import MergeMap, read_merges, write_merges


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
