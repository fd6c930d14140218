"""The engine of rules: triples from captions without a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from pipeline.language.no_change import implies_change
from pipeline.language.triples.clauses import find_clauses
from pipeline.language.triples.elements import find_elements
from pipeline.language.triples.reading import Reader
from pipeline.language.triples.records import Caption, Triple
from pipeline.language.triples.settings import RulesSettings
from pipeline.language.triples.statements import Statement
from pipeline.language.triples.tagging import Tagger, make_tagger


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
                Triple(
                    head=statement.head,
                    relation=statement.relation,
                    tail=statement.tail,
                    family=statement.family,
                    engine=self.name,
                    pair=caption.pair,
                    sentence=caption.sentence,
                    evidence=(statement.start, statement.end),
                )
                for statement in known[caption.text]
            )
        return triples

    def _read(self, text: str) -> list[Statement]:
        if not implies_change(text):
            return []
        reader = Reader()
        for clause in find_clauses(find_elements(self._tagger(text))):
            reader.read(clause)
        return reader.statements()
