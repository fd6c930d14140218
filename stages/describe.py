"""`sagecc describe`: a sentence for one pair of the user's own images, with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.captioners.settings import GenerationSettings
from pipeline.execution.settings import EngineSettings
from stages import paths

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipeline.training.checkpoints import ScenesCard


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
        mass: `caption.change_threshold` with `caption.change: mass`; see `pipeline.training.describing.describe`.
        graph: Folder of the caption graph that the model was trained with; not looked at where it takes none.

    Raises:
        DataError: An image cannot be read, or the two differ in size; or the graph is missing or damaged.
        CheckpointError: The model, or other weights that it was trained with, are missing or others; or its evidence
            cannot be made of two images alone.
        CacheError: Weights or graph are not those of the training.
        SettingsError: `mass`, and the no-change sentences of the model's data set are not known.
    """
    import numpy as np

    from pipeline.captioners.learned_scene import NO_SCENES
    from pipeline.devices import resolve_device
    from pipeline.training.checkpoints import captioner_of, read_card
    from pipeline.training.describing import caption_features
    from stages.pair_evidence import pair_evidence, read_recipe

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
    import torch

    from pipeline.datasets.images import read_rgb, resized
    from pipeline.errors import DataError
    from pipeline.training.inputs import backbone_of
    from pipeline.vision.scenes.backbones import SceneBackbone

    images = [read_rgb(path, convert=True) for path in (before, after)]
    if images[0].shape != images[1].shape:
        sizes = " and ".join(f"{image.shape[1]}×{image.shape[0]}" for image in images)
        raise DataError(f"the two images differ in size: {sizes} pixels", where=after, fix="crop them to one extent")
    if scenes is None or (backbone := backbone_of(scenes.settings)).size is not None:
        return images, []
    with torch.device("meta"):
        stride = SceneBackbone(backbone.backbone).stride
    height, width = (cells * stride for cells in scenes.shape[1:])
    if height != width or images[0].shape[:2] == (height, width):
        return images, []
    remark = f"resized from {images[0].shape[1]}×{images[0].shape[0]} to the model's {width}×{height} pixels"
    return [resized(image, (height, width)) for image in images], [remark]


def _features(
    scenes: ScenesCard, images: list[NDArray[np.uint8]], device: torch.device, *, finetuned: bool
) -> NDArray[Any]:
    """Return the scene features (2, C, h, w) float16 of both dates, or of a finetuned model the images themselves."""
    import numpy as np
    import torch

    from pipeline.errors import CheckpointError
    from pipeline.files import sha256_file
    from pipeline.training.inputs import backbone_of
    from pipeline.vision.scenes.backbones import build_backbone, normalise

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
