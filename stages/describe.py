"""`sagecc describe`: a sentence for one pair of the user's own images, with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.captioners.settings import GenerationSettings
from pipeline.execution.settings import EngineSettings

if TYPE_CHECKING:
    from pipeline.training.checkpoints import ModelCard, ScenesCard


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


def run(settings: GenerationSettings, before: Path, after: Path, model: Path, *, engine: EngineSettings) -> Description:
    """Describe what changed between two images of one place.

    Args:
        settings: How to search for sentences.
        before: The earlier image (PNG, JPEG, TIFF or GeoTIFF).
        after: The later image, of the same size.
        model: A trained model, `artifacts/models/<name>/seed-<n>`.
        engine: Which device.

    Raises:
        DataError: An image cannot be read, or the two differ in size.
        CheckpointError: The model, or the backbone it was trained with, is missing or another; or the model takes more
            than the two images.
    """
    import numpy as np
    import torch

    from pipeline.datasets.images import read_rgb
    from pipeline.devices import resolve_device
    from pipeline.errors import CheckpointError, DataError
    from pipeline.files import sha256_file
    from pipeline.training.checkpoints import read_card
    from pipeline.training.describing import caption_features
    from pipeline.training.inputs import backbone_of
    from pipeline.vision.scenes.backbones import SceneBackbone, build_backbone, normalise

    card = read_card(model)
    scenes = _scenes_of(card, model)
    backbone_settings = backbone_of(scenes.settings)
    images = [read_rgb(path, convert=True) for path in (before, after)]
    if images[0].shape != images[1].shape:
        sizes = " and ".join(f"{image.shape[1]}×{image.shape[0]}" for image in images)
        raise DataError(f"the two images differ in size: {sizes} pixels", where=after, fix="crop them to one extent")
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    remarks = []
    if backbone_settings.size is None:
        with torch.device("meta"):
            stride = SceneBackbone(backbone_settings.backbone).stride
        height, width = (cells * stride for cells in scenes.shape[1:])
        if height == width and batch.shape[-2:] != (height, width):
            remarks.append(f"resized from {batch.shape[-1]}×{batch.shape[-2]} to the model's {width}×{height} pixels")
            backbone_settings = backbone_settings.model_copy(update={"size": height})
    device = resolve_device(engine.device)
    inputs = batch.to(device)
    if not card.train["finetune"]:
        weights = Path(backbone_settings.weights)
        backbone = build_backbone(backbone_settings.backbone, weights).to(device)
        if sha256_file(weights) != scenes.weights["backbone"]:
            raise CheckpointError(
                "the backbone is not the one that the model was trained with",
                where=weights,
                fix="bring back the weights that settings.json names, or train again",
            )
        with torch.inference_mode():
            inputs = backbone(normalise(inputs, backbone_settings)).half()
    found = caption_features(model, inputs[None].cpu().numpy(), settings, device=device)[0]
    return Description(
        sentences=[sentence.text for sentence in found],
        scores=[sentence.hypothesis.score for sentence in found],
        remarks=remarks,
    )


def _scenes_of(card: ModelCard, model: Path) -> ScenesCard:
    """Return what the model knows of images, if they are all that it takes."""
    from pipeline.errors import CheckpointError
    from pipeline.training.checkpoints import captioner_of

    captioner = captioner_of(card, model)
    if captioner.fusion == "none" and card.scenes is not None:
        return card.scenes
    taken = captioner.evidence
    caches = {"regions.h5": taken.motion, "matches.h5": taken.motion, "semantics.h5": taken.semantics}
    missing = [name for name, needed in {**caches, "the caption graph": taken.graph}.items() if needed]
    raise CheckpointError(
        f"the model has fusion: {captioner.fusion} and reads {', '.join(missing)}, which own images do not have",
        where=model,
        fix="name a model trained with captioner.fusion: none by --model; or make the pair a data set "
        "(prepare.dataset: folder), run its stages and describe it with `sagecc caption`",
    )
