from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.caption_graph.settings import LLMSettings
from pipeline.config import parse_section
from pipeline.errors import SettingsError


def test_settings_do_not_import_the_client() -> None:
    code = (
        "import sys, pipeline.caption_graph.settings as s; s.LLMSettings(); "
        "sys.exit(any(name in sys.modules for name in ('openai', 'torch', 'spacy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "http://", "https://host:notaport/v1"])
def test_llm_address_must_be_http_with_a_host(address: str) -> None:
    with pytest.raises(SettingsError, match="must begin with http"):
        LLMSettings(base_url=address)


@pytest.mark.parametrize(
    "address", ["https://me:s3cret@host/v1", "https://s3cret@host/v1", "https://host/v1?key=s3cret"]
)
def test_llm_address_with_a_secret_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(SettingsError, match="must not hold") as caught:
        parse_section({"base_url": address}, "llm", LLMSettings)
    assert "s3cret" not in str(caught.value)


def test_final_slash_of_the_llm_address_is_dropped() -> None:
    assert LLMSettings(base_url="http://localhost:1/v1/").base_url == "http://localhost:1/v1"


def test_llm_fields_of_the_engine_cannot_be_overridden() -> None:
    with pytest.raises(SettingsError, match=r"model, temperature cannot be set here"):
        parse_section({"extra": {"temperature": 1, "model": "x"}}, "llm", LLMSettings)


def test_llm_settings_hold_no_key_field() -> None:
    with pytest.raises(SettingsError, match=r"unknown key `llm\.api_key`"):
        parse_section({"api_key": "sk-1"}, "llm", LLMSettings)
