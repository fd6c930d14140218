from __future__ import annotations

import re
import sys
from typing import Annotated

import pytest
from pydantic import AfterValidator, Field

from pipeline.config import Section, parse_section
from pipeline.errors import SettingsError
from pipeline.registry import Registry


@pytest.fixture
def codecs() -> Registry[type]:
    registry: Registry[type] = Registry("codec", where="export.codec")
    registry.register("json", "json:JSONDecoder", "text")
    registry.register("wave", "wave:Wave_read")
    return registry


def test_maps_names_to_targets_in_order(codecs: Registry[type]) -> None:
    assert codecs.names == tuple(codecs) == ("json", "wave")
    assert codecs["json"] == "json:JSONDecoder"
    assert len(codecs) == 2 and "flac" not in codecs


def test_resolves_by_import_and_only_then(codecs: Registry[type], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    assert codecs.validate("wave") == "wave"
    assert "wave" not in sys.modules
    assert codecs.resolve("wave").__name__ == "Wave_read"
    assert "wave" in sys.modules


def test_description_lists_names_with_their_words(codecs: Registry[type]) -> None:
    assert codecs.describe() == "json (text), wave"


def test_name_that_is_taken_is_refused(codecs: Registry[type]) -> None:
    with pytest.raises(SettingsError) as caught:
        codecs.register("json", "simplejson:JSONDecoder")
    assert "two definitions of the codec 'json': json:JSONDecoder and simplejson:JSONDecoder" in str(caught.value)
    assert codecs["json"] == "json:JSONDecoder"


def test_name_is_free_again_once_unregistered(codecs: Registry[type]) -> None:
    codecs.unregister("json")
    codecs.register("json", "json:JSONEncoder")
    assert codecs["json"] == "json:JSONEncoder"


@pytest.mark.parametrize("target", ["json", "json:", ":JSONDecoder", ""])
def test_target_without_module_or_attribute_is_refused(codecs: Registry[type], target: str) -> None:
    with pytest.raises(SettingsError, match="not of the form module:attribute"):
        codecs.register("other", target)


def test_unknown_name_is_told_with_all_names(codecs: Registry[type]) -> None:
    message = "unknown codec, did you mean json?; choose one of json, wave"
    with pytest.raises(SettingsError) as caught:
        codecs.resolve("jsno")
    assert f"'jsno': {message}" in str(caught.value) and caught.value.where == "export.codec"
    with pytest.raises(ValueError, match=re.escape(message)):
        codecs.validate("jsno")


def test_setting_is_validated(codecs: Registry[type]) -> None:
    class Export(Section):
        codec: Annotated[str, AfterValidator(codecs.validate)] = Field("json", description=codecs.describe())

    assert parse_section({"codec": "wave"}, "export", Export).codec == "wave"
    with pytest.raises(SettingsError) as caught:
        parse_section({"codec": "flac"}, "export", Export)
    assert "`export.codec`: unknown codec; choose one of json, wave (given: 'flac')" in str(caught.value)


@pytest.mark.parametrize("target", ["json:NoSuchThing", "no_such_module:Thing"])
def test_target_that_does_not_exist_is_told(codecs: Registry[type], target: str) -> None:
    codecs.register("broken", target)
    with pytest.raises(SettingsError, match=f"the codec 'broken' cannot be imported from {target}"):
        codecs.resolve("broken")
