"""Tokenisation of captions, and the vocabulary that maps words to ids and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.datasets.settings import TokenRule, VocabularySettings
from pipeline.datasets.words import join_words, spaced_words, words
from pipeline.errors import DataError
from pipeline.files import content_key, read_json, write_json

PAD: Final = 0
UNK: Final = 1
START: Final = 2
END: Final = 3
SPECIALS: Final = ("<pad>", "<unk>", "<start>", "<end>")

_SCHEMA: Final = 1


def tokenize(caption: str, rule: TokenRule = "words") -> tuple[str, ...]:
    """Split a caption into its words.

    `words` (this project's default): lower case without punctuation; see `pipeline.datasets.words`. In scripts
    without spaces (Chinese, Japanese, Thai and others) each character is a word. Tokenizing the joined words again
    gives the same words.

    `spaced`: the same, but words of such scripts are what spaces separate, for captions that are segmented already.

    `release` (parity with the authors' published numbers): `?` and `.` are dropped, `;` and `,` become tokens of their
    own, and the rest is split at white space; case is kept.

    Args:
        caption: One sentence.
        rule: `words`, `spaced` or `release`.

    Returns:
        The words in order; none for a caption without any.
    """
    if rule == "release":
        spaced = caption.replace("?", "").replace(".", "").replace(";", " ; ").replace(",", " , ")
        return tuple(spaced.split())
    return spaced_words(caption) if rule == "spaced" else words(caption)


def join_tokens(tokens: Sequence[str], rule: TokenRule = "words") -> str:
    """Join the words of a caption to a sentence; `tokenize` takes it apart again.

    `words`: as the script is written, without spaces between Chinese characters; the others: by spaces.
    """
    return join_words(tokens) if rule == "words" else " ".join(tokens)


@dataclass(frozen=True)
class Vocabulary:
    """The words that a captioner knows.

    Ids 0 to 3 are PAD, UNK, START and END; word i of `words` has the id 4 + i.

    Attributes:
        words: Known words, the most frequent first; equal counts in alphabetical order.
        dataset: Name of the data set whose captions were counted.
        settings: The rules by which captions were split and counted.
    """

    words: tuple[str, ...]
    dataset: str
    settings: VocabularySettings

    @cached_property
    def index(self) -> dict[str, int]:
        """Id of each known word."""
        return {word: position for position, word in enumerate(self.words, start=len(SPECIALS))}

    @property
    def size(self) -> int:
        """Number of ids, the four specials included."""
        return len(SPECIALS) + len(self.words)

    @cached_property
    def sha256(self) -> str:
        """Content key: equal vocabularies of the same data set and settings have the same 64 digits."""
        return content_key(self._content())

    def tokenize(self, caption: str) -> tuple[str, ...]:
        """Split a caption by this vocabulary's rule."""
        return tokenize(caption, self.settings.tokens)

    def encode(self, caption: str) -> list[int]:
        """Turn a caption into ids: START, its words (UNK for unknown ones), END.

        Raises:
            DataError: It is longer than `max_length` and `too_long` is not `truncate`.
        """
        tokens = self.tokenize(caption)
        max_words = self.settings.max_length - 2
        if len(tokens) > max_words:
            if self.settings.too_long == "error":
                raise too_long_error(caption, len(tokens) + 2, self.settings.max_length)
            tokens = tokens[:max_words]
        return [START, *(self.index.get(token, UNK) for token in tokens), END]

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into a sentence: the words up to the first END, joined as their script is written (`join_tokens`).

        Raises:
            ValueError: An id lies outside the vocabulary.
        """
        return join_tokens(self.words_of(ids), self.settings.tokens)

    def words_of(self, ids: Sequence[int]) -> list[str]:
        """Turn ids into words, up to the first END and without specials.

        Raises:
            ValueError: An id lies outside the vocabulary.
        """
        tokens: list[str] = []
        for number in ids:
            if number == END:
                break
            if not 0 <= number < self.size:
                raise ValueError(f"id {number} lies outside a vocabulary of {self.size}")
            if number >= len(SPECIALS):
                tokens.append(self.words[number - len(SPECIALS)])
        return tokens

    def save(self, path: Path) -> Path:
        """Write vocabulary.json: the content that `sha256` is taken of, and that hash."""
        return write_json(path, {**self._content(), "sha256": self.sha256})

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a vocabulary.json.

        Raises:
            DataError: It is missing, damaged, of another schema, or its content does not match its hash.
        """
        fix = "run `sagecc prepare`"
        try:
            stored = _Stored.model_validate(read_json(path, fix=fix))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(name) for name in first["loc"]) or "document"
            raise DataError(f"not a vocabulary: {key}: {first['msg']}", where=path, fix=fix) from error
        listed = tuple(stored.words)
        if stored.version != _SCHEMA:
            raise DataError(f"vocabulary of schema {stored.version}, not {_SCHEMA}", where=path, fix=fix)
        vocabulary = cls(listed, stored.dataset, stored.settings)
        if any("\ud800" <= sign <= "\udfff" for sign in "".join((*listed, stored.dataset))):
            raise DataError("a word of the vocabulary holds half a character", where=path, fix=fix)
        if len(vocabulary.index) != len(listed) or vocabulary.sha256 != stored.sha256:
            raise DataError("the vocabulary was altered: its content does not match its hash", where=path, fix=fix)
        return vocabulary

    def _content(self) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "dataset": self.dataset,
            "settings": self.settings.model_dump(mode="json"),
            "specials": list(SPECIALS),
            "words": list(self.words),
        }


class _Stored(BaseModel):
    """Content of vocabulary.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(alias="schema")
    dataset: str
    settings: VocabularySettings
    specials: list[str]
    words: list[str]
    sha256: str


def build_vocabulary(captions: Iterable[str], settings: VocabularySettings, dataset: str) -> Vocabulary:
    """Count the words of `captions` and keep those that occur `min_count` times.

    Args:
        captions: The sentences to count; which splits they come from is the caller's choice.
        settings: Token rule and minimum count.
        dataset: Name to store in the vocabulary.

    Returns:
        A vocabulary sorted by count, the highest first, then by word. Without any captions it holds no words.

    Raises:
        DataError: There are captions, but no word occurs often enough.
    """
    counts = Counter(token for caption in captions for token in tokenize(caption, settings.tokens))
    frequent = [word for word, count in counts.items() if count >= settings.min_count]
    ordered = sorted(frequent, key=lambda word: (-counts[word], word))
    if counts and not ordered:
        word, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        raise DataError(
            f"no word of the captions occurs {settings.min_count} times (the commonest, {word!r}, {count} times)",
            where=dataset,
            fix=f"lower prepare.vocabulary.min_count to {count} or less",
        )
    return Vocabulary(tuple(ordered), dataset, settings)


def too_long_error(caption: str, length: int, limit: int) -> DataError:
    """Return the error of a caption with `length` tokens where `limit` are allowed, both with start and end token."""
    start = caption if len(caption) <= 60 else caption[:57] + "…"
    return DataError(
        f"a caption has {length} tokens with its start and end, the limit is {limit}: {start!r}",
        fix=f"raise prepare.vocabulary.max_length to {length}, or set prepare.vocabulary.too_long: truncate",
    )
