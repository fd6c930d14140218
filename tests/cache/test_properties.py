from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.cache.inspect import describe
from pipeline.cache.reader import Cache
from pipeline.cache.schema import DTYPES, Field, Schema
from pipeline.cache.writer import pack
from pipeline.errors import CacheError
from tests.cache.contents import SCHEMA, Units, arrays, provenance, write


@st.composite
def caches(draw: st.DrawFn) -> tuple[Schema, list[str], list[dict[str, np.ndarray] | None]]:
    names = draw(st.lists(st.text("abcxyz", min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
    fields = tuple(
        Field(
            name,
            draw(st.sampled_from(sorted(DTYPES))),
            tuple(draw(st.lists(st.integers(0, 3), max_size=2))),
            draw(st.sampled_from([None, "offsets-1", "offsets-2"])),
            draw(st.text(max_size=5)).replace("\0", ""),
            draw(st.text(max_size=20)).replace("\0", ""),
            draw(st.sampled_from([None, "gzip"])),
        )
        for name in names
    )
    schema = Schema("things", 3, draw(st.sampled_from(["image", "pair"])), fields)
    ids = draw(
        st.lists(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=6),
            unique=True,
            max_size=5,
        )
    )
    units: list[dict[str, np.ndarray] | None] = []
    for _ in range(len(ids) * schema.units_per_item):
        rows = {name: draw(st.integers(0, 6)) for name in schema.offset_names}
        unit = {}
        for field in fields:
            shape = field.shape if field.offsets is None else (rows[field.offsets], *field.shape)
            finite = {"allow_nan": False, "allow_infinity": False} if field.dtype.startswith("float") else None
            unit[field.name] = draw(hnp.arrays(np.dtype(field.dtype), shape, elements=finite))
        units.append(unit if not units or draw(st.integers(0, 5)) else None)
    return schema, ids, units


@given(caches())
@settings(max_examples=60, deadline=None)
def test_whatever_is_packed_comes_back(content: tuple[Schema, list[str], list[dict[str, np.ndarray] | None]]) -> None:
    schema, ids, units = content
    with tempfile.TemporaryDirectory() as folder:
        path = pack(Path(folder) / "c.h5", schema, provenance(), ids, Units(schema, units))
        assert describe(path).items == len(ids)
        with Cache.open(path, schema) as cache:
            assert cache.ids == tuple(ids)
            assert cache.missing.tolist() == [number for number, unit in enumerate(units) if unit is None]
            for number, unit in enumerate(units):
                for field in schema.fields:
                    stored = cache.row(field.name, number)
                    if unit is not None:
                        assert stored.tobytes() == unit[field.name].tobytes()
                        assert stored.shape == unit[field.name].shape
                    else:
                        assert not stored.any()
            cache.verify()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "c.h5")
        content = bytearray(path.read_bytes())
        # Headers lie at the beginning and at the end; the middle is compressed data.
        places = st.one_of(
            st.integers(0, 12_000),
            st.integers(len(content) - 4_000, len(content) - 1),
            st.integers(0, len(content) - 1),
        )
        if data.draw(st.booleans(), label="truncate"):
            del content[data.draw(places, label="keep") :]
        else:
            for place in data.draw(st.lists(places, min_size=1, max_size=8), label="places"):
                content[place] ^= data.draw(st.integers(1, 255), label="bits")
        path.write_bytes(content)
        try:
            describe(path)
            with Cache.open(path, SCHEMA) as cache:
                cache.verify()
                for number, unit in enumerate(arrays()):
                    for name, values in unit.items():
                        np.testing.assert_array_equal(cache.row(name, number), values)
        except CacheError:
            pass
