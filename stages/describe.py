"""`sagecc describe`: a sentence for one pair of the user's own images, with a trained model.

The pair becomes a data set in a temporary folder, and the stages make the model's inputs of it with the settings that
the model's card keeps; so the model reads what `sagecc caption` would read for this pair.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.captioners.settings import CaptionerSettings, GenerationSettings
from pipeline.config import Section
from pipeline.datasets.image_pairs import compare_dates, nodata_remark, read_date
from pipeline.datasets.images import resized
from pipeline.datasets.no_change import Sentences
from pipeline.datasets.records import Pair, read_prepared, write_prepared
from pipeline.errors import CheckpointError, DataError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.paths import Paths
from pipeline.progress import quiet
from pipeline.runtime import resolve_device
from pipeline.training.checkpoints import VOCABULARY, ModelCard, Trained, load_model, read_card, train_settings
from pipeline.training.inference import caption_batches
from pipeline.training.inputs import SourceCard, check_cards, open_inputs
from pipeline.training.scene_inputs import backbone_of
from pipeline.vision.scenes.backbones import backbone_stride
from stages import masks, matches, regions, scenes, semantics
from stages.settings import SECTIONS, SemanticsSettings

_ID: Final = "pair"

Georeferencing = Literal["refuse", "remark", "ignore"]
"""What to do about two images that by their coordinates do not cover the same ground."""


class _Stage(Protocol):
    def run(self, settings: Any, paths: Paths, *, engine: EngineSettings) -> Path: ...


_STAGES: Final[dict[str, _Stage]] = {
    "scenes": scenes,
    "masks": masks,
    "regions": regions,
    "matches": matches,
    "semantics": semantics,
}
"""Stages that make inputs of images, in the order in which they run."""


@dataclass(frozen=True)
class Description:
    """What a model says about a pair.

    Attributes:
        sentences: Captions, best first.
        scores: Their scores: length-normalised log-probabilities.
        remarks: What was done to the images, for the user to know.
    """

    sentences: list[str]
    scores: list[float]
    remarks: list[str]


def run(
    settings: GenerationSettings,
    before: Path,
    after: Path,
    model: Path,
    paths: Paths,
    *,
    engine: EngineSettings,
    change_threshold: float | None = None,
    no_change: Mapping[str, Sentences] | None = None,
    georeference: Georeferencing = "refuse",
) -> Description:
    """Describe what changed between two images of one place.

    Args:
        settings: How to search for sentences.
        before: The earlier image (PNG, JPEG, TIFF or GeoTIFF).
        after: The later image, of the same size.
        model: A trained model, `artifacts/models/<name>/seed-<n>`.
        paths: `graph` is read where the model reads one: it must be that of the training.
        engine: Which device; the stages run in this process.
        change_threshold: `caption.change_threshold` with `caption.change: mass`; see
            `pipeline.training.inference.caption_batches`.
        no_change: `prepare.no_change_sentences`: sentences that deny change, by data set and language.
        georeference: Whether two images that by their coordinates do not cover the same ground are refused, remarked
            on, or taken without a word.

    Raises:
        DataError: An image cannot be read, or the two differ in size or in the ground that they cover; or the graph is
            missing or damaged.
        CheckpointError: The model, or weights that its inputs are made with, are missing or damaged; or its inputs
            cannot be made of two images alone.
        CacheError: Weights or graph are not those of the training.
        SettingsError: `change_threshold` is given, and the no-change sentences of the model's data set are not known.
    """
    card = read_card(model)
    captioner = train_settings(card, model).captioner
    stages = _stage_settings(card, model)
    pair, remarks = _read_pair(before, after, georeference)
    images, resizing = _resized(pair, card.inputs)
    trained = load_model(model, resolve_device(engine.device))
    inputs = _make_inputs(trained, captioner, stages, images, paths, engine)
    sentences = next(
        caption_batches(
            trained,
            [inputs],
            settings,
            change_threshold=change_threshold,
            no_change=None if no_change is None else no_change.get(card.dataset, {}),
        )
    )[0]
    return Description(
        sentences=[sentence.text for sentence in sentences],
        scores=[sentence.hypothesis.score for sentence in sentences],
        remarks=remarks + resizing,
    )


def _stage_settings(card: ModelCard, model: Path) -> dict[str, Section]:
    """Return the settings of the stages that made the inputs of a model's training, in the order in which they run.

    Raises:
        CheckpointError: The card does not keep them all, or an input was imported or fitted to its data set, so that
            two images alone do not give it.
    """
    caches = {stage: cache for source in card.inputs.values() for stage, cache in source.caches.items()}
    if "regions" in card.inputs and "masks" not in caches:
        raise _refusal(model, "the model's card does not say how the masks were made that its regions come from")
    settings: dict[str, Section] = {}
    for stage in _STAGES:
        if stage in caches:
            try:
                settings[stage] = SECTIONS[stage].model_validate(caches[stage].settings)
            except (ValidationError, SettingsError) as error:
                what = "the model was trained on caches whose settings this version does not know"
                raise _refusal(model, what) from error
    if isinstance(naming := settings.get("semantics"), SemanticsSettings):
        if naming.source.kind != "images":
            raise _refusal(
                model, f"the model's semantic regions were imported ({naming.source.kind}), not found in images"
            )
        if naming.space == "aligned":
            raise _refusal(
                model, "the model's semantic regions are in the space `aligned`, which was fitted to its data set"
            )
    return settings


def _read_pair(before: Path, after: Path, georeference: Georeferencing) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Read both images as viewers show them, and say what is odd about them."""
    files = [read_date(path, convert=True) for path in (before, after)]
    remarks = []
    for date, file in zip(("before", "after"), files, strict=True):
        odd = [*file.remarks, *([remark] if (remark := nodata_remark(file)) else [])]
        remarks += [f"{date}: {remark}" for remark in odd]
    if (contradiction := compare_dates(*files)) is not None:
        what, fix = f"the two images {contradiction.what}", contradiction.fix
        if contradiction.kind == "size-mismatch":
            raise DataError(what, where=after, fix=fix)
        if contradiction.kind == "georeference-mismatch" and georeference == "refuse":
            raise DataError(what, where=after, fix=f"{fix}, or describe them as they are with --georeference remark")
        if georeference != "ignore":
            remarks.append(what)
    return [file.pixels for file in files], remarks


