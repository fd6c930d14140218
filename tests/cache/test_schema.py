from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.cache.schema import Field, Provenance, Schema
from pipeline.config import Section, settings_hash


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dtype": "complex64"}, "dtype complex64"),
        ({"dtype": "bool"}, "dtype bool"),
        ({"shape": (-2,)}, "−1 or more"),
        ({"compression": "lzf"}, "unknown compression"),
    ],
)
def test_fields_that_cannot_be_stored(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Field(**{"name": "x", "dtype": "float16", **arguments})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ((Field("x", "int8"), Field("x", "int16")), "share a name"),
        ((Field("ids", "int8"),), "cannot be the name"),
        ((Field("a/b", "int8"),), "cannot be the name"),
        ((Field("x", "int8", offsets="missing"),), "cannot be the name"),
        ((Field("x", "int8", offsets="y"), Field("y", "int8")), "both a field and offsets"),
    ],
)
def test_schemas_that_cannot_be_stored(fields: tuple[Field, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Schema("s", 1, "pair", fields)


def test_unit_of_a_schema() -> None:
    assert Schema("s", 1, "image", ()).units_per_item == 2
    assert Schema("s", 1, "pair", ()).units_per_item == 1
    assert Schema("s", 1, "node", ()).units_per_item == 1
    with pytest.raises(ValueError, match="image, pair or node"):
        Schema("s", 1, "region", ())


def test_open_shapes_accept_what_fits() -> None:
    field = Field("x", "int8", (-1, 2))
    assert field.accepts((7, 2))
    assert not field.accepts((7, 3))
    assert not field.accepts((7,))
    assert Field("x", "int8", None).accepts((1, 2, 3))
    with pytest.raises(ValueError, match="not decided"):
        _ = field.row_shape


def test_the_provenance_of_a_stages_settings() -> None:
    class Settings(Section):
        size: int = 3

    schema = Schema("s", 2, "pair", ())
    assert Provenance.of(schema, Settings(), code="c", weights={"w": "1"}) == Provenance(
        "s", 2, {"size": 3}, settings_hash(Settings()), weights={"w": "1"}, upstream={}, code="c"
    )


def test_declaring_a_schema_loads_neither_numpy_nor_hdf5() -> None:
    code = (
        "import sys; from pipeline.cache.schema import Schema, Field, Expectation, Provenance; "
        "print([name for name in ('numpy', 'h5py', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
