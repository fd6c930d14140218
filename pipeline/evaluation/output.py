"""Files around an evaluation: the generated captions it reads, and the tables, charts and examples made of it."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import SPLITS, Pair, Split
from pipeline.errors import DataError
from pipeline.evaluation.report import DEVIATION, LABELS, MODEL, Numbers, Report
from pipeline.evaluation.scores import METRICS, Subset
from pipeline.files import atomic_path, read_json

CAPTION_AGAIN: Final = "run `sagecc caption`"
_SEED: Final = re.compile(r"seed-(\d+)\.json")


@dataclass(frozen=True)
class GeneratedCaptions:
    """Captions of one split by models that differ in their seed.

    Attributes:
        split: The split that was captioned.
        seeds: For each seed, in rising order, a caption by pair id.
        left_out: Ids of the split's pairs that stages skipped, so that no seed could describe them.
    """

    split: Split
    seeds: Mapping[int, Mapping[str, str]]
    left_out: tuple[str, ...] = ()


def read_captions(folder: Path) -> GeneratedCaptions:
    """Read `seed-<n>.json` files, each `[{"image_id": pair id, "caption": sentence, …}]`, and `provenance.json`.

    Raises:
        DataError: The folder holds no captions, a file is damaged or of another form, a pair is captioned twice by
            one seed, or the provenance names no split, or its left-out pairs in another form.
    """
    provenance = read_json(folder / "provenance.json", fix=CAPTION_AGAIN)
    split = provenance.get("split") if isinstance(provenance, dict) else None
    if split not in SPLITS:
        raise DataError(
            f"the provenance names no split (given: {split!r})", where=folder / "provenance.json", fix=CAPTION_AGAIN
        )
    # Absent where another program wrote the captions.
    left_out = provenance.get("left_out", {})
    if not isinstance(left_out, dict):
        raise DataError(
            f"the provenance names its left-out pairs in another form (given: {left_out!r:.80})",
            where=folder / "provenance.json",
            fix=f"write them as pair id → list of what it lacks, or {CAPTION_AGAIN}",
        )
    paths = {int(match[1]): path for path in folder.iterdir() if (match := _SEED.fullmatch(path.name))}
    if not paths:
        raise DataError("no captions: there is no seed-<n>.json here", where=folder, fix=CAPTION_AGAIN)
    return GeneratedCaptions(split, {seed: _read(paths[seed]) for seed in sorted(paths)}, tuple(left_out))


def check_pairs(captions: GeneratedCaptions, pairs: Iterable[str], folder: Path) -> None:
    """Check that every seed captions exactly `pairs`, but for those that stages skipped.

    Raises:
        DataError: A caption is of an unknown pair, of another split or of a skipped pair; a pair that was not skipped
            has none; or a skipped pair is not of the split.
    """
    split, left_out = set(pairs), set(captions.left_out)
    if left_out - split:
        raise DataError(
            f"left-out pairs that the split {captions.split!r} does not hold: {len(left_out - split)}, first "
            f"{min(left_out - split)!r}",
            where=folder / "provenance.json",
            fix=f"{CAPTION_AGAIN} on the same prepared data set",
        )
    expected = split - left_out
    for seed, by_pair in captions.seeds.items():
        for problem, ids in (
            (f"captions of pairs that the split {captions.split!r} does not hold", by_pair.keys() - split),
            ("captions of pairs that the provenance lists as left out", by_pair.keys() & left_out),
            (f"pairs of the split {captions.split!r} without a caption", expected - by_pair.keys()),
        ):
            if ids:
                raise DataError(
                    f"{problem}: {len(ids)}, first {min(ids)!r}",
                    where=folder / f"seed-{seed}.json",
                    fix=f"{CAPTION_AGAIN} on the same prepared data set",
                )


def left_out_note(captions: GeneratedCaptions, pairs: int) -> str | None:
    """Return the note that a score of a part of the split needs; None where it is of the whole.

    Args:
        captions: The captions.
        pairs: Number of pairs of the split, left-out ones included.
    """
    count = len(captions.left_out)
    if not count:
        return None
    return (
        f"{count:,} of the {pairs:,} {captions.split} pairs ({count / pairs:.1%}) were skipped by a stage "
        "(engine.on_bad_item: skip) and have no caption: the scores are those of the other "
        f"{pairs - count:,}, and are not comparable with scores of the whole split."
    )


def _read(path: Path) -> dict[str, str]:
    rows = read_json(path, fix=CAPTION_AGAIN)
    if not isinstance(rows, list):
        raise DataError("not COCO results: a list is wanted", where=path, fix=CAPTION_AGAIN)
    captions: dict[str, str] = {}
    for position, row in enumerate(rows):
        pair, caption = _entry(row, path, position)
        if pair in captions:
            raise DataError(f"the pair {pair!r} is captioned twice", where=path, fix=CAPTION_AGAIN)
        captions[pair] = caption
    return captions


def _entry(row: Any, path: Path, position: int) -> tuple[str, str]:
    pair, caption = (row.get("image_id"), row.get("caption")) if isinstance(row, dict) else (None, None)
    if not isinstance(pair, str) or not isinstance(caption, str):
        raise DataError(
            "not COCO results: each entry wants an `image_id` and a `caption`, both text",
            where=f"{path}, entry {position}",
            fix=CAPTION_AGAIN,
        )
    return pair, caption


TITLES: Final = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "s_m": "S*m",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
"""Names of the metrics in tables and plots."""

_FAMILIES: Final = {"words": "Words", "ids": "Vocabulary ids"}
_FLAG: Final = ("accuracy", "precision", "recall", "f1")


def markdown(report: Report) -> str:
    """Return the report as Markdown: the notes, then changed pairs, unchanged pairs and all pairs."""
    sections = ["# Evaluation", *report.notes]
    for family, subsets in report.scores.items():
        for subset, rows in subsets.items():
            if rows is not None:
                sections.append(f"## {_FAMILIES[family]}: {subset} pairs ({report.pairs[subset]:,})")
                sections.append("\n".join(_table(rows, METRICS)))
                if family == "words" and subset == "changed":
                    sections.extend(_interval_line(report))
    if report.change_flag:
        sections.append("## “Changed”, as the sentences imply it")
        sections.append("\n".join(_table(report.change_flag, _FLAG)))
    return "\n\n".join(sections) + "\n"


def _interval_line(report: Report) -> Iterator[str]:
    if report.intervals:
        ends = ", ".join(
            f"{TITLES[metric]} {one.low:.1f} to {one.high:.1f}" for metric, one in report.intervals.items()
        )
        yield f"Over resamples of these pairs 95 % of the model's scores lie within: {ends}."


def score_table(report: Report) -> str:
    """Return the scores as CSV, a line per family, subset and row; missing values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["family", "subset", "row", *METRICS])
    for family, subsets in report.scores.items():
        for subset, rows in subsets.items():
            for name, scores in (rows or {}).items():
                writer.writerow([family, subset, name, *(_exact(scores[metric]) for metric in METRICS)])
    return text.getvalue()


