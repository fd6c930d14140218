"""Link prediction on the caption graph: R-GCN and its peers against frequencies and DistMult without messages.

Filtered MRR on the held-out triples of the graph of the training captions. A seed draws split, initial weights and
hidden edges. Every predictor is measured with learned popularity (`pipeline.graph_encoders.link_prediction`) and
without it; each of the two ways has settings of its own, chosen for its best predictor on the validation triples of
seeds 100 to 104. `run` gives the means; `main` prints the table of docs/results.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import _graph_captions as real
from benchmarks.harness import Figures
from pipeline.errors import DataError
from pipeline.graph_encoders.link_prediction import (
    Ranking,
    frequency_ranking,
    popularity_alone,
    pretrain,
    without_messages,
)
from pipeline.graph_encoders.settings import EncoderKind, GraphEncoderSettings, PretrainingSettings
from pipeline.graph_encoders.tensors import GraphTensors

_NAMES: Final[Mapping[EncoderKind, str]] = {
    "rgcn": "R-GCN",
    "gcn": "GCN",
    "gat": "GAT",
    "sage": "GraphSAGE",
    "monet": "MoNet",
    "none": "text features, no messages",
}
_FREQUENCY, _POPULARITY, _DISTMULT = "frequency", "popularity alone", "DistMult, no messages"
_WITHOUT: Final[Mapping[str, Any]] = {
    "popularity": False,
    "learning_rate": 0.01,
    "weight_decay": 0.3,
    "epochs": 150,
}
"""Without popularity everything must be learned node by node: faster, longer, with less restraint."""

_K: Final = 50
"""The default k of the graph."""

Table = dict[str, tuple[list[float] | None, list[float] | None]]
"""MRR of every seed by predictor: with popularity, and without it; None where that is no choice."""


def run(*, quick: bool = False) -> Figures:
    """Measure on the LEVIR-CC captions; quick takes one seed and leaves out the encoders that know no relations.

    Raises:
        DataError: The captions are not there.
    """
    table = measure(real.GraphMaker(real.real_captions(real.LEVIR, "train")).tensors(_K), 1 if quick else 5, quick)
    return {
        f"mrr_{name}{suffix}".replace(",", "").replace(" ", "_").replace("-", "").lower(): statistics.fmean(values)
        for name, both in table.items()
        for suffix, values in zip(("_popularity", ""), both, strict=True)
        if values is not None
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as Markdown."""
    parser = real.parser("graph_links", __doc__)
    parser.add_argument("--captions", type=Path, nargs="+", metavar="FILE", default=real.LEVIR, help="caption files")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--min-count", type=int, default=_K, help="k of the graph")
    options = parser.parse_args(arguments)
    try:
        graph = real.GraphMaker(real.real_captions(options.captions, "train")).tensors(options.min_count)
    except DataError as error:
        return real.skipped(error)
    table = measure(graph, 1 if options.quick else options.seeds, options.quick)
    rows: list[tuple[str, ...]] = [("test MRR", "with popularity", "without")]
    rows += [(name, *map(_cell, both)) for name, both in table.items()]
    print(f"{graph.nodes} entities, {graph.relations} relations, {len(graph.triples):,} triples\n")
    print(real.markdown(rows))
    print("\nR-GCN with popularity, minus:\n")
    print(real.markdown([("difference in MRR, seed by seed", "mean ± deviation", "seeds won"), *_differences(table)]))
    return 0


def measure(graph: GraphTensors, seeds: int, quick: bool = False) -> Table:
    """Measure every predictor with seeds 0 to `seeds` - 1."""
    kinds: Sequence[EncoderKind] = ("none", "rgcn") if quick else ("none", "rgcn", "gcn", "gat", "sage", "monet")
    default, wide = GraphEncoderSettings(), GraphEncoderSettings(widths=(128,))
    table: Table = {
        _FREQUENCY: (None, _mrr(seeds, _with, partial(frequency_ranking, graph))),
        _POPULARITY: (_mrr(seeds, _with, lambda settings: popularity_alone(graph, settings).test), None),
        _DISTMULT: (
            _mrr(seeds, _with, lambda settings: without_messages(graph, default, settings).test),
            _mrr(seeds, _less, lambda settings: without_messages(graph, wide, settings).test),
        ),
    }
    for kind in kinds:
        predict = partial(_pretrained, graph, GraphEncoderSettings(kind=kind))
        table[_NAMES[kind]] = _mrr(seeds, _with, predict), _mrr(seeds, _less, predict)
    return table


def _with(seed: int) -> PretrainingSettings:
    return PretrainingSettings(seed=seed)


def _less(seed: int) -> PretrainingSettings:
    return PretrainingSettings(**_WITHOUT, seed=seed)


def _pretrained(graph: GraphTensors, encoder: GraphEncoderSettings, settings: PretrainingSettings) -> Ranking | None:
    return pretrain(graph, encoder, settings).test


def _mrr(
    seeds: int,
    settings: Callable[[int], PretrainingSettings],
    predict: Callable[[PretrainingSettings], Ranking | None],
) -> list[float]:
    values = []
    for seed in range(seeds):
        ranking = predict(settings(seed))
        if ranking is None:
            raise DataError("the graph is too small to hold triples out", fix="lower k with --min-count")
        values.append(ranking.mrr)
    return values


def _cell(values: Sequence[float] | None) -> str:
    return "" if values is None else _spread(values)


def _spread(values: Sequence[float], sign: str = "") -> str:
    return f"{statistics.fmean(values):{sign}.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _differences(table: Table) -> list[tuple[str, str, str]]:
    best = table[_NAMES["rgcn"]][0]
    assert best is not None
    rows = []
    for name in (_FREQUENCY, _POPULARITY, _DISTMULT, _NAMES["none"]):
        for values, way in zip(table[name], (" with popularity", " without"), strict=True):
            if values is not None:
                gains = [own - theirs for own, theirs in zip(best, values, strict=True)]
                label = name if None in table[name] else name + way
                rows.append((label, _spread(gains, "+"), f"{sum(gain > 0 for gain in gains)} of {len(gains)}"))
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
