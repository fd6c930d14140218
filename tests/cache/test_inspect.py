from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.cache import inspect
from pipeline.cache.inspect import describe, render
from pipeline.errors import CacheError
from tests.cache.contents import arrays, write


def shown(path: Path) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(render(describe(path)))
    return stream.getvalue()


def test_everything_is_told_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5", missing=[3])
    description = describe(path)
    assert (description.items, description.units, description.size) == (3, 6, path.stat().st_size)
    assert description.missing == ("é-2 (after)",)
    assert description.attributes["stage"] == "things"
    assert description.attributes["weights backbone"] == "6" * 64
    features, vectors, _, codes = description.fields
    assert (features.shape, features.dtype, features.lengths) == ((6, 3, 2), "float16", None)
    assert (vectors.unit, vectors.description, vectors.offsets) == ("px", "ragged vectors", "offsets")
    assert codes.compression == "gzip"
    assert 0 < codes.stored < 700_000


def test_statistics_are_those_of_the_data(tmp_path: Path) -> None:
    vectors = describe(write(tmp_path / "c.h5")).fields[1]
    everything = np.concatenate([unit["vectors"] for unit in arrays()]).astype(np.float64)
    assert vectors.values is not None
    assert (vectors.values.minimum, vectors.values.maximum) == (everything.min(), everything.max())
    assert vectors.values.mean == pytest.approx(everything.mean())
    assert vectors.values.share == 1
    assert vectors.lengths == inspect.Lengths(0, 10 / 6, 4, 2)


def test_large_fields_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_SAMPLE", 10_000)
    codes = describe(write(tmp_path / "c.h5")).fields[3]
    assert codes.values is not None
    assert 0 < codes.values.share < 0.05
    assert (codes.values.minimum, codes.values.maximum) == (0, 3)
    assert codes.values.mean == pytest.approx(1.5, abs=0.1)


def test_it_prints_names_shapes_units_and_meanings(tmp_path: Path) -> None:
    text = shown(write(tmp_path / "c.h5", missing=[0]))
    for expected in ("vectors", "8 × 4", "float16", "px", "ragged vectors", "missing: a (before)", "size: 4"):
        assert expected in text, text


def test_markup_in_the_file_is_shown_as_it_is(tmp_path: Path) -> None:
    assert "[red]" in shown(write(tmp_path / "c.h5", settings={"name": "[red]"}))


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CacheError):
        describe(path)
    with pytest.raises(CacheError, match="does not exist"):
        describe(tmp_path / "none.h5")
