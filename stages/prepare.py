"""Stage `prepare`: a data set in its own layout → pair records, vocabulary and an audit of every mismatch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.adapters.base import DatasetAdapter
from pipeline.datasets.audit import Audit, describe_pairs
from pipeline.datasets.caption_files import CaptionEntry
from pipeline.datasets.checks import check_captions, check_images
from pipeline.datasets.listing import Listing
from pipeline.datasets.no_change import ChangeRule
from pipeline.datasets.records import Pair, write_prepared
from pipeline.datasets.settings import MismatchKind, VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.datasets.world.files import generate_world
from pipeline.errors import DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import atomic_folder, read_json, write_json
from pipeline.paths import Paths
from pipeline.progress import track
from stages.settings import PrepareSettings

OUTPUTS = ("pairs.jsonl", "dataset.json", "vocabulary.json", "audit.json", "world")
"""What the stage writes into its folder; `world` only for the synthetic data set."""


def run(settings: PrepareSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Write the pair records, the vocabulary and the audit of a data set.

    Args:
        settings: The data set, strictness, vocabulary.
        paths: Writes the folder `prepared` as a whole: pairs.jsonl, dataset.json, vocabulary.json, audit.json, and
            world/ when synthetic.
        engine: How to run; images are read by as many threads as it has workers.

    Returns:
        `paths.prepared`.

    Raises:
        DataError: The data set is missing, damaged, or has mismatches that the settings call errors.
        OutputError: The folder cannot be written, or holds files that are not this stage's.
    """
    audit = Audit()
    # DVC keeps a .gitignore beside files that it tracks; it may go with an older result, since DVC writes it again.
    with atomic_folder(paths.prepared, replaces=(*OUTPUTS, ".gitignore")) as folder:
        adapter: DatasetAdapter = ADAPTERS.resolve(settings.dataset)
        if adapter.list_pairs is None:
            root = str(paths.prepared / "world")
            prepared = _generate(settings, folder / "world", audit, engine)
        else:
            root = settings.root
            prepared = _read(settings, adapter, adapter.list_pairs(settings, audit), audit, engine)
        vocabulary = build_vocabulary(
            _counted_captions(prepared, settings.vocabulary), settings.vocabulary, settings.dataset
        )
        write_prepared(
            folder,
            settings.dataset,
            root,
            prepared.pairs,
            images=settings.images == "read",
            no_change=_no_change(settings),
        )
        vocabulary.save(folder / "vocabulary.json")
        report = {
            "dataset": settings.dataset,
            "left_out_pairs": prepared.left_out,
            "mismatches": audit.report(_strict(settings)),
            "statistics": describe_pairs(prepared.pairs, vocabulary, prepared.sizes),
        }
        write_json(folder / "audit.json", report)
    return paths.prepared


def summary(prepared: Path) -> list[str]:
    """Describe a prepared folder in a few lines: its pairs, those left out, and mismatches that were not errors."""
    report = read_json(prepared / "audit.json", fix="run `sagecc prepare`")
    splits = report["statistics"]["splits"]
    counts = ", ".join(f"{split} {numbers['pairs']:,}" for split, numbers in splits.items())
    lines = [f"{report['dataset']}: {counts} pairs; {report['statistics']['vocabulary']['words']} words"]
    if report["left_out_pairs"]:
        lines.append(f"left out: {report['left_out_pairs']:,} pairs whose images are missing or cannot be used")
    captioned = [numbers for numbers in splits.values() if numbers["captions"]]
    if captioned and not any(numbers["unchanged"] for numbers in captioned):
        lines.append(
            "no captioned pair is unchanged, so that captioners learn no sentence that denies change; if there are "
            f"such pairs, give their flags, or list their sentences in prepare.no_change_sentences.{report['dataset']}"
        )
    for kind, mismatches in report["mismatches"].items():
        if mismatches["total"]:
            lines.append(f"{kind}: {mismatches['total']:,} {mismatches['meaning']}")
    return lines


@dataclass(frozen=True)
class _Prepared:
    """Pairs of a data set.

    Attributes:
        pairs: Those that can be used.
        sizes: Their number per image size ("256×256").
        left_out: Number of pairs that cannot be used.
        without_images: Entries of the caption file that lack images.
    """

    pairs: Sequence[Pair]
    sizes: Mapping[str, int]
    left_out: int = 0
    without_images: Sequence[CaptionEntry] = ()


def _generate(settings: PrepareSettings, folder: Path, audit: Audit, engine: EngineSettings) -> _Prepared:
    world = settings.world
    with track("prepare: the synthetic world", world.train + world.val + world.test) as bar:
        generated = generate_world(world, folder, engine=engine, progress=lambda _done, _all: bar.advance())
    pairs = check_captions(generated, settings.vocabulary, audit, _change_rule(settings))
    return _Prepared(pairs, {f"{settings.world.size}×{settings.world.size}": len(pairs)})


def _read(
    settings: PrepareSettings, adapter: DatasetAdapter, listing: Listing, audit: Audit, engine: EngineSettings
) -> _Prepared:
    root, strict = Path(settings.root), _strict(settings)
    listed = check_captions(listing.pairs, settings.vocabulary, audit, _change_rule(settings))
    # Mismatches of the names alone are reported before minutes are spent on the images.
    audit.check(strict, root)
    if settings.images == "none":
        return _Prepared(pairs=listed, sizes={})
    threads = engine.workers or os.cpu_count() or 1
    checked = []
    with track("prepare: checking images", len(listed)) as bar:
        for pair_and_size in check_images(listed, settings, adapter, audit, threads):
            bar.advance()
            if pair_and_size is not None:
                checked.append(pair_and_size)
    audit.check(strict, root)
    if not checked:
        raise DataError(
            "no pair of the data set can be used", where=root, fix="set prepare.root to a folder with images"
        )
    return _Prepared(
        pairs=[pair for pair, _ in checked],
        sizes=Counter(size for _, size in checked),
        left_out=len(listing.left_out) + len(listed) - len(checked),
        without_images=listing.left_out,
    )


def _no_change(settings: PrepareSettings) -> dict[str, tuple[str, ...]]:
    return settings.no_change_sentences.get(settings.dataset, {})


def _change_rule(settings: PrepareSettings) -> ChangeRule:
    return ChangeRule(_no_change(settings))


def _strict(settings: PrepareSettings) -> frozenset[MismatchKind]:
    missing: tuple[MismatchKind, ...] = () if settings.allow_missing_images else ("caption-without-image",)
    return frozenset((*settings.strict, *missing))


def _counted_captions(prepared: _Prepared, settings: VocabularySettings) -> list[str]:
    """Return the captions whose words the vocabulary counts, by the settings' policy."""
    counted = [(pair.split, pair.captions) for pair in prepared.pairs]
    if settings.pairs == "all":
        counted += [(entry.split, entry.captions) for entry in prepared.without_images if entry.split]
    all_splits = settings.policy == "all-splits"
    return [caption for split, captions in counted if all_splits or split == "train" for caption in captions]
