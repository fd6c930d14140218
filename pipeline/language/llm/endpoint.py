"""Where a language model is reached and with what key; the key never leaves this module but in the client's header."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from pipeline.errors import ServiceError, SettingsError
from pipeline.language.llm.settings import LLMSettings, checked_address

_DEFAULT_ADDRESS = "https://api.openai.com/v1"
_ADDRESS_VARIABLE = "OPENAI_BASE_URL"
_SHOWN = 300


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        address: Its base address, without a final slash.
        model: Name of the model asked there.
        key: The API key; None where the endpoint asks for none. Not part of the representation.
        key_variable: The environment variable it came from.
    """

    address: str
    model: str
    key: str | None = field(repr=False)
    key_variable: str | None

    def holds_key(self, text: str) -> bool:
        """Tell whether `text` repeats the key."""
        return self.key is not None and self.key in text

    def clean(self, text: str) -> str:
        """Make foreign text fit for a message: one line of printable characters, short, the key blotted out."""
        if self.key is not None:
            text = text.replace(self.key, "***")
        text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def model_name(settings: LLMSettings) -> str:
    """Return the name of the model to ask.

    Raises:
        SettingsError: The settings name none.
    """
    if settings.model is None:
        raise SettingsError(
            "no language model is named",
            where="`graph.build.llm.model`",
            fix="name one that the endpoint knows: --set graph.build.llm.model=NAME",
        )
    return settings.model


def find_endpoint(settings: LLMSettings) -> Endpoint:
    """Read address and key: the address from the settings or the environment, the key from the environment only.

    Raises:
        SettingsError: No model is named, the address cannot be used, or `key_variable` is no variable's name.
        ServiceError: The key is missing or holds characters that no key has.
    """
    model = model_name(settings)
    address = settings.base_url
    if address is None:
        address = checked_address(os.environ.get(_ADDRESS_VARIABLE) or _DEFAULT_ADDRESS, _ADDRESS_VARIABLE)
    key = _read_key(settings.key_variable)
    if key is not None and (key in settings.model_dump_json() or key in address):
        raise SettingsError(
            "the API key stands in the settings, which are written beside every result",
            where="`graph.build.llm`",
            fix="remove it there; the environment is the only place it is read from",
        )
    return Endpoint(address, model, key, settings.key_variable)


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise SettingsError(
            "`key_variable` must be the name of an environment variable",
            where="`graph.build.llm.key_variable`",
            fix="name the variable, such as OPENAI_API_KEY, and put the key into the environment, never into a file",
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ServiceError(
            "no API key for the language model",
            where=f"environment variable {variable}",
            fix=f"run `export {variable}=…`, or set `graph.build.llm.key_variable` to null where the endpoint "
            "asks for none",
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        # The HTTP library would refuse the header too, but with the key in its message.
        raise ServiceError(
            "the API key holds spaces or characters outside ASCII",
            where=f"environment variable {variable}",
            fix="copy the key again, without line breaks or quotes around it",
        )
    return key
