"""Captions from a file, and the extraction engine that the settings name; estimate of what merging by an LLM costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.caption_graph.llm.merges import LLMMerger, NameKind
from pipeline.caption_graph.llm.run import Estimate, LLMSession, Progress
from pipeline.caption_graph.llm.triples import LLMExtractor
from pipeline.caption_graph.merging import MergeMap, merge_names
from pipeline.caption_graph.records import Key, count_names
from pipeline.caption_graph.settings import ExtractionSettings, LLMSettings, MergeSettings
from pipeline.caption_graph.text_encoders import TextEncoder
from pipeline.caption_graph.triples.records import Caption, Extractor
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.english import reads_as_english
from pipeline.errors import DataError, SettingsError
from pipeline.progress import say
from pipeline.system_errors import reading


def read_text_captions(path: Path) -> list[Caption]:
    """Read captions: `.json` is a caption file of a data set, any other file has one caption a line.

    Captions of lines have the line's number, from 1, as their pair; empty lines are skipped.

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
            with reading(path):
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
    """Estimate the first round of questions about names; later rounds depend on its answers and are small.

    Args:
        statements: Head, relation and tail of every statement in the captions.
        settings: How names are merged, by "llm".
        overrides: The user's decisions about names.
        encoder: Proposes names to merge.
        merger: Merger whose questions are estimated.

    Raises:
        SettingsError: No model is named.
    """
    recorder = _Recorder()
    merge_names(count_names(statements), settings, overrides, encoder, recorder)
    return merger.estimate(recorder.calls)


class _Recorder:
    """Merger that records its calls and keeps all names apart, which ends the merging."""

    def __init__(self) -> None:
        self.calls: list[tuple[NameKind, Sequence[Sequence[str]]]] = []

    def propose_merges(self, groups: Sequence[Sequence[str]], kind: NameKind = "entity") -> list[list[list[str]]]:
        self.calls.append((kind, groups))
        return [[[name] for name in group] for group in groups]


_TELLING_SHARE: Final = 0.005  # among English captions one in ten thousand is not taken for English


def check_language(captions: Sequence[Caption], settings: ExtractionSettings, *, where: Path | None = None) -> None:
    """Say before the work how many captions the rules cannot read, since they know English only.

    Args:
        captions: All captions.
        settings: Which engine reads them; a language model reads any language.
        where: Where the captions come from, for the error.

    Raises:
        SettingsError: They can read none.
    """
    if settings.engine != "rules" or not captions:
        return
    unread = [caption.text for caption in captions if not reads_as_english(caption.text)]
    cure = "set graph.build.extraction.engine: llm (and graph.build.llm.model): a language model reads any language"
    if len(unread) == len(captions):
        what = f"no caption is English, which is what the rules for triples know, such as {unread[0][:60]!r}"
        raise SettingsError(what, where=where, fix=cure)
    if len(unread) >= _TELLING_SHARE * len(captions):
        say(
            f"graph: {len(unread):,} of {len(captions):,} captions ({len(unread) / len(captions):.1%}) are not "
            f"English, which is what the rules for triples know, such as {unread[0][:60]!r}; {cure}"
        )


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

    return LLMExtractor(make_session(settings, llm, store))


def make_session(settings: ExtractionSettings, llm: LLMSettings, store: Path) -> LLMSession:
    """Return the session in which a language model is asked."""
    return LLMSession(llm, store, settings.on_bad_caption, say, _timed_progress())


def _timed_progress() -> Progress:
    """Return a progress callback that says a line every ten seconds, and one at the end."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= _EVERY_SECONDS:
            last = time.monotonic()
            say(f"language model: {done:,} of {total:,} questions settled")

    return report


def describe_engine(settings: ExtractionSettings, llm: LLMSettings) -> dict[str, Any]:
    """Return the engine's name and model as provenance holds them."""
    model = settings.rules.pipeline if settings.engine == "rules" else llm.model
    return {"engine": settings.engine, "model": model}
