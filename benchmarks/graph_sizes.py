"""The caption graph of real captions: share of captions with a triple, time of the rules, and size by frequency k.

LEVIR-CC and Dubai-CC as published. `run` gives the figures; `main` prints the tables of docs/results.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import _graph_captions as real
from benchmarks.harness import Figures
from pipeline.caption_graph.build import Built
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.datasets.no_change import implies_change
from pipeline.errors import DataError

BARS = {"levir_cc_covered": 0.97, "dubai_cc_covered": 0.97}

_FREQUENCIES: Final = (30, 40, 50, 60, 70)
_SETS: Final = {"LEVIR-CC": real.LEVIR, "Dubai-CC": real.DUBAI}


def run(*, quick: bool = False) -> Figures:
    """Measure both data sets; quick leaves out the sizes.

    Raises:
        DataError: The captions are not there.
    """
    figures: Figures = {}
    for name, files in _SETS.items():
        prefix = name.lower().replace("-", "_")
        covered, changed, _, seconds = coverage(files)
        figures |= {f"{prefix}_covered": covered / changed, f"{prefix}_seconds": seconds}
        for k, built in ({} if quick else sizes(files)).items():
            figures |= {f"{prefix}_entities_{k}": len(built.graph.entities), f"{prefix}_triples_{k}": _edges(built)}
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables as Markdown."""
    parser = real.parser("graph_sizes", __doc__)
    parser.add_argument("--captions", type=Path, nargs="+", metavar="FILE", help="of one data set [default: both]")
    options = parser.parse_args(arguments)
    sets = {"captions": tuple(options.captions)} if options.captions else _SETS
    covering = [("data set", "distinct changed captions with at least one triple", "time")]
    sizing = [("entities / relations / triples at k =", *map(str, _FREQUENCIES))]
    for name, files in sets.items():
        try:
            covered, changed, captions, seconds = coverage(files)
            covering.append(
                (f"{name}, {captions:,} captions", f"{covered / changed:.2%} of {changed:,}", f"{seconds:.0f} s")
            )
            if not options.quick:
                sizing.append((name, *map(_cell, sizes(files).values())))
        except DataError as error:
            real.skipped(error)
    for table in (covering, sizing):
        if len(table) > 1:
            print(real.markdown(table), end="\n\n")
    return 0


def coverage(files: Sequence[Path]) -> tuple[int, int, int, float]:
    """Return distinct changed captions with a triple, all distinct changed ones, all captions; and the rules' seconds.

    Raises:
        DataError: The captions are not there.
    """
    captions = real.real_captions(files)
    changed = list({caption.text: caption for caption in captions if implies_change(caption.text)}.values())
    start = time.perf_counter()
    triples = RulesExtractor().extract(changed)
    seconds = time.perf_counter() - start
    return len({(triple.pair, triple.sentence) for triple in triples}), len(changed), len(captions), seconds


def sizes(files: Sequence[Path]) -> dict[int, Built]:
    """Build the graph of the training captions at every k."""
    maker = real.GraphMaker(real.real_captions(files, "train"))
    return {k: maker.build(k) for k in _FREQUENCIES}


def _edges(built: Built) -> int:
    return len(built.graph.edges)


def _cell(built: Built) -> str:
    return f"{len(built.graph.entities)} / {len(built.graph.relations)} / {_edges(built):,}"


if __name__ == "__main__":
    raise SystemExit(main())