def _table(rows: Mapping[str, Numbers], metrics: tuple[str, ...]) -> Iterator[str]:
    yield "| | " + " | ".join(TITLES[metric] for metric in metrics) + " |"
    yield "| --- |" + " ---: |" * len(metrics)
    for name, label in LABELS.items():
        if name in rows:
            spread = rows.get(DEVIATION) if name == MODEL else None
            cells = (_cell(rows[name][metric], None if spread is None else spread[metric]) for metric in metrics)
            yield f"| {label} | " + " | ".join(cells) + " |"


def _cell(value: float | None, deviation: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


_METRICS: Final = ("bleu_4", "meteor", "rouge_l", "cider_d", "s_m")
_PANELS: Final[tuple[Subset, ...]] = ("changed", "all")
_COLOURS: Final = dict(zip(LABELS, ("#1b6ca8", "#b9b9b9", "#e0a458"), strict=True))


def draw_scores(report: Report, path: Path) -> Path:
    """Draw a bar per row and metric, on words, with deviations over seeds, into a PNG file.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    width = 0.8 / len(LABELS)
    for axis, subset in zip(axes, _PANELS, strict=True):
        rows = report.scores["words"][subset] or {}
        for position, (name, label) in enumerate(LABELS.items()):
            metrics = [metric for metric in _METRICS if name in rows and rows[name][metric] is not None]
            spread = rows.get(DEVIATION, {}) if name == MODEL else {}
            axis.bar(
                [_METRICS.index(metric) + (position - (len(LABELS) - 1) / 2) * width for metric in metrics],
                [rows[name][metric] for metric in metrics],
                width,
                yerr=[spread[metric] for metric in metrics] if spread else None,
                label=label,
                color=_COLOURS[name],
            )
        axis.set_title(f"{subset} pairs ({report.pairs[subset]:,})")
        axis.set_xticks(range(len(_METRICS)), [TITLES[metric] for metric in _METRICS])
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("score × 100")
    axes[0].legend(frameon=False)
    with atomic_path(path) as temporary:
        # Matplotlib would write its version into the file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


_COLUMNS = 2
_CHANGED_SHARE = 0.75


def choose_examples(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Choose pairs spread evenly over the split, three changed ones for each unchanged one."""
    changed = [pair for pair in pairs if pair.changed is not False]
    unchanged = [pair for pair in pairs if pair.changed is False]
    fewer = min(len(unchanged), max(count - len(changed), round(count * (1 - _CHANGED_SHARE))))
    return [*_spread(changed, count - fewer), *_spread(unchanged, fewer)]


def _spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    count = min(count, len(pairs))
    return [pairs[index * len(pairs) // count] for index in range(count)]


def draw_examples(pairs: Sequence[Pair], captions: Mapping[str, str], root: Path, path: Path) -> Path:
    """Draw each pair, before beside after, with the generated caption and its first reference, into a PNG file.

    Raises:
        DataError: An image cannot be read.
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = -(-len(pairs) // _COLUMNS)
    figure = Figure(figsize=(5.0 * _COLUMNS, 3.2 * rows), dpi=100, layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, pair in zip(grid.flat, pairs, strict=False):
        before, after = (read_rgb(root / name, convert=True) for name in (pair.before, pair.after))
        gap = np.full((before.shape[0], max(2, before.shape[1] // 32), 3), 255, dtype=np.uint8)
        axis.imshow(np.concatenate([before, gap, after], axis=1))
        axis.set_title(textwrap.fill(captions[pair.id], 58), loc="left", fontsize=10, fontweight="bold")
        if pair.captions:
            reference = textwrap.fill(f"reference: {pair.captions[0]}", 70)
            axis.text(0, -0.03, reference, transform=axis.transAxes, va="top", fontsize=8.5, color="#666666")
    with atomic_path(path) as temporary:
        # Matplotlib would write its version into the file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
