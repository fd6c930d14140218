"""The engine of extraction that the settings name, and what a language model's answers are stored in.

Captions from any file: one a line, or a data set's caption file.

What merging would ask of a language model, told before it is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.caption_graph.llm.merges import LLMMerger, NameKind
from pipeline.caption_graph.llm.run import Asking, Estimate, Progress
from pipeline.caption_graph.llm.triples import LLMExtractor
from pipeline.caption_graph.merging import MergeMap, merge_names
from pipeline.caption_graph.records import Key, count_names
from pipeline.caption_graph.settings import ExtractionSettings, LLMSettings, MergeSettings
from pipeline.caption_graph.text_encoders import TextEncoder
from pipeline.caption_graph.triples.records import Caption, Extractor
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.datasets.caption_files import read_captions
from pipeline.errors import DataError
from pipeline.progress import say


def read_text_captions(path: Path) -> list[Caption]:
    """Read captions: `.json` is a caption file of a data set, anything else holds one caption a line.

    Captions of lines have the line's number, from 1, as their pair; empty lines are passed over.

    Raises:
        DataError: The file is missing, not UTF-8, of another schema, or holds no caption.
    """
    if path.suffix.lower() == ".json":
        captions = [
            Caption(pair=entry.stem, sentence=number, text=text)
            for entry in read_captions(path)
            for number, text in enumerate(entry.captions)
        ]
    else:
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(f"cannot read: {error.strerror or error}", where=path, fix="correct the path") from error
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: byte {error.start} cannot be decoded", where=path) from error
        captions = [
            Caption(pair=str(number), sentence=0, text=line.strip())
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    if not captions:
        raise DataError("the file holds no caption", where=path, fix="write one caption a line")
    return captions


def estimate_merging(
    statements: Sequence[Key], settings: MergeSettings, overrides: MergeMap, encoder: TextEncoder, merger: LLMMerger
) -> Estimate:
    """Estimate the first round of questions about names; what later rounds ask depends on its answers, and is little.

    Args:
        statements: Head, relation and tail of every statement in the captions.
        settings: How names are merged, by "llm".
        overrides: A person's decisions about names.
        encoder: Proposes names to merge.
        merger: Would be asked.

    Raises:
        SettingsError: No model is named.
    """
    recorder = _Recorder()
    merge_names(count_names(statements), settings, overrides, encoder, recorder)
    return merger.estimate(recorder.asked)


class _Recorder:
    """A merger that notes what it is asked and keeps all names apart, which ends the merging."""

    def __init__(self) -> None:
        self.asked: list[tuple[NameKind, Sequence[Sequence[str]]]] = []

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        self.asked.append((kind, groups))
        return [[[name] for name in group] for group in groups]


_EVERY_SECONDS: Final = 10.0


def make_extractor(settings: ExtractionSettings, llm: LLMSettings, store: Path) -> Extractor:
    """Return the engine that finds triples.

    Args:
        settings: Which engine, and how it reads.
        llm: The language model, where it is the engine.
        store: Folder of the language model's answers, from which an interrupted or repeated run goes on.
    """
    if settings.engine == "rules":
        return RulesExtractor(settings.rules)

    return LLMExtractor(make_asking(settings, llm, store))


def make_asking(settings: ExtractionSettings, llm: LLMSettings, store: Path) -> Asking:
    """Say how a language model is asked."""
    return Asking(llm, store, settings.on_bad_caption, say, _tell_now_and_then())


def _tell_now_and_then() -> Progress:
    """Return a progress that says a line every ten seconds, and one when all is done."""
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
