"""Prompts as the user writes them: categories of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import SettingsError

MAX_CATEGORIES = 255
"""The semantic map has one byte per pixel, and 0 for none."""


@dataclass(frozen=True)
class Category:
    """What is looked for under one name.

    Attributes:
        name: The first phrase.
        phrases: What it may be called, in lower case.
    """

    name: str
    phrases: tuple[str, ...]


def parse_prompts(prompts: Sequence[str]) -> tuple[Category, ...]:
    """Read prompts such as "building . house . villa".

    Raises:
        SettingsError: There is none or there are too many, one is empty, or a phrase stands twice.
    """
    if not prompts:
        raise SettingsError("there are no prompts", where="prompts", fix='name at least one category: ["building"]')
    if len(prompts) > MAX_CATEGORIES:
        raise SettingsError(f"{len(prompts)} categories; a map holds {MAX_CATEGORIES}", where="prompts")
    categories = []
    seen: dict[str, str] = {}
    for number, prompt in enumerate(prompts, start=1):
        phrases = tuple(" ".join(phrase.lower().split()) for phrase in prompt.split("."))
        phrases = phrases[:-1] if len(phrases) > 1 and not phrases[-1] else phrases
        if not all(phrases):
            raise SettingsError(
                f"prompt {number} ({prompt!r}) is empty or holds an empty phrase",
                where="prompts",
                fix="write phrases divided by single full stops: building . house . villa",
            )
        for phrase in phrases:
            if "?" in phrase:
                raise SettingsError(
                    f"{phrase!r} holds a question mark, which divides phrases", where="prompts", fix="leave it out"
                )
            if phrase in seen:
                raise SettingsError(
                    f"the phrase {phrase!r} stands twice, under {seen[phrase]!r} and {phrases[0]!r}",
                    where="prompts",
                    fix="keep it in one category",
                )
            seen[phrase] = phrases[0]
        categories.append(Category(phrases[0], phrases))
    return tuple(categories)
