"""What a caption has spoken of so far, and what "it", "them", "the existing ones" stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.language.triples.elements import Mention
from pipeline.language.triples.entities import SCENE


@dataclass
class Memory:
    """Things that were mentioned, the latest last.

    Attributes:
        subjects: The things that each clause is about; for a replacement, what is new.
        things: Every thing.
        current: What the clause being read is about.
    """

    subjects: list[list[Mention]] = field(default_factory=list)
    things: list[Mention] = field(default_factory=list)
    current: list[Mention] = field(default_factory=list)

    def note(self, mention: Mention) -> None:
        """Remember a thing."""
        if mention.entity not in (None, SCENE) and not mention.none:
            self.things.append(mention)

    def close_clause(self, subjects: Sequence[Mention]) -> None:
        """Remember what a clause was about."""
        named = [mention for mention in subjects if mention.entity not in (None, SCENE)]
        if named:
            self.subjects.append(named)
        self.current = []

    def resolve(self, mention: Mention, anchor: Sequence[Mention] = (), *, subject: bool = False) -> list[Mention]:
        """Return what a referring mention stands for; nothing if nothing fits.

        "One" and "ones" take the noun of the clause's subject or the latest one; "it" and "them" prefer what they are
        said with (`anchor`), then what earlier clauses were about, by number, then any thing.
        """
        if not mention.refers:
            return [mention]
        if mention.text not in ("it", "they", "them", "its", "their", "itself", "themselves"):
            groups = [*self.subjects, *([] if subject else [self.current])]
            if not subject and self.current:
                return [self._named(self.current)[0]] if self._named(self.current) else []
            earlier = [thing for thing in self.things if thing.end <= mention.start]
            return groups[-1][:1] if groups and groups[-1] else earlier[-1:]
        things = [thing for thing in self.things if thing.end <= mention.start]
        if anchor:
            return [other for other in anchor if other.entity not in (None, SCENE)]
        for group in reversed(self.subjects):
            if mention.plural and len(group) > 1:
                return group
            fitting = [other for other in group if other.plural == mention.plural]
            if fitting:
                return fitting[-1:]
        fitting = [thing for thing in things if thing.plural == mention.plural and thing not in self.current]
        if fitting:
            return fitting[-1:]
        return self.subjects[-1][-1:] if self.subjects else things[-1:]

    def latest_subject(self) -> list[Mention]:
        """Return what a preposition without an object leans on: "houses are built along"."""
        return self.subjects[-1][-1:] if self.subjects else []

    @staticmethod
    def _named(mentions: Sequence[Mention]) -> list[Mention]:
        return [mention for mention in mentions if mention.entity not in (None, SCENE)]
