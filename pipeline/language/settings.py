"""Settings of the vocabulary."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section

TokenRule = Literal["words", "release"]


class VocabularySettings(Section):
    """Which words the captioner knows, and how long a caption may be."""

    policy: Literal["train", "all-splits"] = Field(
        "train",
        description="splits whose captions are counted: train, or all-splits as the published numbers do "
        "(it lets words of the test split into the model)",
    )
    pairs: Literal["kept", "all"] = Field(
        "kept",
        description="kept counts the captions of the pairs that remain; all counts those of pairs left out for want "
        "of images as well",
    )
    min_count: int = Field(5, ge=1, description="a word must occur this often; rarer ones become the unknown word")
    max_length: int = Field(
        41, ge=3, le=1024, description="longest caption in tokens, the start and the end token included"
    )
    too_long: Literal["error", "truncate"] = Field(
        "error", description="a caption above max_length: error, or truncate (the end token stays)"
    )
    tokens: TokenRule = Field(
        "words",
        description="words: lower case, no punctuation; release: the authors' rule (split at spaces, ? and . dropped, "
        "; and , kept, capitals kept)",
    )
