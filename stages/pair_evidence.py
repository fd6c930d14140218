"""What a fused captioner takes beside the scenes, made for one pair by the stages masks to semantics."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.config import Section
from pipeline.execution.settings import EngineSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.captioners.evidence import Evidence
    from pipeline.captioners.settings import CaptionerSettings
    from pipeline.training.checkpoints import ModelCard
    from pipeline.training.evidence import EvidencePaths
    from pipeline.training.evidence_card import EvidenceCard

_ID = "pair"
SectionT = TypeVar("SectionT", bound=Section)


def pair_evidence(
    card: ModelCard,
    captioner: CaptionerSettings,
    images: list[NDArray[np.uint8]],
    *,
    model: Path,
    graph: Path,
    engine: EngineSettings,
) -> Evidence:
    """Make the evidence of one pair as it was made for a model's training.

    The pair becomes a data set in a temporary folder, of which the stages make caches with the settings that the
    model's card keeps; what they find is therefore what `sagecc caption` would read for this pair.

    Args:
        card: The model's.
        captioner: Its captioner's settings, with a fusion.
        images: Both dates, uint8 (H, W, 3), of one size.
        model: The model's folder, for messages.
        graph: Folder of the caption graph, which must be the one of the training; not looked at where none is taken.
        engine: Which device; the stages run in this process.

    Returns:
        On the CPU, of one pair.

    Raises:
        CheckpointError: The card does not say how the evidence was made, it was imported or fitted to its data set, or
            weights are missing.
        CacheError: Weights or the graph are not those of the training.
        DataError: The graph is missing or damaged.
    """
    from PIL import Image

    from pipeline.datasets.records import Pair, read_prepared, write_prepared
    from pipeline.execution.progress import quiet
    from pipeline.files import sha256_file
    from pipeline.training.evidence import EvidencePaths, open_evidence
    from pipeline.training.evidence_card import check_alike
    from pipeline.training.evidence_reading import read_evidence

    known = card.evidence
    if known is None:
        raise _unknown(
            model, f"the model has fusion: {captioner.fusion}, and its card does not say what it was trained on"
        )
    with TemporaryDirectory(prefix="sagecc-") as name, quiet():
        place = Path(name)
        files = {"before": place / "before.png", "after": place / "after.png"}
        for path, pixels in zip(files.values(), images, strict=True):
            Image.fromarray(pixels).save(path)
        names, digests = (
            {d: path.name for d, path in files.items()},
            {d: sha256_file(path) for d, path in files.items()},
        )
        pair = Pair(id=_ID, split="test", **names, sha256=digests)
        write_prepared(place / "prepared", card.dataset, str(place), [pair])
        where = EvidencePaths(place / "regions.h5", place / "matches.h5", place / "semantics.h5", graph)
        _run_stages(known, captioner, place, where, model, engine.model_copy(update={"engine": "inline"}))
        caches = open_evidence(captioner, where, read_prepared(place / "prepared"), training=False)
        if caches is None:
            raise ValueError("the captioner takes no evidence")
        check_alike(known, caches.card(), same_pairs=False, model=model, where=where.by_stage())
        return read_evidence(caches, [_ID])


def _run_stages(
    card: EvidenceCard,
    captioner: CaptionerSettings,
    place: Path,
    where: EvidencePaths,
    model: Path,
    engine: EngineSettings,
) -> None:
    """Write those caches that the captioner takes, into `place`."""
    from pipeline.training.evidence_card import masks_beside
    from stages import masks, matches, regions, semantics

    prepared, made, work = place / "prepared", masks_beside(where.regions), place / "work"

    def settings(stage: str, kind: type[SectionT]) -> SectionT:
        values = card.masks.settings if stage == "masks" and card.masks else card.caches[stage].settings
        return _parse(kind, values, model)

    if captioner.evidence.motion:
        if card.masks is None:
            raise _unknown(model, "the model's card does not say how the masks were made that its regions come from")
        masks.run(settings("masks", masks.MasksSettings), prepared, made, engine=engine, work=work)
        taken = settings("regions", regions.RegionsSettings)
        regions.run(taken, prepared, made, where.regions, engine=engine, work=work)
        matches.run(
            settings("matches", matches.MatchesSettings), where.regions, where.matches, engine=engine, work=work
        )
    if captioner.evidence.semantics:
        found = settings("semantics", semantics.SemanticsSettings)
        if found.source.kind != "images":
            raise _unknown(
                model, f"the model's semantic regions were imported ({found.source.kind}), not found in images"
            )
        if found.space == "aligned":
            raise _unknown(
                model, "the model's semantic regions are in the space `aligned`, which was fitted to its data set"
            )
        # Embeddings of SAM's were read where the training's semantics read them, so that no bit differs.
        kept = made if "masks.h5" in card.caches["semantics"].upstream and made.is_file() else None
        semantics.run(found, prepared, where.semantics, engine=engine, masks=kept, work=work)


def _parse(kind: type[SectionT], values: dict[str, Any], model: Path) -> SectionT:
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _unknown(model, "the model was trained on caches whose settings this version does not know") from error


def _unknown(model: Path, what: str) -> Exception:
    from pipeline.errors import CheckpointError

    fix = (
        "name another model by --model; or make the pair a data set (prepare.dataset: folder), run its stages and "
        "describe it with `sagecc caption`"
    )
    return CheckpointError(what, where=model / "settings.json", fix=fix)
