"""Settings of a data set and its vocabulary: which one, where, and which of its mismatches are errors."""

from __future__ import annotations

from typing import Final, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from pipeline.config import Section
from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.links import LINKS_MEANING, LinkRule
from pipeline.datasets.no_change import no_change_sentences
from pipeline.datasets.words import words
from pipeline.path_settings import PathText

TokenRule = Literal["words", "spaced", "release"]


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
        description="words: lower case, no punctuation, in scripts without spaces (Chinese, Japanese, Thai …) each "
        "character a word; spaced: the same, but words are separated by spaces in every script, for captions that "
        "jieba, ICU or the like segmented; release: the authors' rule (split at spaces, ? and . dropped, ; and , kept, "
        "capitals kept)",
    )


SYNTHETIC: Final = "synthetic"
"""Name of the generated data set, the only one without a root."""

MismatchKind = Literal[
    "caption-without-image",
    "image-without-caption",
    "before-without-after",
    "after-without-before",
    "image-unreadable",
    "size-mismatch",
    "georeference-mismatch",
    "georeference-missing",
    "no-data",
    "image-adjusted",
    "file-not-taken",
    "row-blank",
    "duplicate-name",
    "split-contradiction",
    "image-in-two-splits",
    "before-equals-after",
    "caption-file-missing",
    "caption-empty",
    "caption-too-long",
    "caption-unsegmented",
    "caption-in-characters",
    "captions-disagree",
    "flag-derived",
    "flag-unknown",
    "flag-contradicts-captions",
    "flag-contradicts-mask",
    "mask-without-pair",
    "pair-without-mask",
    "mask-unreadable",
]
MISMATCH_KINDS: tuple[MismatchKind, ...] = get_args(MismatchKind)

STRICT_BY_DEFAULT: tuple[MismatchKind, ...] = (
    "before-without-after",
    "after-without-before",
    "image-unreadable",
    "size-mismatch",
    "georeference-mismatch",
    "duplicate-name",
    "split-contradiction",
    "caption-file-missing",
    "caption-empty",
    "caption-unsegmented",
    "mask-unreadable",
)


class FolderSettings(Section):
    """Own pairs: two folders of images with the same stems, or a list named in `captions`."""

    before: PathText = Field("A", description="folder of the earlier images, within root")
    after: PathText = Field("B", description="folder of the later images, within root")
    split: Literal["seeded", "column", "train", "val", "test"] = Field(
        "seeded",
        description="seeded draws the splits; column reads them from the list; train, val or test takes every pair",
    )
    seed: int = Field(0, ge=0, description="seeded: same seed and same pairs, same splits")
    val_share: float = Field(0.1, ge=0, le=1, description="seeded: share of pairs in the validation split")
    test_share: float = Field(0.1, ge=0, le=1, description="seeded: share of pairs in the test split")

    @model_validator(mode="after")
    def _shares_leave_pairs_for_training(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share and test_share must leave something for training")
        return self


class DatasetSettings(Section):
    """A data set on disk, in its own layout."""

    dataset: str = Field(SYNTHETIC, description=ADAPTERS.describe())
    root: PathText = Field(
        "", description="folder of the data set, relative to the project folder or absolute; not for synthetic"
    )
    captions: PathText | None = Field(
        None,
        description="caption file within root, where it is not the data set's usual one; dubai-cc: the folder of its "
        "three files; folder: a CSV, JSONL or caption JSON",
    )
    images: Literal["read", "none"] = Field(
        "read",
        description="read: every image is looked for and checked; none: captions alone make the pairs, and stages that "
        "need pixels refuse them; for data sets whose captions name all pairs (see semantics.source)",
    )
    links: LinkRule = Field("inside", description=f"where links in the data set may lead; {LINKS_MEANING}")
    allow_missing_images: bool = Field(
        False, description="work with the pairs whose images are there and leave the others out; says how many"
    )
    strict: tuple[MismatchKind, ...] = Field(
        STRICT_BY_DEFAULT,
        description="mismatches that stop the stage; the others are counted and listed in audit.json, and pairs that "
        "cannot be used are left out",
    )
    convert_images: bool = Field(
        False,
        description="turn greyscale, palette, RGBA and CMYK images, and those with bands beside red, green and blue, "
        "into RGB instead of refusing them; 16-bit images are always refused, since scaling them would be a guess",
    )
    nodata_share: float = Field(
        0,
        ge=0,
        le=1,
        description="images of whose pixels a larger share has no data (nodata, masked, transparent; they become "
        "black) are noted as no-data",
    )
    max_megapixels: float = Field(
        25, gt=0, le=89, description="largest image that is decoded; protects against files that unpack into gigabytes"
    )
    folder: FolderSettings = Field(FolderSettings(), description="own pairs; only for dataset: folder")
    no_change_sentences: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=no_change_sentences,
        description="sentences that deny change, by data set and language, such as {folder: {hi: [कोई बदलाव नहीं]}}; a "
        "list replaces the data set's own of that language; change flags, scores and caption.change: mass go by them "
        "(other English sentences are read by rules)",
    )

    @field_validator("no_change_sentences")
    @classmethod
    def _beside_the_own(cls, given: dict[str, dict[str, tuple[str, ...]]]) -> dict[str, dict[str, tuple[str, ...]]]:
        for name, languages in given.items():
            ADAPTERS.validate(name)
            empty = [text for texts in languages.values() for text in texts if not words(text)]
            if empty:
                raise ValueError(f"a sentence of {name} has no word: {empty[0]!r}")
        own = no_change_sentences()
        return {name: {**own.get(name, {}), **given.get(name, {})} for name in (*own, *(given.keys() - own.keys()))}

    @field_validator("dataset")
    @classmethod
    def _dataset_is_registered(cls, name: str) -> str:
        return ADAPTERS.validate(name)

    @model_validator(mode="after")
    def _root_is_given(self) -> Self:
        if self.dataset != SYNTHETIC and not self.root:
            raise ValueError(f"root must name the folder of {self.dataset}")
        return self

    @model_validator(mode="after")
    def _images_can_be_left_out(self) -> Self:
        if self.images == "none" and not ADAPTERS.resolve(self.dataset).without_images:
            names = [name for name in ADAPTERS.names if ADAPTERS.resolve(name).without_images]
            raise ValueError(f"images: none is for {', '.join(names)}, not for {self.dataset}")
        return self
