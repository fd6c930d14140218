from __future__ import annotations

import pytest

from pipeline.errors import ServiceError, SettingsError
from pipeline.language.llm.endpoint import find_endpoint
from pipeline.language.llm.settings import LLMSettings
from tests.language.llm.conftest import KEY


def test_address_comes_from_settings_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_endpoint(LLMSettings(model="m")).address == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://host:1/v1/")
    assert find_endpoint(LLMSettings(model="m")).address == "http://host:1/v1"
    assert find_endpoint(LLMSettings(model="m", base_url="http://other/v1")).address == "http://other/v1"


def test_secret_in_the_environments_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:s3cret@host/v1")
    with pytest.raises(SettingsError) as caught:
        find_endpoint(LLMSettings(model="m"))
    assert "s3cret" not in str(caught.value)


def test_no_model() -> None:
    with pytest.raises(SettingsError, match="no language model is named"):
        find_endpoint(LLMSettings())


@pytest.mark.parametrize("value", [None, "", "  "])
def test_missing_key_names_variable_and_cure(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(ServiceError, match="no API key") as caught:
        find_endpoint(LLMSettings(model="m"))
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "export OPENAI_API_KEY" in str(caught.value.fix)


def test_key_from_another_variable_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", " k1\n")
    assert find_endpoint(LLMSettings(model="m", key_variable="OTHER")).key == "k1"
    assert find_endpoint(LLMSettings(model="m", key_variable=None)).key is None


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-ключ", "sk a"])
def test_key_that_cannot_be_a_header_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ServiceError, match="outside ASCII") as caught:
        find_endpoint(LLMSettings(model="m"))
    assert "sk" not in str(caught.value)


def test_key_in_place_of_the_variables_name_is_not_shown() -> None:
    with pytest.raises(SettingsError, match="name of an environment variable") as caught:
        find_endpoint(LLMSettings(model="m", key_variable="sk-secret-1"))
    assert "sk-secret-1" not in str(caught.value)


def test_key_that_stands_in_the_settings_is_refused() -> None:
    with pytest.raises(SettingsError, match="stands in the settings") as caught:
        find_endpoint(LLMSettings(model="m", extra={"user": f"x{KEY}"}))
    assert KEY not in str(caught.value)


def test_key_is_not_part_of_the_representation() -> None:
    assert KEY not in repr(find_endpoint(LLMSettings(model="m")))


def test_foreign_text_is_cleaned() -> None:
    endpoint = find_endpoint(LLMSettings(model="m"))
    assert endpoint.clean(f"bad\x1b[31m key\r\n {KEY}!") == "bad [31m key ***!"
    assert len(endpoint.clean("x" * 1000)) == 300
