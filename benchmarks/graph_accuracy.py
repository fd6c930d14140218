"""Triples by rules against labels by hand and against the synthetic world's own: precision, recall, F1.

Labels: 160 captions of LEVIR-CC's training split, half for development, half scored once (tests/caption_graph/triples).
Synthetic: the changed pairs of the default world's test split, made here. Compared are the two entities, entities and
family, entities and relation. `run` gives the F1; `main` prints the table of docs/results.md.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import _graph_captions as real
from benchmarks.harness import Figures
from pipeline.caption_graph.triples.records import Agreement, Caption, Labelled, agreement
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.datasets.world.pair import is_changed, make_pair
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import DataError

BARS = {"labels_final_head_tail_f1": 0.90, "labels_final_family_f1": 0.90, "labels_final_triple_f1": 0.75}

_HALVES: Final = {"dev": "labels, development half", "final": "labels, final half"}
_SYNTHETIC: Final = "synthetic gold"
_VIEWS: Final = {"head, tail": "(head, tail)", "family": "with family", "triple": "exact triple"}

Labels = Mapping[Hashable, Sequence[Labelled]]
"""Triples by pair and sentence."""


def run(*, quick: bool = False) -> Figures:
    """Score; quick makes 20 synthetic pairs instead of 300.

    Raises:
        DataError: The LEVIR-CC captions or their labels are not there.
    """
    tables = {f"labels_{half}": score_labels(half) for half in _HALVES} | {"synthetic": score_synthetic(_pairs(quick))}
    return {f"{name}_{view.replace(', ', '_')}_f1": table[view].f1 for name, table in tables.items() for view in _VIEWS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as Markdown."""
    parser = real.parser("graph_accuracy", __doc__)
    parser.add_argument("--captions", type=Path, nargs="+", metavar="FILE", default=real.LEVIR, help="of LEVIR-CC")
    options = parser.parse_args(arguments)
    rows = [("", *_VIEWS.values())]
    try:
        rows += [(name, *_cells(score_labels(half, options.captions))) for half, name in _HALVES.items()]
    except DataError as error:
        real.skipped(error)
    rows.append((_SYNTHETIC, *_cells(score_synthetic(_pairs(options.quick)))))
    print(real.markdown(rows))
    return 0


def score_labels(half: str, files: Sequence[Path] = real.LEVIR) -> dict[str, Agreement]:
    """Compare the rules with one half of the labels, "dev" or "final".

    Raises:
        DataError: The captions or the labels are not there.
    """
    if not real.LABELS.is_file():
        raise DataError("no labels", where=real.LABELS, fix="run this in a clone of the repository")
    labels = [json.loads(line) for line in real.LABELS.read_text(encoding="utf-8").splitlines()]
    expected: dict[Hashable, list[Labelled]] = {
        (label["pair"], label["sentence"]): [_labelled(triple) for triple in label["triples"]]
        for label in labels
        if label["part"] == half
    }
    captions = [caption for caption in real.real_captions(files) if (caption.pair, caption.sentence) in expected]
    return agreement(_extract(captions), expected)


def score_synthetic(pairs: int) -> dict[str, Agreement]:
    """Compare the rules with the true triples of the changed pairs among the world's first `pairs` test pairs."""
    world = WorldSettings()
    captions, expected = [], dict[Hashable, list[Labelled]]()
    for index in (index for index in range(min(pairs, world.test)) if is_changed(world, "test", index)):
        pair = make_pair(world, "test", index)
        for number, caption in enumerate(pair.captions):
            captions.append(Caption(pair=pair.id, sentence=number, text=caption.text))
            expected[pair.id, number] = [(t.head, t.relation, t.tail, t.family) for t in caption.triples]
    return agreement(_extract(captions), expected)


def _pairs(quick: bool) -> int:
    return 20 if quick else WorldSettings().test


def _extract(captions: Sequence[Caption]) -> dict[Hashable, list[Labelled]]:
    triples: dict[Hashable, list[Labelled]] = {}
    for triple in RulesExtractor().extract(captions):
        triples.setdefault((triple.pair, triple.sentence), []).append((*triple.key, triple.family))
    return triples


def _labelled(triple: Mapping[str, Any]) -> Labelled:
    return triple["head"], triple["relation"], triple["tail"], triple["family"]


def _cells(table: Mapping[str, Agreement]) -> list[str]:
    agreements = [table[view] for view in _VIEWS]
    return [
        f"{agreed.precision:.3f} / {agreed.recall:.3f} / {agreed.f1:.3f}".replace("0.", ".") for agreed in agreements
    ]


if __name__ == "__main__":
    raise SystemExit(main())
