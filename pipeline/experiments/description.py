"""What an experiment is: rows of settings, and the seeds of each; written down in a module or in a YAML file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

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
