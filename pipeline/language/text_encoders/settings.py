"""Which text encoder turns names into vectors; free of torch, so that the command line may read it."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from pipeline.config import Section

MINILM: Final = "minilm"
HASHED: Final = "hashed"


class TextEncoderSettings(Section):
    """The text encoder of equation (14)."""

    encoder: str = Field(
        MINILM,
        min_length=1,
        description="minilm (all-MiniLM-L6-v2, 384 numbers, comes with the installation), hashed (character n-grams, "
        "no model at all), a folder of a transformers model, or a name on the Hugging Face hub such as "
        "bert-base-uncased (paper: BERT)",
    )
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="a text's vector: the mean over its tokens, or the first token's (paper silent)"
    )
    normalise: bool = Field(True, description="vectors are brought to length 1")
    width: int = Field(256, ge=8, le=65536, description="hashed: numbers of a vector")
