"""How triples are found, merged and filtered, and what the nodes look like; free of torch and spaCy.

Which text encoder turns names into vectors; free of torch, so that the command line may read it.

Settings of the engine of rules.

Which language model is asked, how, and at what price; free of the client, so that the command line may read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from pipeline.config import Section
from pipeline.errors import DataError, SettingsError
from pipeline.files import content_key

MINILM: Final = "minilm"
HASHED: Final = "hashed"


class TextEncoderSettings(Section):
    """The text encoder of equation (14)."""

    encoder: str = Field(
        MINILM,
        min_length=1,
        description="minilm (all-MiniLM-L6-v2, 384 numbers, comes with the installation), hashed (character n-grams, "
        "no model at all), a folder of a transformers model, or a name on the Hugging Face hub such as "
        "bert-base-uncased (paper: BERT)",
    )
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="a text's vector: the mean over its tokens, or the first token's (paper silent)"
    )
    normalise: bool = Field(True, description="vectors are brought to length 1")
    width: int = Field(256, ge=8, le=65536, description="hashed: numbers of a vector")


class RulesSettings(Section):
    """How the rules read captions."""

    pipeline: str | None = Field(
        None,
        description="trained spaCy pipeline, by name or folder, that tells nouns, adjectives and verbs apart; empty "
        "uses the word lists of this project, which need no download",
    )


Structured = Literal["json_schema", "json_object", "none"]

_OWN_FIELDS = frozenset({"model", "messages", "response_format", "stream", "n", "temperature", "seed", "max_tokens"})


class TrafficSettings(Section):
    """How requests are paced and repeated; nothing here changes an answer."""

    concurrency: int = Field(8, ge=1, le=256, description="requests under way at the same time")
    requests_per_minute: float | None = Field(None, gt=0, description="limit of the endpoint; null: none")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="limit of the endpoint, prompt and answer counted by estimate; null: none"
    )
    timeout: float = Field(120.0, gt=0, description="seconds that one request may take in all")
    retries: int = Field(5, ge=0, description="how often a request is repeated after 429, 5xx, a timeout or a break")
    backoff: float = Field(
        1.0,
        ge=0,
        description="seconds before the first repetition; doubled for each further one, up to half shaved off",
    )
    backoff_limit: float = Field(30.0, ge=0, description="longest such wait in seconds")
    wait_limit: float = Field(
        300.0, ge=0, description="longest wait in seconds that the endpoint may ask for by Retry-After; above it: stop"
    )


class PriceSettings(Section):
    """What the endpoint charges; for the estimate of a dry run only."""

    prompt: float | None = Field(None, ge=0, description="price of a million prompt tokens; null: unknown")
    answer: float | None = Field(None, ge=0, description="price of a million answer tokens; null: unknown")
    currency: str = Field("USD", description="unit of both prices")


class LLMSettings(Section):
    """The language model that extracts triples and merges synonyms."""

    base_url: str | None = Field(
        None,
        description="address of an OpenAI-compatible endpoint, such as http://localhost:11434/v1; null: the "
        "environment variable OPENAI_BASE_URL, else https://api.openai.com/v1",
    )
    model: str | None = Field(None, min_length=1, description="name of the model, as the endpoint knows it")
    key_variable: str | None = Field(
        "OPENAI_API_KEY",
        description="environment variable that holds the API key (the key itself stands in no file); null: the "
        "endpoint asks for none",
    )
    structured: Structured = Field(
        "json_schema",
        description="how the form of the answer is asked for: json_schema; json_object for endpoints that know JSON "
        "without a schema; none for those that know neither (the schema then stands in the prompt)",
    )
    temperature: float | None = Field(0.0, ge=0, le=2, description="null: not sent, for models that refuse it")
    seed: int | None = Field(0, description="seed of the model's sampling; null: not sent")
    max_tokens: int | None = Field(None, ge=16, description="longest answer in tokens; null: not sent")
    extra: dict[str, JsonValue] = Field(
        default_factory=dict, description="further fields of each request, such as max_completion_tokens, as they are"
    )
    captions_per_request: int = Field(20, ge=1, le=500, description="captions that share a request for triples")
    groups_per_request: int = Field(4, ge=1, le=100, description="groups of names that share a request for synonyms")
    rounds: int = Field(
        2, ge=0, le=10, description="how often what got no usable answer is asked again, in ever smaller requests"
    )
    prompts: Path | None = Field(
        None, description="folder with own versions of triples.md and merges.md; null: those that come along"
    )
    traffic: TrafficSettings = Field(default_factory=TrafficSettings, description="pace and repetition of requests")
    prices: PriceSettings = Field(default_factory=PriceSettings, description="prices, for the dry run")

    def result_values(self, questions: Sequence[str]) -> dict[str, Any]:
        """Return what decides the answers to `questions` ("triples", "merges") as JSON values; empty where none is put.

        Pace, prices and the key's variable decide nothing, and of own prompts only the content counts.

        Raises:
            DataError: A prompt cannot be read.
        """
        if not questions:
            return {}
        values = self.model_dump(mode="json", exclude={"traffic", "prices", "key_variable"})
        if self.prompts is not None:
            values["prompts"] = {name: content_key(read_prompt(self, name)) for name in questions}
        return values

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else checked_address(value, "`base_url`")

    @field_validator("extra")
    @classmethod
    def _only_further(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(_OWN_FIELDS & value.keys()):
            raise ValueError(f"{', '.join(taken)} cannot be set here: own settings exist or the engine needs them")
        return value


def checked_address(value: str, where: str) -> str:
    """Return an endpoint's address without its final slash.

    Raises:
        SettingsError: It is no http(s) address, or holds a password or a query. The message does not repeat it,
            because it may hold a secret; for the same reason this is no ValueError, whose input pydantic shows.
    """
    try:
        parts = urlsplit(value)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole:
        raise SettingsError(
            "the endpoint's address must begin with http:// or https:// and name a host",
            where=where,
            fix="for example https://api.openai.com/v1 or http://localhost:11434/v1",
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingsError(
            "the endpoint's address must not hold a user, a password or a query",
            where=where,
            fix="give the key in the environment variable that `graph.build.llm.key_variable` names",
        )
    return value.rstrip("/")


EngineName = Literal["rules", "llm"]


class ExtractionSettings(Section):
    """How triples are found in captions."""

    engine: EngineName = Field(
        "rules", description="rules (offline), or llm (paper: a large language model, which it does not name)"
    )
    on_bad_caption: Literal["fatal", "skip"] = Field(
        "fatal", description="llm: a caption without a usable answer ends the stage, or is left out with a line"
    )
    rules: RulesSettings = Field(default_factory=RulesSettings)


class MergeSettings(Section):
    """Which names of entities and relations become one (paper: iterative clustering guided by a language model)."""

    by: Literal["rules", "llm", "none"] = Field(
        "rules",
        description="who decides: rules (a few synonyms, else similarity and agreement of head nouns or of the verbs' "
        "families), llm, or none: only the override file",
    )
    text: TextEncoderSettings = Field(
        default_factory=TextEncoderSettings, description="text encoder that proposes; the thresholds are for minilm"
    )
    propose: float = Field(0.5, ge=-1, le=1, description="llm: names are shown to it together above this mean cosine")
    entity_threshold: float = Field(0.8, ge=-1, le=1, description="rules: least cosine of two entities of one head")
    relation_threshold: float = Field(
        0.75, ge=-1, le=1, description="rules: least cosine of two verbs of appearing, or of disappearing"
    )
    rounds: int = Field(3, ge=1, le=20, description="most rounds; merging ends when a round merges nothing")
    overrides: Path | None = Field(
        None,
        description="file of your own decisions, in the form of merges.yaml that the stage writes; they come first",
    )


class GraphBuildSettings(Section):
    """From captions to the graph (section 3.4)."""

    extraction: ExtractionSettings = Field(default_factory=ExtractionSettings)
    llm: LLMSettings = Field(default_factory=LLMSettings)
    merge: MergeSettings = Field(default_factory=MergeSettings)
    min_count: int = Field(
        50, ge=1, description="k: entities and relations that occur less often are dropped (paper: 50 best of 30 to 70)"
    )
    features: TextEncoderSettings = Field(
        default_factory=TextEncoderSettings,
        description="text encoder of the node features, equation (14)",
    )


def read_prompt(settings: LLMSettings, name: str) -> str:
    """Read the prompt `name`.md: the user's version where `settings.prompts` names a folder that has one.

    Raises:
        DataError: The folder or file cannot be read, or the prompt is empty.
    """
    if settings.prompts is None:
        return files("pipeline.caption_graph.llm").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8").strip()
    path = Path(settings.prompts) / f"{name}.md"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the prompt: {error}",
            where=path,
            fix="set `graph.build.llm.prompts` to null: prompts come along",
        ) from error
    if not text:
        raise DataError("the prompt is empty", where=path, fix="write it, or set `graph.build.llm.prompts` to null")
    return text
