"""Rows of settings that an experiment compares: what a row is, and the ablations of the paper (its Tables 4 to 8).

Keys that the rows do not set keep the active settings, so that each table can be run on any data set. The paper names
no seeds; three tell a difference from chance.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import Field, field_validator, model_validator

from pipeline.config import Section, parse_section, read_document
from pipeline.errors import SettingsError


class Row(Section):
    """One row of a table."""

    label: str = Field(min_length=1, max_length=200, description="how the row is called in the table")
    set: tuple[str, ...] = Field((), description="`section.key=value`: what differs from the active settings")

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str) -> str:
        if not label.isprintable():
            raise ValueError("a label is one line of text")
        return label


class Experiment(Section):
    """Rows that are trained with the same seeds and scored alike, each compared with the row above."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="folder under artifacts/experiments")
    title: str = Field("", description="what the table is about")
    set: tuple[str, ...] = Field(
        (), description="`section.key=value` for all rows; the command line and the rows come after it"
    )
    rows: tuple[Row, ...] = Field((), description="the rows, from top to bottom")
    grid: dict[str, tuple[Any, ...]] = Field(
        {}, description="instead of rows, `section.key` → values: a row for every combination, the last key fastest"
    )
    seeds: tuple[int, ...] | None = Field(
        None, min_length=1, description="seeds of every row; null: those of the active settings"
    )

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """The rows, those of a grid written out."""
        return self.rows or tuple(_combinations(self.grid))

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if bool(self.rows) == bool(self.grid):
            raise ValueError("an experiment has either `rows` or a `grid`, with something in it")
        empty = next((key for key, values in self.grid.items() if not values), None)
        if empty is not None:
            raise ValueError(f"the grid has no values for `{empty}`")
        label, count = Counter(row.label for row in self.all_rows).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} rows are called {label!r}")
        return self


def read_experiment(path: Path) -> Experiment:
    """Read an experiment's YAML file; its name is the file's, unless it says another.

    Raises:
        SettingsError: It is missing or not YAML, a key is unknown, it has no rows, or two of one label.
    """
    try:
        document = read_document(path)
    except SettingsError as error:
        what = error.what.replace("settings", "experiment", 1)
        raise SettingsError(what, where=error.where, fix="see `sagecc experiment --help`") from error
    return parse_section({"name": path.stem, **document}, "experiment", Experiment, where=str(path))


def _combinations(grid: Mapping[str, tuple[Any, ...]]) -> Iterator[Row]:
    last = Counter(key.rpartition(".")[2] for key in grid)
    short = {key: name if last[name := key.rpartition(".")[2]] == 1 else key for key in grid}
    for values in itertools.product(*grid.values()):
        chosen = {key: _flow(value) for key, value in zip(grid, values, strict=True)}
        label = ", ".join(f"{short[key]}={text}" for key, text in chosen.items())
        yield Row(label=label, set=tuple(f"{key}={text}" for key, text in chosen.items()))


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


_SEEDS: Final = (1, 2, 3)
_FUSED: Final = "train.captioner.fusion=paper"
_INPUTS: Final = "train.captioner.inputs"


def _reading(*, semantics: bool, graph: bool) -> tuple[str, ...]:
    """Set the inputs beside the scenes and the unmatched regions."""
    flags = {"regions": True, "semantics": semantics, "graph": graph}
    return tuple(f"{_INPUTS}.{name}={str(flag).lower()}" for name, flag in flags.items())


TABLE_4: Final = Experiment(
    name="table4",
    title="Components (Table 4 of the paper)",
    set=(_FUSED,),
    rows=(
        Row(label="baseline", set=("train.captioner.fusion=none",)),
        Row(label="+ MCL", set=(*_reading(semantics=False, graph=False), "matches.method=nearest")),
        Row(label="+ SG", set=(*_reading(semantics=False, graph=False), "matches.method=superglue")),
        Row(label="+ SCA", set=(*_reading(semantics=True, graph=False), "matches.method=superglue")),
        Row(label="+ CGR", set=(*_reading(semantics=True, graph=True), "matches.method=superglue")),
    ),
    seeds=_SEEDS,
)
"""Scenes alone; regions unmatched by plain similarity (MCL); by SuperGlue (SG); regions that prompts name (SCA); the
caption graph (CGR). Each row keeps what the rows above have added."""

TABLE_5: Final = Experiment(
    name="table5",
    title="Masks kept of each image (Table 5 of the paper)",
    set=(_FUSED, *_reading(semantics=True, graph=False)),
    rows=tuple(Row(label=f"{count} masks", set=(f"{_INPUTS}.max_masks={count}",)) for count in (30, 40, 50)),
    seeds=_SEEDS,
)
"""Those of the largest predicted IoU; the paper's numbers are those of its model without the graph."""

TABLE_6: Final = Experiment(
    name="table6",
    title="Matching threshold τ (Table 6 of the paper)",
    set=(_FUSED, *_reading(semantics=True, graph=False)),
    rows=tuple(Row(label=f"τ = {value}", set=(f"{_INPUTS}.match_threshold={value}",)) for value in (0.1, 0.2, 0.3)),
    seeds=_SEEDS,
)
"""Applied to the confidences that `matches` stored; the paper's numbers are those of its model without the graph."""

TABLE_7: Final = Experiment(
    name="table7",
    title="Graph encoder (Table 7 of the paper)",
    set=(_FUSED, *_reading(semantics=True, graph=True)),
    rows=tuple(
        Row(label=label, set=(f"models.graph_encoder.kind={kind}",))
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
    set=(_FUSED, *_reading(semantics=True, graph=True)),
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

BUILTIN: Final = {table.name: table for table in (TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, SEEDS)}
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