def _resized(
    images: list[NDArray[np.uint8]], inputs: Mapping[str, SourceCard]
) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Resize both images to the size of those that the model was trained on, and say so."""
    scenes_card = inputs.get("scenes") or inputs.get("images")
    if scenes_card is None:
        return images, []
    backbone = backbone_of(scenes_card.caches["scenes"].settings)
    if backbone.size is not None:
        return images, []
    stride = backbone_stride(backbone.backbone)
    height, width = (cells * stride for cells in scenes_card.shape[1:])
    if height != width or images[0].shape[:2] == (height, width):
        return images, []
    remark = f"resized from {images[0].shape[1]}×{images[0].shape[0]} to the model's {width}×{height} pixels"
    return [resized(image, (height, width)) for image in images], [remark]


def _make_inputs(
    trained: Trained,
    captioner: CaptionerSettings,
    stages: Mapping[str, Section],
    images: list[NDArray[np.uint8]],
    paths: Paths,
    engine: EngineSettings,
) -> dict[str, Any]:
    """Make the model's inputs of one pair, on its device, by the name of their source."""
    names, inputs, card = tuple(trained.card.inputs), dict[str, Any](), trained.card
    if "images" in names:
        # The backbone is part of the model: neither its own weights nor scenes are needed.
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[None].contiguous()
        inputs["images"] = pixels.to(trained.model.device)
        names = tuple(name for name in names if name != "images")
        stages = {stage: settings for stage, settings in stages.items() if stage != "scenes"}
    inline = engine.model_copy(update={"engine": "inline"})
    with TemporaryDirectory(prefix="sagecc-") as name, quiet():
        folder = Path(name)
        pair_paths = Paths.under(folder).at(graph=paths.graph)
        _write_pair(folder, pair_paths, images)
        shutil.copyfile(trained.folder / VOCABULARY, read_prepared(pair_paths.prepared).vocabulary_path)
        for stage, settings in stages.items():
            stage_paths = pair_paths
            if stage == "scenes":
                # No need to pad two images to the batches of a data set.
                settings = settings.model_copy(update={"batch_size": 2})
            if stage == "semantics" and "masks.h5" not in _upstream(card, stage):
                # SAM's embeddings come from where the training's came from, so that no bit differs.
                stage_paths = pair_paths.at(masks=folder / "no-masks.h5")
            _STAGES[stage].run(settings, stage_paths, engine=inline)
        current = open_inputs(pair_paths, captioner, names, training=False)
        expected = {name: card.inputs[name] for name in names}
        check_cards(expected, current.cards(), settings=False, model=trained.folder, paths=pair_paths)
        stores = current.stores(current.data.pairs, trained.model.device)
        return inputs | {name: store.take(np.zeros(1, np.int64)) for name, store in stores.items()}


def _write_pair(folder: Path, paths: Paths, images: list[NDArray[np.uint8]]) -> None:
    """Write a prepared data set of one pair."""
    files = {"before": folder / "before.png", "after": folder / "after.png"}
    for path, pixels in zip(files.values(), images, strict=True):
        Image.fromarray(pixels).save(path)
    names = {date: path.name for date, path in files.items()}
    digests = {date: sha256_file(path) for date, path in files.items()}
    paths.prepared.parent.mkdir(parents=True, exist_ok=True)
    write_prepared(paths.prepared, "folder", str(folder), [Pair(id=_ID, split="test", **names, sha256=digests)])


def _upstream(card: ModelCard, stage: str) -> Mapping[str, str]:
    return next(source.caches[stage].upstream for source in card.inputs.values() if stage in source.caches)


def _refusal(model: Path, what: str) -> CheckpointError:
    fix = (
        "name another model by --model; or make the pair a data set (prepare.dataset: folder), run its stages and "
        "describe it with `sagecc caption`"
    )
    return CheckpointError(what, where=model / "settings.json", fix=fix)
