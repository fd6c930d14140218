"""The engine of rules: triples from captions without a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

from pipeline.language.no_change import implies_change
from pipeline.language.triples.chunking import find_elements
from pipeline.language.triples.clauses import find_clauses
from pipeline.language.triples.reading import Reader
from pipeline.language.triples.records import Caption, Triple
from pipeline.language.triples.settings import RulesSettings
from pipeline.language.triples.statements import Statement
from pipeline.language.triples.tagging import Tagger, Word, make_tagger

_MOST_WORDS: Final = 150
"""Words of a caption that are read; captions have twenty, and nesting must end somewhere."""


class RulesExtractor:
    """Finds triples by grammar: words are tagged, joined to noun phrases and verb groups, cut into clauses and read.

    spaCy's English tokenizer and lemma tables are loaded with the first caption.

    Args:
        settings: Which pipeline tags the words.

    Raises:
        SettingsError: With the first caption: the pipeline that the settings name cannot be used.
    """

    name = "rules"

    def __init__(self, settings: RulesSettings | None = None) -> None:
        self._settings = settings or RulesSettings()

    @cached_property
    def _tagger(self) -> Tagger:
        return make_tagger(self._settings.pipeline)

    def extract(self, captions: Sequence[Caption]) -> list[Triple]:
        """Return the triples of all captions, in their order; see `pipeline.language.triples.records.Extractor`."""
        known: dict[str, list[Statement]] = {}
        triples: list[Triple] = []
        for caption in captions:
            if caption.text not in known:
                known[caption.text] = self._read(caption.text)
            triples.extend(
                caption.triple(*stated.labels, engine=self.name, evidence=stated.span) for stated in known[caption.text]
            )
        return triples

    def _read(self, text: str) -> list[Statement]:
        if not implies_change(text):
            return []
        words = self._tagger(text)[:_MOST_WORDS]
        if not _is_english(words):
            return []
        reader = Reader()
        for clause in find_clauses(find_elements(words)):
            reader.read(clause)
        return reader.statements()


def _is_english(words: Sequence[Word]) -> bool:
    """Tell whether a quarter of the words are known; in other languages a chance likeness is no verb."""
    spoken = [word for word in words if word.tag != "SUB" or word.text.isalpha()]
    return 4 * sum(word.tag != "NOUN" for word in spoken) >= len(spoken)
