"""Where semantic regions come from; free of torch and numpy, so that the command line may read it."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.caption_graph.settings import HASHED, TextEncoderSettings
from pipeline.config import Section

SourceKind = Literal["images", "tags", "npy", "hdf5"]

_BRACED: Final = re.compile(r"\{[^{}]*\}|[{}]")
_PLACES: Final = frozenset({"{split}", "{stem}", "{id}"})


class SourceSettings(Section):
    """Where semantic regions come from: the images by the models above, or what others computed."""

    kind: SourceKind = Field(
        "images",
        description="images: Grounding DINO and SAM look at them; tags: words per date, made into vectors by `text`; "
        "npy: an array (regions, width) per date and file; hdf5: one per date and data set. Unless images, everything "
        "beside `source` is idle",
    )
    root: str | None = Field(
        None, description="folder that the paths below lie in, and may not leave; null: the data set's root"
    )
    file: str | None = Field(
        None,
        description="tags: JSON file {name: {before: [tags], after: [tags]}}, best tags first, joined by the name's "
        "stem; hdf5: the file. {split} stands for a pair's split",
    )
    before: str | None = Field(
        None,
        description="npy: file of a pair's earlier date; hdf5: its data set within `file`. {split}, {stem} (of the "
        "image's file) and {id} stand for the pair's: features/{split}/A/{stem}.npy",
    )
    after: str | None = Field(None, description="the same for the later date")
    width: int | None = Field(
        None, ge=1, le=65536, description="npy, hdf5: width of the embeddings; null: that of the first array"
    )
    allow_missing: bool = Field(
        False, description="a date of which nothing is found has no regions; false: it is an error that names the pair"
    )
    text: TextEncoderSettings = Field(
        TextEncoderSettings(encoder=HASHED, width=128),
        description="tags: what makes vectors of them; hashed keeps them well apart, which a sentence encoder does not",
    )

    @field_validator("file", "before", "after")
    @classmethod
    def _known_places(cls, pattern: str | None) -> str | None:
        for place in _BRACED.findall(pattern or ""):
            if place not in _PLACES:
                raise ValueError(f"{place} stands for nothing; known are {', '.join(sorted(_PLACES))}")
        return pattern

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"images": (), "tags": ("file",), "npy": ("before", "after"), "hdf5": ("file", "before", "after")}
        for name in needed[self.kind]:
            if not getattr(self, name):
                raise ValueError(f"{name} must be given for kind: {self.kind}")
        if self.file is not None and ("{stem}" in self.file or "{id}" in self.file):
            raise ValueError("file is shared by all pairs of a split: it may hold {split} only")
        if self.before is not None and self.before == self.after:
            raise ValueError("before and after name the same")
        return self
