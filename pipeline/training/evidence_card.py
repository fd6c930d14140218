"""Which caches the evidence of a training came from, and whether others are like them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.cache import Cache
from pipeline.captioners.evidence import EvidenceWidths
from pipeline.errors import CacheError, CheckpointError


class CacheCard(BaseModel):
    """A cache as it describes itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    settings_hash: str
    weights: dict[str, str]
    """SHA-256 of the weight files, by name."""
    upstream: dict[str, str]
    """SHA-256 of the inputs, by name."""

    @classmethod
    def of(cls, cache: Cache) -> CacheCard:
        """Describe an open cache."""
        made = cache.provenance
        return cls(
            settings=dict(made.settings),
            settings_hash=made.settings_hash,
            weights=dict(made.weights),
            upstream=dict(made.upstream),
        )


class EvidenceCard(BaseModel):
    """What a fused model was trained on beside the scenes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: EvidenceWidths
    caches: dict[str, CacheCard]
    """Those that are read, by stage."""
    masks: CacheCard | None = None
    """What the regions were made of; None where motion is not taken, or masks.h5 did not lie beside regions.h5."""
    graph: dict[str, str]
    """SHA-256 of the files of the graph that are read, by name; empty without a graph."""


def masks_beside(regions: Path) -> Path:
    """Return where the masks of a regions.h5 lie, if they were kept."""
    return regions.with_name("masks.h5")


def check_alike(
    trained: EvidenceCard, found: EvidenceCard, *, same_pairs: bool, model: Path, where: Mapping[str, Path]
) -> None:
    """Make sure that a model is asked about evidence of the kind that it was trained on.

    Args:
        trained: What the model's card says.
        found: What the same settings find now.
        same_pairs: Whether both are about the same pairs: then the caches must have been made from the same inputs.
        model: The model's folder.
        where: The files by stage.

    Raises:
        CacheError: A cache was made with other settings, weights or inputs, or the graph is another one.
        CheckpointError: Something is of another width than the model was built for.
    """
    for stage, card in trained.caches.items():
        _check_cache(card, found.caches[stage], stage, same_pairs, model, where[stage])
    if trained.masks is not None and found.masks is not None:
        masks = masks_beside(where["regions"])
        _check_cache(trained.masks, found.masks, "masks", same_pairs, model, masks)
    if other := sorted(name for name, sha in found.graph.items() if trained.graph.get(name, sha) != sha):
        raise CacheError(
            f"the graph is not the one that {model.name} was trained with: {', '.join(other)}",
            where=where["graph"],
            fix="bring that graph back, or run `sagecc train` with this one",
        )
    if trained.widths != found.widths:
        before, now = asdict(trained.widths), asdict(found.widths)
        name = next(name for name in before if before[name] != now[name])
        raise CheckpointError(
            f"the model takes evidence of other widths: {name} {before[name]}, found {now[name]}",
            where=model / "settings.json",
            fix="run `sagecc train` on these caches",
        )


def _check_cache(trained: CacheCard, found: CacheCard, stage: str, same_pairs: bool, model: Path, path: Path) -> None:
    if trained.settings_hash != found.settings_hash:
        keys = trained.settings.keys() | found.settings.keys()
        different = sorted(key for key in keys if trained.settings.get(key) != found.settings.get(key))
        what = f"other settings ({', '.join(different)})"
    elif trained.weights != found.weights:
        what = "other weights"
    elif same_pairs and trained.upstream != found.upstream:
        names = sorted(name for name, sha in trained.upstream.items() if found.upstream.get(name) != sha)
        what = f"another {', '.join(names)}"
    else:
        return
    raise CacheError(
        f"the {stage} were made with {what} than those that {model.name} was trained on",
        where=path,
        fix=f"run `sagecc {stage}` as {model / 'settings.json'} tells, or `sagecc train` on these",
    )
