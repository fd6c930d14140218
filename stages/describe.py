"""`sagecc describe`: a sentence for one pair of the user's own images, with a trained model.

What a fused captioner takes beside the scenes, made for one pair by the stages masks to semantics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.captioners.inputs import Evidence
from pipeline.captioners.scene_encoder import NO_SCENES
from pipeline.captioners.settings import CaptionerSettings, GenerationSettings
from pipeline.config import Section
from pipeline.datasets.images import read_rgb, resized
from pipeline.datasets.records import Pair, read_prepared, write_prepared
from pipeline.errors import CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.progress import quiet
from pipeline.runtime import resolve_device
from pipeline.training.checkpoints import ModelCard, ScenesCard, captioner_of, read_card
from pipeline.training.inference import caption_features
from pipeline.training.inputs import backbone_of
from pipeline.training.region_inputs import (
    EvidenceCard,
    EvidencePaths,
    check_alike,
    masks_beside,
    open_evidence,
    read_evidence,
)
from pipeline.vision.scenes.backbones import backbone_stride, build_backbone, normalise
from stages import masks, matches, paths, regions, semantics
from stages.settings import MasksSettings, MatchesSettings, RegionsSettings, SemanticsSettings

_ID = "pair"
SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class Recipe:
    """How the evidence of a model's training was made, and so how that of another pair is.

    Attributes:
        card: What the model's card says of it.
        captioner: The captioner's settings.
        motion: Settings of masks, regions and matches; None where the captioner takes no motion regions.
        semantics: Settings of the stage semantics; None where it takes no semantic regions.
        stored: Whether semantics read SAM's embeddings from masks.h5.
        model: The model's folder, for messages.
    """

    card: EvidenceCard
    captioner: CaptionerSettings
    motion: tuple[MasksSettings, RegionsSettings, MatchesSettings] | None
    semantics: SemanticsSettings | None
    stored: bool
    model: Path


def read_recipe(card: ModelCard, captioner: CaptionerSettings, model: Path) -> Recipe:
    """Read from a model's card how its evidence was made.

    Args:
        card: The card.
        captioner: Its captioner's settings, with a fusion.
        model: The model's folder.

    Raises:
        CheckpointError: The card does not say it, or the evidence was imported or fitted to its data set, so that two
            images alone do not give it.
    """
    known = card.evidence
    if known is None:
        raise _unknown(
            model, f"the model has fusion: {captioner.fusion}, and its card does not say what it was trained on"
        )
    motion, naming, caches = None, None, known.caches
    if captioner.evidence.motion:
        if known.masks is None:
            raise _unknown(model, "the model's card does not say how the masks were made that its regions come from")
        motion = (
            _parse(MasksSettings, known.masks.settings, model),
            _parse(RegionsSettings, caches["regions"].settings, model),
            _parse(MatchesSettings, caches["matches"].settings, model),
        )
    if captioner.evidence.semantics:
        naming = _parse(SemanticsSettings, caches["semantics"].settings, model)
        if naming.source.kind != "images":
            raise _unknown(
                model, f"the model's semantic regions were imported ({naming.source.kind}), not found in images"
            )
        if naming.space == "aligned":
            raise _unknown(
                model, "the model's semantic regions are in the space `aligned`, which was fitted to its data set"
            )
    stored = naming is not None and "masks.h5" in caches["semantics"].upstream
    return Recipe(known, captioner, motion, naming, stored, model)


def pair_evidence(recipe: Recipe, images: list[NDArray[np.uint8]], *, graph: Path, engine: EngineSettings) -> Evidence:
    """Make the evidence of one pair.

    The pair becomes a data set in a temporary folder, of which the stages make caches with the settings that the
    model's card keeps; what they find is therefore what `sagecc caption` would read for this pair.

    Args:
        recipe: See `read_recipe`.
        images: Both dates, uint8 (H, W, 3), of one size.
        graph: Folder of the caption graph, which must be the one of the training; not looked at where none is taken.
        engine: Which device; the stages run in this process.

    Returns:
        On the CPU, of one pair.

    Raises:
        CheckpointError: Weights are missing.
        CacheError: Weights or the graph are not those of the training.
        DataError: The graph is missing or damaged.
    """
    from PIL import Image

    with TemporaryDirectory(prefix="sagecc-") as name, quiet():
        place = Path(name)
        files = {"before": place / "before.png", "after": place / "after.png"}
        for path, pixels in zip(files.values(), images, strict=True):
            Image.fromarray(pixels).save(path)
        names, digests = (
            {d: path.name for d, path in files.items()},
            {d: sha256_file(path) for d, path in files.items()},
        )
        prepared = place / "prepared"
        write_prepared(prepared, "folder", str(place), [Pair(id=_ID, split="test", **names, sha256=digests)])
        where = EvidencePaths(place / "regions.h5", place / "matches.h5", place / "semantics.h5", graph)
        _run_stages(recipe, prepared, where, place / "work", engine.model_copy(update={"engine": "inline"}))
        caches = open_evidence(recipe.captioner, where, read_prepared(prepared), training=False)
        if caches is None:
            raise ValueError("the captioner takes no evidence")
        check_alike(recipe.card, caches.card(), same_pairs=False, model=recipe.model, where=where.by_stage())
        return read_evidence(caches, [_ID])


def _run_stages(recipe: Recipe, prepared: Path, where: EvidencePaths, work: Path, engine: EngineSettings) -> None:
    """Write those caches that the captioner takes."""
    made = masks_beside(where.regions)
    if recipe.motion is not None:
        masking, describing, matching = recipe.motion
        masks.run(masking, prepared, made, engine=engine, work=work)
        regions.run(describing, prepared, made, where.regions, engine=engine, work=work)
        matches.run(matching, where.regions, where.matches, engine=engine, work=work)
    if recipe.semantics is not None:
        # Embeddings are taken from where the training's were, so that no bit differs.
        kept = made if recipe.stored and recipe.motion is not None else None
        semantics.run(recipe.semantics, prepared, where.semantics, engine=engine, masks=kept, work=work)


def _parse(kind: type[SectionT], values: dict[str, Any], model: Path) -> SectionT:

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _unknown(model, "the model was trained on caches whose settings this version does not know") from error


def _unknown(model: Path, what: str) -> Exception:

    fix = (
        "name another model by --model; or make the pair a data set (prepare.dataset: folder), run its stages and "
        "describe it with `sagecc caption`"
    )
    return CheckpointError(what, where=model / "settings.json", fix=fix)


@dataclass(frozen=True)
class Description:
    """What a model says about a pair.

    Attributes:
        sentences: Captions, best first.
        scores: Their scores: length-normalised log-probabilities.
        remarks: What was done to the images on the way, for the user to know.
    """

    sentences: list[str]
    scores: list[float]
    remarks: list[str]


def run(
    settings: GenerationSettings,
    before: Path,
    after: Path,
    model: Path,
    *,
    engine: EngineSettings,
    mass: float | None = None,
    graph: Path = paths.GRAPH,
) -> Description:
    """Describe what changed between two images of one place.

    Args:
        settings: How to search for sentences.
        before: The earlier image (PNG, JPEG, TIFF or GeoTIFF).
        after: The later image, of the same size.
        model: A trained model, `artifacts/models/<name>/seed-<n>`.
        engine: Which device.
        mass: `caption.change_threshold` with `caption.change: mass`; see `pipeline.training.inference.describe`.
        graph: Folder of the caption graph that the model was trained with; not looked at where it takes none.

    Raises:
        DataError: An image cannot be read, or the two differ in size; or the graph is missing or damaged.
        CheckpointError: The model, or other weights that it was trained with, are missing or others; or its evidence
            cannot be made of two images alone.
        CacheError: Weights or graph are not those of the training.
        SettingsError: `mass`, and the no-change sentences of the model's data set are not known.
    """
    card = read_card(model)
    captioner = captioner_of(card, model)
    recipe = None if captioner.fusion == "none" else read_recipe(card, captioner, model)
    images, remarks = _read_images(before, after, card.scenes)
    device = resolve_device(engine.device)
    features = np.zeros((2, *NO_SCENES), np.float16)
    if card.scenes is not None:
        features = _features(card.scenes, images, device, finetuned=card.train["finetune"])
    evidence = None if recipe is None else pair_evidence(recipe, images, graph=graph, engine=engine)
    found = caption_features(model, features[None], settings, device=device, evidence=evidence, mass=mass)[0]
    return Description(
        sentences=[sentence.text for sentence in found],
        scores=[sentence.hypothesis.score for sentence in found],
        remarks=remarks,
    )


def _read_images(before: Path, after: Path, scenes: ScenesCard | None) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Read both images, brought to the size of those that the model was trained on, and say so."""
    images = [read_rgb(path, convert=True) for path in (before, after)]
    if images[0].shape != images[1].shape:
        sizes = " and ".join(f"{image.shape[1]}×{image.shape[0]}" for image in images)
        raise DataError(f"the two images differ in size: {sizes} pixels", where=after, fix="crop them to one extent")
    if scenes is None or (backbone := backbone_of(scenes.settings)).size is not None:
        return images, []
    stride = backbone_stride(backbone.backbone)
    height, width = (cells * stride for cells in scenes.shape[1:])
    if height != width or images[0].shape[:2] == (height, width):
        return images, []
    remark = f"resized from {images[0].shape[1]}×{images[0].shape[0]} to the model's {width}×{height} pixels"
    return [resized(image, (height, width)) for image in images], [remark]


def _features(
    scenes: ScenesCard, images: list[NDArray[np.uint8]], device: torch.device, *, finetuned: bool
) -> NDArray[Any]:
    """Return the scene features (2, C, h, w) float16 of both dates, or of a finetuned model the images themselves."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    if finetuned:
        return batch.numpy()
    settings = backbone_of(scenes.settings)
    weights = Path(settings.weights)
    backbone = build_backbone(settings.backbone, weights).to(device)
    if sha256_file(weights) != scenes.weights["backbone"]:
        raise CheckpointError(
            "the backbone is not the one that the model was trained with",
            where=weights,
            fix="bring back the weights that settings.json names, or train again",
        )
    with torch.inference_mode():
        features: NDArray[Any] = backbone(normalise(batch.to(device), settings)).half().cpu().numpy()
    return features
