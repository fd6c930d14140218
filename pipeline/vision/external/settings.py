"""Settings of the source of semantic regions; free of torch and numpy, so that the command line may read them."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.caption_graph.settings import HASHED, TextEncoderSettings
from pipeline.config import Section
from pipeline.datasets.links import LINKS_MEANING, LinkRule
from pipeline.path_settings import PathText

SourceKind = Literal["images", "tags", "npy", "hdf5"]

TEMPLATE_FIELDS: Final = ("{id}", "{split}", "{stem}")
"""What the templates of paths may hold; each stands for that of a pair."""

_BRACES: Final = re.compile(r"\{[^{}]*\}|[{}]")


class SourceSettings(Section):
    """Source of semantic regions: detection in the images, or files that others computed."""

    kind: SourceKind = Field(
        "images",
        description="images: Grounding DINO and SAM detect them; tags: words per date, embedded by `text`; npy: a file "
        "per date with an array (regions, width); hdf5: a data set per date with such an array. Unless images, all "
        "settings beside `source` are ignored",
    )
    root: PathText | None = Field(
        None, description="folder that the paths below are relative to and may not leave; null: the data set's root"
    )
    file: PathText | None = Field(
        None,
        description="tags: JSON file {name: {before: [tags], after: [tags]}}, best tags first, joined by the name's "
        "stem; hdf5: the file. Template field: {split} of a pair",
    )
    before: PathText | None = Field(
        None,
        description="npy: file of a pair's earlier date; hdf5: its data set within `file`. Template fields: {split} "
        "and {id} of a pair, {stem} of its image's file: features/{split}/A/{stem}.npy",
    )
    after: PathText | None = Field(None, description="the same for the later date")
    links: LinkRule = Field("inside", description=f"where links in `root` may lead; {LINKS_MEANING}")
    width: int | None = Field(
        None, ge=1, le=65536, description="npy, hdf5: width of the embeddings; null: that of the first array"
    )
    allow_missing: bool = Field(
        False, description="whether a date without data has no regions; false: it is an error that names the pair"
    )
    text: TextEncoderSettings = Field(
        TextEncoderSettings(encoder=HASHED, width=128),
        description="tags: text encoder; hashed separates tags well, which a sentence encoder does not",
    )

    @field_validator("file", "before", "after")
    @classmethod
    def _template_fields_exist(cls, template: str | None) -> str | None:
        for field in _BRACES.findall(template or ""):
            if field not in TEMPLATE_FIELDS:
                raise ValueError(f"{field} is no template field; use {', '.join(TEMPLATE_FIELDS)}")
        return template

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        required = {"images": (), "tags": ("file",), "npy": ("before", "after"), "hdf5": ("file", "before", "after")}
        for name in required[self.kind]:
            if not getattr(self, name):
                raise ValueError(f"{name} must be given for kind: {self.kind}")
        if self.file is not None and ("{stem}" in self.file or "{id}" in self.file):
            raise ValueError("file is shared by all pairs of a split: it may hold {split} only")
        if self.before is not None and self.before == self.after:
            raise ValueError("before and after are the same")
        return self
