"""The engine of extraction that the settings name, and what a language model's answers are stored in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.language.graph.settings import ExtractionSettings
from pipeline.language.llm.settings import LLMSettings

if TYPE_CHECKING:
    from pipeline.language.llm.asking import Asking
    from pipeline.language.triples.records import Extractor


def make_extractor(settings: ExtractionSettings, llm: LLMSettings, store: Path) -> Extractor:
    """Return the engine that finds triples.

    Args:
        settings: Which engine, and how it reads.
        llm: The language model, where it is the engine.
        store: Folder of the language model's answers, from which an interrupted or repeated run goes on.
    """
    if settings.engine == "rules":
        from pipeline.language.triples.rules import RulesExtractor

        return RulesExtractor(settings.rules)
    from pipeline.language.llm.triples import LLMExtractor

    return LLMExtractor(make_asking(settings, llm, store))


def make_asking(settings: ExtractionSettings, llm: LLMSettings, store: Path) -> Asking:
    """Say how a language model is asked."""
    from pipeline.execution.progress import say
    from pipeline.language.llm.asking import Asking

    return Asking(llm, store, settings.on_bad_caption, say)


def describe_engine(settings: ExtractionSettings, llm: LLMSettings) -> dict[str, Any]:
    """Return the engine's name and model as provenance holds them."""
    model = settings.rules.pipeline if settings.engine == "rules" else llm.model
    return {"engine": settings.engine, "model": model}
