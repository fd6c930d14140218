from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.files import sha256_file
from tests.datasets import fakes


def contents(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", fakes.TWINS)
def test_same_seed_same_bytes(tmp_path: Path, name: str) -> None:
    first, second = (contents(fakes.TWINS[name](tmp_path / folder)) for folder in ("first", "second"))
    assert first == second
    assert len(first) > 5
