"""Settings of the caption graph: extraction, language model, merging, text encoders; free of torch and spaCy."""

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
from pipeline.path_settings import PathSetting, PathText

MINILM: Final = "minilm"
HASHED: Final = "hashed"


class TextEncoderSettings(Section):
    """The text encoder of equation (14)."""

    encoder: PathText = Field(
        MINILM,
        min_length=1,
        description="minilm (all-MiniLM-L6-v2, 384 numbers, comes with the installation), hashed (character n-grams, "
        "no model at all), a folder of a transformers model, or a name on the Hugging Face hub such as "
        "bert-base-uncased (paper: BERT)",
    )
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="a text's vector: the mean over its tokens, or the first token's (paper silent)"
    )
    normalise: bool = Field(True, description="scale vectors to length 1")
    width: int = Field(256, ge=8, le=65536, description="hashed: length of a vector")


class RulesSettings(Section):
    """Settings of the rules that read captions."""

    pipeline: str | None = Field(
        None,
        description="trained spaCy pipeline, by name or folder, that tells nouns, adjectives and verbs apart; empty "
        "uses the word lists of this project, which need no download",
    )


Structured = Literal["json_schema", "json_object", "none"]

_OWN_FIELDS = frozenset({"model", "messages", "response_format", "stream", "n", "temperature", "seed", "max_tokens"})


class TrafficSettings(Section):
    """Pace and repetition of requests; nothing here changes an answer."""

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
        description="seconds before the first repetition, doubled each time; up to half is subtracted as jitter",
    )
    backoff_limit: float = Field(30.0, ge=0, description="upper limit of these waits in seconds")
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
        description="environment variable that holds the API key (the key itself is in no file); null: the "
        "endpoint asks for none",
    )
    structured: Structured = Field(
        "json_schema",
        description="how the answer's form is requested: json_schema; json_object for endpoints that know JSON "
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
        2, ge=0, le=10, description="how often items without a usable answer are sent again, in ever smaller requests"
    )
    prompts: PathSetting | None = Field(
        None, description="folder with your own triples.md and merges.md; null: those of the project"
    )
    traffic: TrafficSettings = Field(default_factory=TrafficSettings, description="pace and repetition of requests")
    prices: PriceSettings = Field(default_factory=PriceSettings, description="prices, for the dry run")

    def result_values(self, questions: Sequence[str]) -> dict[str, Any]:
        """Return as JSON values what determines the answers to `questions` ("triples", "merges"); empty without any.

        Pace, prices and the key's variable determine nothing, and of the user's prompts only the content counts.

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
        if reserved := sorted(_OWN_FIELDS & value.keys()):
            raise ValueError(
                f"{', '.join(reserved)} cannot be set here: they have settings of their own or are set by the engine"
            )
        return value


def checked_address(value: str, where: str) -> str:
    """Return an endpoint's address without its final slash.

    Raises:
        SettingsError: It is no http(s) address, or holds a password or a query. The message does not repeat it,
            because it may hold a secret; for the same reason this is no ValueError, whose input pydantic shows.
    """
    try:
        url = urlsplit(value)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(
            "the endpoint's address must begin with http:// or https:// and name a host",
            where=where,
            fix="for example https://api.openai.com/v1 or http://localhost:11434/v1",
        )
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise SettingsError(
            "the endpoint's address must not hold a user, a password or a query",
            where=where,
            fix="give the key in the environment variable that `graph.build.llm.key_variable` names",
        )
    return value.rstrip("/")


EngineName = Literal["rules", "llm"]


class ExtractionSettings(Section):
    """Extraction of triples from captions."""

    engine: EngineName = Field(
        "rules", description="rules (offline), or llm (paper: a large language model, which it does not name)"
    )
    on_bad_caption: Literal["fatal", "skip"] = Field(
        "fatal", description="llm: a caption without a usable answer ends the stage, or is left out with a message"
    )
    rules: RulesSettings = Field(default_factory=RulesSettings)


class MergeSettings(Section):
    """Merging of names of entities and relations (paper: iterative clustering guided by a language model)."""

    by: Literal["rules", "llm", "none"] = Field(
        "rules",
        description="method: rules (a few synonyms, else similarity and agreement of head nouns or of the verbs' "
        "families), llm, or none: only the override file",
    )
    text: TextEncoderSettings = Field(
        default_factory=TextEncoderSettings, description="text encoder that proposes; the thresholds are for minilm"
    )
    propose: float = Field(
        0.5, ge=-1, le=1, description="llm: least mean cosine of names that are shown to it together"
    )
    entity_threshold: float = Field(0.8, ge=-1, le=1, description="rules: least cosine of two entities of one head")
    relation_threshold: float = Field(
        0.75, ge=-1, le=1, description="rules: least cosine of two verbs of appearing, or of disappearing"
    )
    rounds: int = Field(3, ge=1, le=20, description="most rounds; merging ends when a round merges nothing")
    overrides: PathSetting | None = Field(
        None,
        description="file of your own decisions, in the form of merges.yaml that the stage writes; they come first",
    )


class GraphBuildSettings(Section):
    """Building of the graph from captions (section 3.4)."""

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
            fix="set `graph.build.llm.prompts` to null, for the prompts of the project",
        ) from error
    if not text:
        raise DataError("the prompt is empty", where=path, fix="write it, or set `graph.build.llm.prompts` to null")
    return text
