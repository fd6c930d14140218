"""`sagecc experiment`: the rows of a table, each trained, captioned and scored, and the table that compares them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import parse_section, with_overrides
from pipeline.errors import SageccError, SettingsError
from pipeline.experiments.description import Experiment
from stages.caption import CaptionSettings
from stages.evaluate import EvaluateSettings
from stages.experiment_run import CAPTIONS, METRICS, Plan, Run, Sources, locate
from stages.sections import SECTIONS

if TYPE_CHECKING:
    from pipeline.evaluation.bootstrap import PairStatistics
    from pipeline.experiments.results import RowResult

TABLE, DOCUMENT, PICTURE, TIMES = "table.md", "table.json", "table.png", "times.json"
VARIED = ("matches", "graph", "train", "caption")
"""Sections that a row may change: what follows from them is made for the row."""
_BOOTSTRAP_SEED = 0


class RowsFailedError(SageccError):
    """Rows of an experiment failed; the others, and the table, are there."""


@dataclass(frozen=True)
class _Outcome:
    """What became of a row: its finished run, or why there is none."""

    plan: Plan
    run: Run | None = None
    reason: str | None = None
    failed: bool = False


def assignments(experiment: Experiment, changes: Collection[str] = (), seeds: str | None = None) -> list[str]:
    """Return what is set for all rows, in the order in which it is applied.

    Args:
        experiment: Its own settings and seeds come first.
        changes: `section.key=value` of the command line.
        seeds: Numbers separated by commas, in place of the experiment's.
    """
    own = [] if experiment.seeds is None else [f"train.seeds={list(experiment.seeds)}"]
    return [*experiment.set, *own, *changes, *([] if seeds is None else [f"train.seeds=[{seeds}]"])]


def plan(experiment: Experiment, document: Mapping[str, Any], *, where: str) -> list[Plan]:
    """Work out the settings of every row, and refuse all that cannot be run before anything is.

    Args:
        experiment: The rows.
        document: params.yaml with what is set for all rows.
        where: Named in errors.

    Raises:
        SettingsError: A row sets an unknown key, a value that cannot be, or what must be the same in all rows.
    """
    base = {name: parse_section(document.get(name) or {}, name, kind, where=where) for name, kind in SECTIONS.items()}
    plans: list[Plan] = []
    for row in experiment.all_rows:
        place = f"row {row.label!r} of {experiment.name}"
        try:
            changed = with_overrides(document, row.set)
        except SettingsError as error:
            raise SettingsError(error.what, where=place, fix=error.fix) from error
        unknown = next((name for name in changed if name not in SECTIONS), None)
        if unknown is not None:
            raise SettingsError(f"unknown section `{unknown}`", where=place, fix=f"known: {', '.join(SECTIONS)}")
        sections = {
            name: parse_section(changed.get(name) or {}, name, kind, where=place) for name, kind in SECTIONS.items()
        }
        fixed = next((name for name in SECTIONS if name not in VARIED and sections[name] != base[name]), None)
        if fixed is not None:
            raise SettingsError(
                f"a row cannot change `{fixed}`: an experiment takes what that stage wrote",
                where=place,
                fix=f"rows may change {', '.join(VARIED)}; set `{fixed}` in params.yaml and run the stage",
            )
        found = Plan(row.label, row.set, sections)
        first = plans[0] if plans else found
        for key, same in (
            ("train.seeds", found.train.seeds == first.train.seeds),
            ("caption.split", _split(found) == _split(first)),
        ):
            if not same:
                raise SettingsError(
                    f"`{key}` must be the same in all rows, which are compared by it",
                    where=place,
                    fix="take it out of the row; --set, --seeds and the experiment's own `seeds` hold for all rows",
                )
        plans.append(found)
    return plans


def status(plans: Collection[Plan], sources: Sources, output: Path) -> Iterator[str]:
    """Say of each row, without running anything, whether its run is finished."""
    for number, row in enumerate(plans, 1):
        try:
            found = locate(row, sources, output, build=False)
        except SageccError as error:
            state = f"cannot be run: {_one_line(error)}"
        else:
            made = "to do, and so are matches or graph of its own" if found is None else f"to do in {found.folder}"
            state = f"done in {found.folder}" if found is not None and found.is_done else made
        yield f"{number}  {row.label}: {state}"
        yield from (f"     {change}" for change in row.changes)


def run(
    experiment: Experiment,
    plans: Collection[Plan],
    sources: Sources,
    output: Path,
    *,
    rows: Collection[int] | None = None,
    resamples: int = 1000,
) -> Path:
    """Run the rows that are not finished, one after the other, and write the table of all.

    A row that fails does not stop the others. A row that was finished with the same settings and inputs is not run
    again; one that was interrupted goes on.

    Args:
        experiment: Its name and title.
        plans: What `plan` made of it.
        sources: What the stages wrote.
        output: Folder of the experiment: a folder per run, named by its content key, and the files of the table.
        rows: Numbers, from 1, of the rows to run; None: all. The table has all, and says which were not run.
        resamples: Of the bootstrap.

    Returns:
        The table, table.md; beside it table.json, table.png, and times.json, which alone differs from run to run.

    Raises:
        SettingsError: There is no row of such a number.
        RowsFailedError: Rows failed; the table is written and holds their reasons.
        Interrupted: The user stopped a training; its state is saved, and the same call goes on.
        OutputError: The table cannot be written.
    """
    from pipeline.execution.progress import say
    from pipeline.experiments.chart import draw_rows
    from pipeline.experiments.results import Results
    from pipeline.experiments.table import markdown
    from pipeline.files import write_json, write_text

    odd = sorted(set(rows or ()) - set(range(1, len(plans) + 1)))
    if odd:
        raise SettingsError(f"there is no row {odd[0]}: {experiment.name} has {len(plans)}", where="--rows")
    outcomes = []
    for number, row in enumerate(plans, 1):
        chosen = rows is None or number in rows
        if chosen:
            say(f"row {number} of {len(plans)}, {row.label}")
        outcome = _attempt(row, sources, output, chosen=chosen)
        if outcome.failed:
            say(f"row {number} of {len(plans)}, {row.label}, failed: {outcome.reason}")
        outcomes.append(outcome)

    first = outcomes[0].plan
    results = Results(
        name=experiment.name,
        title=experiment.title,
        seeds=first.train.seeds,
        resamples=resamples,
        bootstrap_seed=_BOOTSTRAP_SEED,
        rows=_results(outcomes, sources, resamples),
    )
    write_json(output / DOCUMENT, results.document())
    write_json(output / TIMES, results.times())
    draw_rows(results, output / PICTURE)
    table = write_text(output / TABLE, markdown(results))
    failed = sum(outcome.failed for outcome in outcomes)
    if failed:
        raise RowsFailedError(
            f"{failed} of {len(outcomes)} rows failed; the table says why",
            where=table,
            fix="mend what it names and run the same command again: finished rows are kept",
        )
    return table


def summary(table: Path) -> str:
    """Return the part of table.md that fits a terminal."""
    return table.read_text(encoding="utf-8").partition("\n## ")[0]


def _split(row: Plan) -> str:
    return row.section("caption", CaptionSettings).split


def _attempt(row: Plan, sources: Sources, output: Path, *, chosen: bool) -> _Outcome:
    """Run a row where it is chosen and not finished."""
    from torch import OutOfMemoryError

    from pipeline.execution.progress import say
    from pipeline.training.stops import Interrupted

    try:
        found = locate(row, sources, output, build=chosen)
        if found is not None and found.is_done:
            if chosen:
                say(f"done already, in {found.folder}")
            return _Outcome(row, found)
        if found is None or not chosen:
            return _Outcome(row, reason="not run")
        found.execute()
    except Interrupted:
        raise
    except SageccError as error:
        return _Outcome(row, reason=_one_line(error), failed=True) if chosen else _Outcome(row, reason="not run")
    except (MemoryError, OutOfMemoryError) as error:
        return _Outcome(row, reason=f"out of memory: {str(error).partition(chr(10))[0]}", failed=True)
    return _Outcome(row, found)


def _one_line(error: SageccError) -> str:
    parts = [error.what, *(f"{name}: {text}" for name, text in (("where", error.where), ("fix", error.fix)) if text)]
    return " ".join("; ".join(parts).split())


def _results(outcomes: Collection[_Outcome], sources: Sources, resamples: int) -> list[RowResult]:
    from pipeline.evaluation.bootstrap import compare
    from pipeline.experiments.results import RowResult
    from pipeline.files import read_json

    statistics = _statistics([outcome.run for outcome in outcomes if outcome.run is not None], sources)
    results: list[RowResult] = []
    above: Mapping[int, PairStatistics] = {}
    first: Mapping[int, PairStatistics] = {}
    for outcome in outcomes:
        row = RowResult(outcome.plan.label, outcome.plan.changes, reason=outcome.reason, failed=outcome.failed)
        these: Mapping[int, PairStatistics] = {}
        if (run := outcome.run) is not None:
            row = replace(row, folder=run.folder.name, metrics=read_json(run.folder / METRICS), seconds=run.seconds())
            these = statistics[run.key]
            if these and above:
                row = replace(row, above=compare(these, above, resamples=resamples, seed=_BOOTSTRAP_SEED))
            if these and first:
                row = replace(row, first=compare(these, first, resamples=resamples, seed=_BOOTSTRAP_SEED))
            first = first or these
        results.append(row)
        above = these
    return results


def _statistics(runs: Collection[Run], sources: Sources) -> dict[str, dict[int, PairStatistics]]:
    """Count what the bootstrap is made from, by key of the run and seed; no seeds where no pair changed."""
    from pipeline.datasets.records import read_prepared
    from pipeline.evaluation.bootstrap import pair_statistics
    from pipeline.evaluation.captions import read_captions
    from pipeline.evaluation.java import find_java
    from pipeline.evaluation.scores import corpus_of
    from pipeline.evaluation.tokens import tokenize

    if not runs:
        return {}
    generated = {run.key: read_captions(run.folder / CAPTIONS) for run in runs}
    data = read_prepared(sources.prepared)
    split = next(iter(generated.values())).split
    pairs = [pair for pair in data.split(split) if pair.changed and pair.captions]
    if not pairs:
        return {key: {} for key in generated}
    ids = [pair.id for pair in pairs]
    measure = next(iter(runs)).plan.section("evaluate", EvaluateSettings)
    said = [found.seeds[seed][pair] for found in generated.values() for seed in found.seeds for pair in ids]
    tokens = tokenize([*said, *(text for pair in pairs for text in pair.captions)], find_java(measure.java))
    references = {pair.id: [tokens[text] for text in pair.captions] for pair in pairs}

    def count(captions: Mapping[str, str]) -> PairStatistics:
        return pair_statistics(corpus_of({pair: tokens[captions[pair]] for pair in ids}, references, ids))

    return {key: {seed: count(captions) for seed, captions in found.seeds.items()} for key, found in generated.items()}
