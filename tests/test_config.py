from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import Field, ValidationError

from pipeline.config import (
    Section,
    iterate_settings,
    parse_section,
    read_document,
    render_params,
    settings_hash,
    with_overrides,
)
from pipeline.errors import SettingsError


class Inner(Section):
    """What is inside."""

    depth: int = Field(2, ge=1, le=4, description="how deep")
    width: int = Field(1, ge=1, description="how wide")


class Example(Section):
    """An example."""

    rate: float = Field(0.5, gt=0, le=1, description="learning rate")
    name: str | None = Field(None, description="a name, or null")
    triple: tuple[int, int, int] = Field((1, 2, 3), description="three numbers: with a colon")
    inner: Inner = Field(default_factory=Inner)


class Deeper(Section):
    """A section whose default for `inner` is not that of its type."""

    inner: Inner = Field(default_factory=lambda: Inner(depth=3, width=8))
    optional: Inner | None = Field(None, description="an inner section, or null")


class Deepest(Section):
    """Two steps from what is inside."""

    deeper: Deeper = Field(default_factory=lambda: Deeper(inner=Inner(depth=4, width=9)))


def load(tmp_path: Path, text: str) -> Example:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return parse_section(read_document(path).get("example") or {}, "example", Example, where=str(path))


def test_missing_section_takes_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "other: {}\n") == Example()
    assert load(tmp_path, "") == Example()


def test_what_a_section_within_leaves_unsaid_is_the_outer_default() -> None:
    assert parse_section({"inner": {"depth": 2}}, "deeper", Deeper).inner == Inner(depth=2, width=8)
    assert parse_section({"deeper": {"inner": {"width": 2}}}, "deepest", Deepest).deeper.inner == Inner(
        depth=4, width=2
    )
    assert parse_section({"optional": {"depth": 4}}, "deeper", Deeper).optional == Inner(depth=4)
    assert Deeper(inner=Inner(depth=1)).inner == Inner(depth=1)


def test_values_are_read_and_frozen(tmp_path: Path) -> None:
    section = load(tmp_path, "example: {rate: 0.25, inner: {depth: 3}}")
    assert (section.rate, section.inner.depth) == (0.25, 3)
    with pytest.raises(ValidationError):
        section.rate = 1.0


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("example: {raet: 0.1}", "example.raet", "`rate`"),
        ("example: {inner: {dept: 1}}", "example.inner.dept", "`depth`"),
        ("example: {zzzz: 0.1}", "example.zzzz", "known keys"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, text: str, key: str, near: str) -> None:
    with pytest.raises(SettingsError, match=key) as caught:
        load(tmp_path, text)
    assert near in str(caught.value.fix)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("example: {rate: 2}", "example.rate"),
        ("example: {rate: .nan}", "example.rate"),
        ("example: {rate: fast}", "example.rate"),
        ("example: {inner: {depth: 9}}", "example.inner.depth"),
        ("example: {triple: [1, 2]}", "example.triple"),
    ],
)
def test_value_out_of_range(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(SettingsError, match=key) as caught:
        load(tmp_path, text)
    assert "params.yaml" in str(caught.value.where)


@pytest.mark.parametrize("text", ["example: [1]", "example: 3", "- a", "a: [", "1: 2"])
def test_not_a_settings_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        load(tmp_path, text)


def test_missing_or_undecodable_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        read_document(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_document(tmp_path / "bad.yaml")


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        load(tmp_path, "example: !!python/object/apply:os.getcwd []")


def test_rendering_reads_back_and_explains_every_key(tmp_path: Path) -> None:
    section = Example(rate=0.125, name="a: b", inner=Inner(depth=4))
    text = render_params({"example": section}, heading="Settings")
    assert load(tmp_path, text) == section
    for sentence in ("learning rate", "a name, or null", "three numbers: with a colon", "What is inside", "how deep"):
        assert sentence in text


def test_rendering_of_what_differs_and_what_is_shown(tmp_path: Path) -> None:
    section = Example(rate=0.125)
    text = render_params({"example": section}, heading="Settings", shown=("example.inner.width",))
    assert load(tmp_path, text) == section
    assert "rate: 0.125" in text and "width: 1" in text
    assert "name:" not in text and "triple:" not in text and "depth:" not in text
    assert "example: {}" in render_params({"example": Example()}, heading="Settings", shown=())
    assert "inner: {}" in render_params({"example": Example()}, heading="Settings", shown=("example.inner",))


def test_rendering_compares_with_the_default_of_the_section_around(tmp_path: Path) -> None:
    section = Deepest(deeper=Deeper(inner=Inner(depth=2, width=9), optional=Inner()))
    text = render_params({"deepest": section}, heading="Settings", shown=())
    assert yaml.safe_load(text) == {"deepest": {"deeper": {"inner": {"depth": 2}, "optional": {}}}}
    assert parse_section(yaml.safe_load(text)["deepest"], "deepest", Deepest) == section


def test_rendering_leaves_out_what_is_omitted_and_shortens_comments() -> None:
    class Long(Section):
        """A section."""

        key: int = Field(1, description="word " * 100)

    text = render_params({"example": Example()}, heading="x", omitted=("example.inner", "example.rate"))
    assert "inner" not in text and "rate" not in text and "triple: [1, 2, 3]" in text
    short = render_params({"long": Long()}, heading="x", shown=("long.key",))
    whole = render_params({"long": Long()}, heading="x")
    assert short.count("word word") < whole.count("word word") and " …\n  key: 1" in short


def test_settings_are_listed_with_the_default_that_they_have_where_they_are() -> None:
    section = Deepest(deeper=Deeper(inner=Inner(depth=4, width=3)))
    settings = list(iterate_settings("deepest", section))
    assert [(setting.key, setting.value, setting.default, setting.changed) for setting in settings] == [
        ("deepest.deeper.inner.depth", 4, 4, False),
        ("deepest.deeper.inner.width", 3, 9, True),
        ("deepest.deeper.optional", None, None, False),
    ]
    assert [setting.description for setting in settings] == ["how deep", "how wide", "an inner section, or null"]


def test_hash_follows_values() -> None:
    assert settings_hash(Example()) == settings_hash(parse_section({"rate": 0.5}, "example", Example))
    assert settings_hash(Example()) != settings_hash(Example(rate=0.25))


def test_overrides() -> None:
    document = {"example": {"rate": 0.5, "inner": {"depth": 1}}}
    changed = with_overrides(document, ["example.inner.depth=3", "example.triple=[4, 5, 6]", "new.key=null"])
    assert changed == {
        "example": {"rate": 0.5, "inner": {"depth": 3}, "triple": [4, 5, 6]},
        "new": {"key": None},
    }
    assert document["example"] == {"rate": 0.5, "inner": {"depth": 1}}


@pytest.mark.parametrize(
    "assignment", ["rate", "rate=1", "example.rate", "example..rate=1", "example.rate.x=1", "a.b=["]
)
def test_bad_overrides(assignment: str) -> None:
    with pytest.raises(SettingsError):
        with_overrides({"example": {"rate": 0.5}}, [assignment])
