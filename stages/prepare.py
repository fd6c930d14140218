"""Stage `prepare`: a data set in its own layout → pair records, vocabulary and an audit of every mismatch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.adapters import adapter_of
from pipeline.datasets.audit import Audit, describe_pairs
from pipeline.datasets.caption_files import Entry
from pipeline.datasets.checks import settle_captions, verify_pairs
from pipeline.datasets.records import Pair, write_prepared
from pipeline.datasets.settings import MismatchKind, VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.datasets.world.files import generate_world
from pipeline.errors import DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import atomic_folder, read_json, write_json
from pipeline.progress import track
from stages.settings import PrepareSettings

OUTPUTS = ("pairs.jsonl", "dataset.json", "vocabulary.json", "audit.json", "world")
"""What the stage writes into its folder; `world` only for the synthetic data set."""


def run(settings: PrepareSettings, output: Path, *, engine: EngineSettings) -> Path:
    """Bring a data set into pair records, a vocabulary and an audit.

    Args:
        settings: The data set, strictness, vocabulary.
        output: Folder to write: pairs.jsonl, dataset.json, vocabulary.json, audit.json, and world/ when synthetic.
            It appears as a whole, in place of an older one.
        engine: How to run; images are read by as many threads as it has workers.

    Returns:
        `output`.

    Raises:
        DataError: The data set is missing, damaged, or has mismatches that the settings call errors.
        OutputError: `output` cannot be written, or holds files that are not this stage's.
    """
    audit = Audit()
    # DVC keeps a .gitignore beside files that it tracks; it may go with an older result, since DVC writes it again.
    with atomic_folder(output, replaces=(*OUTPUTS, ".gitignore")) as folder:
        if settings.dataset == "synthetic":
            root = str(output / "world")
            found = _synthetic(settings, folder / "world", audit, engine)
        else:
            root = settings.root
            found = _on_disk(settings, audit, engine)
        vocabulary = build_vocabulary(
            _counted_captions(found, settings.vocabulary), settings.vocabulary, settings.dataset
        )
        write_prepared(folder, settings.dataset, root, found.pairs, images=settings.images == "read")
        vocabulary.save(folder / "vocabulary.json")
        report = {
            "dataset": settings.dataset,
            "left_out_pairs": found.left_out,
            "mismatches": audit.report(_strict(settings)),
            "statistics": describe_pairs(found.pairs, vocabulary, found.sizes),
        }
        write_json(folder / "audit.json", report)
    return output


def summary(output: Path) -> list[str]:
    """Say in a few lines what a prepared folder holds: pairs, those left out, and mismatches that were let pass."""
    report = read_json(output / "audit.json", fix="run `sagecc prepare`")
    splits = report["statistics"]["splits"]
    counts = ", ".join(f"{split} {numbers['pairs']:,}" for split, numbers in splits.items())
    lines = [f"{report['dataset']}: {counts} pairs; {report['statistics']['vocabulary']['words']} words"]
    if report["left_out_pairs"]:
        lines.append(f"left out: {report['left_out_pairs']:,} pairs whose images are missing or cannot be used")
    for kind, found in report["mismatches"].items():
        if found["total"]:
            lines.append(f"{kind}: {found['total']:,} {found['meaning']}")
    return lines


@dataclass(frozen=True)
class _Found:
    """The pairs to keep, how many of them have which image size, and what was left out."""

    pairs: Sequence[Pair]
    sizes: Mapping[str, int]
    left_out: int = 0
    without_images: Sequence[Entry] = ()


def _synthetic(settings: PrepareSettings, folder: Path, audit: Audit, engine: EngineSettings) -> _Found:

    world = settings.world
    with track("prepare: the synthetic world", world.train + world.val + world.test) as bar:
        generated = generate_world(world, folder, engine=engine, progress=lambda _done, _all: bar.advance())
    pairs = settle_captions(generated, settings.vocabulary, audit)
    return _Found(pairs, {f"{settings.world.size}×{settings.world.size}": len(pairs)})


def _on_disk(settings: PrepareSettings, audit: Audit, engine: EngineSettings) -> _Found:

    root, strict = Path(settings.root), _strict(settings)
    adapter = adapter_of(settings.dataset)
    listing = adapter.list_pairs(settings, audit)
    listed = settle_captions(listing.pairs, settings.vocabulary, audit)
    # What the names alone show is told before minutes are spent on the images.
    audit.check(strict, root)
    if settings.images == "none":
        return _Found(pairs=listed, sizes={})
    threads = engine.workers or os.cpu_count() or 1
    kept = []
    with track("prepare: checking images", len(listed)) as bar:
        for found in verify_pairs(listed, settings, adapter, audit, threads):
            bar.advance()
            if found is not None:
                kept.append(found)
    audit.check(strict, root)
    if not kept:
        raise DataError(
            "no pair of the data set can be used", where=root, fix="set prepare.root to a folder with images"
        )
    return _Found(
        pairs=[pair for pair, _ in kept],
        sizes=Counter(size for _, size in kept),
        left_out=len(listing.left_out) + len(listed) - len(kept),
        without_images=listing.left_out,
    )


def _strict(settings: PrepareSettings) -> frozenset[MismatchKind]:
    missing: tuple[MismatchKind, ...] = () if settings.allow_missing_images else ("caption-without-image",)
    return frozenset((*settings.strict, *missing))


def _counted_captions(found: _Found, settings: VocabularySettings) -> list[str]:
    """Return the captions whose words are counted, by the settings' policy."""
    counted = [(pair.split, pair.captions) for pair in found.pairs]
    if settings.pairs == "all":
        counted += [(entry.split, entry.captions) for entry in found.without_images if entry.split]
    every = settings.policy == "all-splits"
    return [caption for split, captions in counted if every or split == "train" for caption in captions]
