"""How triples are found, merged and filtered, and what the nodes look like; free of torch and spaCy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.config import Section
from pipeline.language.llm.settings import LLMSettings
from pipeline.language.text_encoders.settings import TextEncoderSettings
from pipeline.language.triples.settings import RulesSettings

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
