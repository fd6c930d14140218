"""The ablations of the paper (its Tables 4 to 8), and the active settings under several seeds, as rows of settings.

What the rows do not set is that of the active settings, so that each table can be run on any data set. The paper names
no seeds; three tell a difference from chance.
"""

from __future__ import annotations

import difflib
from typing import Final

from pipeline.errors import SettingsError
from pipeline.experiments.description import Experiment, Row

_SEEDS: Final = (1, 2, 3)
_FUSED: Final = "train.captioner.fusion=paper"
_EVIDENCE: Final = "train.captioner.evidence"


def _taking(*, semantics: bool, graph: bool) -> tuple[str, ...]:
    """Set what is taken beside the scenes and the regions that came or went."""
    flags = {"motion": True, "semantics": semantics, "graph": graph}
    return tuple(f"{_EVIDENCE}.{name}={str(flag).lower()}" for name, flag in flags.items())


TABLE_4: Final = Experiment(
    name="table4",
    title="Components (Table 4 of the paper)",
    set=(_FUSED,),
    rows=(
        Row(label="baseline", set=("train.captioner.fusion=none",)),
        Row(label="+ MCL", set=(*_taking(semantics=False, graph=False), "matches.method=nearest")),
        Row(label="+ SG", set=(*_taking(semantics=False, graph=False), "matches.method=superglue")),
        Row(label="+ SCA", set=(*_taking(semantics=True, graph=False), "matches.method=superglue")),
        Row(label="+ CGR", set=(*_taking(semantics=True, graph=True), "matches.method=superglue")),
    ),
    seeds=_SEEDS,
)
"""Scenes alone; regions unmatched by plain similarity (MCL); by SuperGlue (SG); regions that prompts name (SCA); the
caption graph (CGR). Each row keeps what the rows above have added."""

TABLE_5: Final = Experiment(
    name="table5",
    title="Masks kept of each image (Table 5 of the paper)",
    set=(_FUSED, *_taking(semantics=True, graph=False)),
    rows=tuple(Row(label=f"{kept} masks", set=(f"{_EVIDENCE}.masks_kept={kept}",)) for kept in (30, 40, 50)),
    seeds=_SEEDS,
)
"""Those of the largest predicted IoU; the paper's numbers are those of its model without the graph."""

TABLE_6: Final = Experiment(
    name="table6",
    title="Matching threshold τ (Table 6 of the paper)",
    set=(_FUSED, *_taking(semantics=True, graph=False)),
    rows=tuple(Row(label=f"τ = {value}", set=(f"{_EVIDENCE}.match_threshold={value}",)) for value in (0.1, 0.2, 0.3)),
    seeds=_SEEDS,
)
"""Applied to the confidences that `matches` stored; the paper's numbers are those of its model without the graph."""

TABLE_7: Final = Experiment(
    name="table7",
    title="Graph encoder (Table 7 of the paper)",
    set=(_FUSED, *_taking(semantics=True, graph=True)),
    rows=tuple(
        Row(label=label, set=(f"graph.encoder.kind={kind}", f"{_EVIDENCE}.graph_encoder.kind={kind}"))
        for label, kind in (
            ("GCN", "gcn"),
            ("GAT", "gat"),
            ("GraphSAGE", "sage"),
            ("MoNet", "monet"),
            ("R-GCN", "rgcn"),
        )
    ),
    seeds=_SEEDS,
)
"""Each is pretrained on the graph and then trained with the captioner."""

TABLE_8: Final = Experiment(
    name="table8",
    title="Frequency threshold k of the graph (Table 8 of the paper)",
    set=(_FUSED, *_taking(semantics=True, graph=True)),
    rows=tuple(Row(label=f"k = {k}", set=(f"graph.build.min_count={k}",)) for k in (30, 40, 50, 60, 70)),
    seeds=_SEEDS,
)
"""The graph is built and its encoder pretrained anew for each k."""

SEEDS: Final = Experiment(
    name="seeds",
    title="The active settings under five seeds",
    rows=(Row(label="active settings"),),
    seeds=(1, 2, 3, 4, 5),
)
"""How far chance alone moves the scores."""

BUILTIN: Final = {found.name: found for found in (TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, SEEDS)}
"""The experiments that come with the project, by name."""


def builtin(name: str) -> Experiment:
    """Return an experiment that comes with the project.

    Raises:
        SettingsError: None is called so.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    near = difflib.get_close_matches(name, BUILTIN, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(BUILTIN)}, or a file FILE.yaml"
    raise SettingsError(f"no experiment is called {name!r}", fix=hint)
