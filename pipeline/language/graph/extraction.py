"""The engine of extraction that the settings name, and what a language model's answers are stored in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.language.graph.settings import ExtractionSettings
from pipeline.language.llm.settings import LLMSettings

if TYPE_CHECKING:
    from pipeline.language.llm.asking import Asking
    from pipeline.language.llm.run import Progress
    from pipeline.language.triples.records import Extractor

_EVERY_SECONDS: Final = 10.0


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

    return Asking(llm, store, settings.on_bad_caption, say, _tell_now_and_then())


def _tell_now_and_then() -> Progress:
    """Return a progress that says a line every ten seconds, and one when all is done."""
    from pipeline.execution.progress import say

    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done == total or time.monotonic() - told >= _EVERY_SECONDS:
            told = time.monotonic()
            say(f"language model: {done:,} of {total:,} questions settled")

    return tell


def describe_engine(settings: ExtractionSettings, llm: LLMSettings) -> dict[str, Any]:
    """Return the engine's name and model as provenance holds them."""
    model = settings.rules.pipeline if settings.engine == "rules" else llm.model
    return {"engine": settings.engine, "model": model}
