from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def reference(*parts: str) -> Path:
    """Return a file or folder of the real data; skip the test, with the reason, where it is absent."""
    path = Path(os.environ.get("SAGECC_REFERENCE_DATA", _DEFAULT)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there; set SAGECC_REFERENCE_DATA to the folder of the real data")
    return path
