"""What merging would ask of a language model, told before it is asked."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.language.graph.merge_map import MergeMap
from pipeline.language.graph.merging import merge_names
from pipeline.language.graph.records import Key, count_names
from pipeline.language.graph.settings import MergeSettings
from pipeline.language.llm.asking import Estimate
from pipeline.language.llm.merges import LLMMerger, NameKind
from pipeline.language.text_encoders import TextEncoder


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
