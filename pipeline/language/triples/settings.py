"""Settings of the engine of rules."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Section


class RulesSettings(Section):
    """How the rules read captions."""

    pipeline: str | None = Field(
        None,
        description="trained spaCy pipeline, by name or folder, that tells nouns, adjectives and verbs apart; empty "
        "uses the word lists of this project, which need no download",
    )
