"""`sagecc experiment`: the rows of a table, each trained, captioned and scored, and the table that compares them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cache.reader import Cache, cache_sha256
from pipeline.cache.schema import Expectation
from pipeline.caption_graph.store import SCHEMA as GRAPH
from pipeline.caption_graph.store import TENSORS, read_graph
from pipeline.config import Section, settings_hash, with_overrides
from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.records import read_prepared
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import CacheError, DataError, SageccError, SettingsError
from pipeline.evaluation.bootstrap import PairStatistics, compare, pair_statistics
from pipeline.evaluation.java import find_java
from pipeline.evaluation.output import read_captions
from pipeline.evaluation.scores import corpus_of, tokenize
from pipeline.execution.failures import ran_out
from pipeline.execution.settings import EngineSettings
from pipeline.experiments.rows import Experiment
from pipeline.experiments.table import Results, RowResult, draw_rows, markdown
from pipeline.files import content_key, read_json, sha256_file, write_json, write_text
from pipeline.paths import CACHES, Paths
from pipeline.progress import say
from pipeline.training.distributed import Interrupted
from pipeline.training.inputs import open_inputs
from pipeline.training.run import SECONDS, read_seconds
from pipeline.training.settings import TrainSettings
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from stages import caption, evaluate, graph, matches, train
from stages.code import stage_digest
from stages.settings import (
    SECTIONS,
    CaptionSettings,
    EvaluateSettings,
    GraphSettings,
    MatchesSettings,
    parse_sections,
    render_sections,
)

PARAMS, REPEAT, DONE, TIMES = "params.yaml", "repeat.sh", "run.json", "times.json"
MODELS, CURVES, CAPTIONS, METRICS, PLOTS = "models", "curves", "captions", "metrics.json", "plots"
INPUTS = "inputs"
"""Folder of the matches and graphs that rows needed for themselves, beside the runs."""

SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class Plan:
    """A row with all of its settings.

    Attributes:
        label: How it is called.
        changes: `section.key=value` of its own.
        sections: Every section of params.yaml.
    """

    label: str
    changes: tuple[str, ...]
    sections: Mapping[str, Section]

    def section(self, name: str, kind: type[SectionT]) -> SectionT:
        """Return one section."""
        section = self.sections[name]
        if not isinstance(section, kind):
            raise TypeError(f"section {name} is no {kind.__name__}")
        return section

    @property
    def train(self) -> TrainSettings:
        """The captioner, its training and the seeds."""
        return self.section("train", TrainSettings)

    @property
    def engine(self) -> EngineSettings:
        """How to run."""
        return self.section("engine", EngineSettings)


@dataclass(frozen=True)
class Run:
    """The run of a row: it follows from the content of its settings and inputs, not from the row's label or place.

    Attributes:
        plan: The row.
        paths: Of the project, with the row's own matches and graph where it needs them; models, captions and scores are
            written to `folder`.
        key: Content key of everything that decides the result.
        training_key: That of the training alone.
        folder: Where everything of the run lies.
    """

    plan: Plan
    paths: Paths
    key: str
    training_key: str
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether it was finished, and its captions and scores are still what they were."""
        try:
            return bool(read_json(self.folder / DONE) == self._record())
        except (DataError, FileNotFoundError):
            return False

    def execute(self) -> None:
        """Train, caption and evaluate; what an earlier, unfinished run has left is not done again.

        Raises:
            SageccError: A stage refuses or fails; see there.
        """
        plan, folder = self.plan, self.folder
        write_text(folder / PARAMS, _params(plan))
        write_text(folder / REPEAT, self._commands())
        train.run(plan.train, self.paths, engine=plan.engine)
        self._copy_times()
        caption.run(plan.section("caption", CaptionSettings), self.paths, engine=plan.engine)
        evaluate.run(plan.section("evaluate", EvaluateSettings), self.paths, engine=plan.engine)
        write_json(folder / DONE, self._record())

    def seconds(self) -> dict[int, float]:
        """Return the training time of each seed; of none where it is not known of all."""
        try:
            seconds = read_json(self.folder / TIMES)
            return {seed: float(seconds[str(seed)]) for seed in self.plan.train.seeds}
        except (DataError, KeyError, TypeError, ValueError):
            return {}

    def _copy_times(self) -> None:
        """Copy the times of the trainings, which are kept with their states, into the run's folder."""
        work = self.paths.training(self.training_key)
        seconds = {seed: read_seconds(work / f"seed-{seed}" / SECONDS) for seed in self.plan.train.seeds}
        if all(time is not None for time in seconds.values()):
            write_json(self.folder / TIMES, {str(seed): time for seed, time in seconds.items()})

    def _record(self) -> dict[str, object]:
        """Describe a finished run by the content of what it wrote."""
        files = [self.folder / METRICS, self.folder / CAPTIONS / caption.PROVENANCE]
        files += [self.folder / CAPTIONS / f"seed-{seed}.json" for seed in self.plan.train.seeds]
        return {
            "key": self.key,
            "files": {path.relative_to(self.folder).as_posix(): sha256_file(path) for path in files},
        }

    def _commands(self) -> str:
        """Write the commands that make the run again."""
        own = self.folder.parent / INPUTS
        prepared = f"--prepared {shlex.quote(str(self.paths.prepared))}"
        caches = {name: shlex.quote(str(getattr(self.paths, name))) for name in CACHES}
        params = f"--params {shlex.quote(str(self.folder / PARAMS))}"
        lines = []
        if self.paths.matches.is_relative_to(own):
            lines.append(f'sagecc matches {params} --cache regions={caches["regions"]} --out "$out/matches.h5"')
            caches["matches"] = '"$out/matches.h5"'
        if self.paths.graph.is_relative_to(own):
            lines.append(f'sagecc graph {params} {prepared} --out "$out/graph"')
            caches["graph"] = '"$out/graph"'
        inputs = " ".join([params, prepared, *(f"--cache {name}={path}" for name, path in caches.items())])
        lines += [
            f'sagecc train {inputs} --out "$out/{MODELS}" --curves "$out/{CURVES}"',
            f'sagecc caption {inputs} --models "$out/{MODELS}" --out "$out/{CAPTIONS}"',
            f'sagecc evaluate {params} {prepared} --captions "$out/{CAPTIONS}" --out "$out/{METRICS}" '
            f'--plots "$out/{PLOTS}"',
        ]
        return _REPEAT + "\n".join(lines) + "\n"


_REPEAT = """\
#!/bin/sh
# Makes this run again: sh repeat.sh FOLDER, from the project's folder. `sagecc clean train` first, or models that are
# trained already are taken for it.
set -e
out=${1:?a folder to write}
mkdir -p "$out"
"""


def locate(plan: Plan, paths: Paths, output: Path, *, build: bool) -> Run | None:
    """Return the run of a row.

    Matches and graph that were made with other settings than the row's are made for it, under `output`/inputs.

    Args:
        plan: The row.
        paths: What the stages wrote.
        output: Folder of the experiment.
        build: Whether matches and graph may be made.

    Returns:
        None where something would have to be made first, and `build` is false.

    Raises:
        SageccError: An input is missing or damaged, or cannot be made.
    """
    settings = plan.train
    for name, make in (("regions", _matches), ("graph", _graph)):
        if name in settings.input_names():
            own_paths = make(plan, paths, output / INPUTS, build=build)
            if own_paths is None:
                return None
            paths = own_paths
    inputs = open_inputs(paths, settings.captioner, settings.input_names(), training=True)
    training_key = train.key_of(train.resolved(settings, plan.engine), inputs)
    sections = [settings_hash(plan.sections[name]) for name in ("caption", "evaluate")]
    # The no-change sentences of a data set stand with its adapter.
    adapters = [ADAPTERS[name] for name in (inputs.data.card.name,) if name in ADAPTERS]
    code = [stage_digest(stage, *adapters) for stage in ("caption", "evaluate")]
    key = content_key(code, training_key, list(settings.seeds), sections)
    folder = output / key[:16]
    results = {
        "models": folder / MODELS,
        "curves": folder / CURVES,
        "captions": folder / CAPTIONS,
        "metrics": folder / METRICS,
        "plots": folder / PLOTS,
    }
    return Run(plan, paths.at(**results), key, training_key, folder)


def _matches(plan: Plan, paths: Paths, folder: Path, *, build: bool) -> Paths | None:
    """Return paths with the row's own matches; None where they would have to be made first."""
    settings = plan.section("matches", MatchesSettings)
    if not paths.regions.is_file():
        return paths  # opening the regions says that they are missing
    expect = Expectation(
        settings_hash=settings_hash(settings),
        weights=matches.weights_of(settings),
        upstream={"regions.h5": cache_sha256(paths.regions, REGIONS)},
    )

    def fits(path: Path) -> bool:
        try:
            with Cache.open(path, MATCHES, expect=expect) as cache:
                return cache.provenance.code == stage_digest("matches")
        except CacheError:
            return False

    own = paths.at(matches=folder / f"matches-{settings_hash(settings)[:16]}.h5")
    if fits(paths.matches):
        return paths
    if build:
        matches.run(settings, own, engine=plan.engine)
        return own
    return own if fits(own.matches) else None


def _graph(plan: Plan, paths: Paths, folder: Path, *, build: bool) -> Paths | None:
    """Return paths with the row's own graph; None where it would have to be made first."""
    settings = plan.section("graph", GraphSettings)
    values, pairs_sha256 = settings.result_values(), read_prepared(paths.prepared).card.pairs_sha256
    weights = graph.weights_of(settings)

    def fits(path: Path) -> bool:
        try:
            about = read_graph(path).about
            with Cache.open(path / TENSORS, GRAPH) as cache:
                provenance = cache.provenance
        except (CacheError, DataError):
            return False
        made_from = (about.get("settings"), about.get("pairs_sha256"), dict(provenance.weights), provenance.code)
        return made_from == (values, pairs_sha256, weights, stage_digest("graph"))

    own = paths.at(graph=folder / f"graph-{content_key(values, pairs_sha256)[:16]}")
    for candidate in (paths, own):
        if fits(candidate.graph):
            return candidate
    if not build:
        return None
    graph.run(settings, own, engine=plan.engine)
    return own


def _params(plan: Plan) -> str:
    heading = (
        "Settings of one run of an experiment; beside it lie the commands that make it again, its models, captions and "
        "scores."
    )
    # Those of the mini models' trainings have no part in it.
    return render_sections(
        {name: section for name, section in plan.sections.items() if name != "pretrain"}, heading=heading
    )


TABLE, DOCUMENT, PICTURE = "table.md", "table.json", "table.png"
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
    base = parse_sections(document, where=where)
    plans: list[Plan] = []
    for row in experiment.all_rows:
        place = f"row {row.label!r} of {experiment.name}"
        try:
            changed = with_overrides(document, row.set)
        except SettingsError as error:
            raise SettingsError(error.what, where=place, fix=error.fix) from error
        sections = parse_sections(changed, where=place)
        # What a row changes of `models` shows in the stages that use it.
        varied = ("models", *VARIED)
        fixed = next((name for name in SECTIONS if name not in varied and sections[name] != base[name]), None)
        if fixed is not None:
            raise SettingsError(
                f"a row cannot change `{fixed}`: an experiment takes what that stage wrote",
                where=place,
                fix=f"rows may change {', '.join(VARIED)}; set `{fixed}` in params.yaml and run the stage",
            )
        row_plan = Plan(row.label, row.set, sections)
        first = plans[0] if plans else row_plan
        for key, same in (
            ("train.seeds", row_plan.train.seeds == first.train.seeds),
            ("caption.split", _split(row_plan) == _split(first)),
        ):
            if not same:
                raise SettingsError(
                    f"`{key}` must be the same in all rows, which are compared by it",
                    where=place,
                    fix="take it out of the row; --set, --seeds and the experiment's own `seeds` hold for all rows",
                )
        plans.append(row_plan)
    return plans


def status(plans: Collection[Plan], paths: Paths, output: Path) -> Iterator[str]:
    """Say of each row, without running anything, whether its run is finished."""
    for number, row in enumerate(plans, 1):
        try:
            run = locate(row, paths, output, build=False)
        except SageccError as error:
            state = f"cannot be run: {_one_line(error)}"
        else:
            to_do = "to do, and so are matches or graph of its own" if run is None else f"to do in {run.folder}"
            state = f"done in {run.folder}" if run is not None and run.is_done else to_do
        yield f"{number}  {row.label}: {state}"
        yield from (f"     {change}" for change in row.changes)


def run(
    experiment: Experiment,
    plans: Collection[Plan],
    paths: Paths,
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
        paths: What the stages wrote.
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
    odd = sorted(set(rows or ()) - set(range(1, len(plans) + 1)))
    if odd:
        raise SettingsError(f"there is no row {odd[0]}: {experiment.name} has {len(plans)}", where="--rows")
    outcomes = []
    for number, row in enumerate(plans, 1):
        chosen = rows is None or number in rows
        if chosen:
            say(f"row {number} of {len(plans)}, {row.label}")
        outcome = _attempt(row, paths, output, chosen=chosen)
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
        rows=_results(outcomes, paths, resamples),
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


def _attempt(row: Plan, paths: Paths, output: Path, *, chosen: bool) -> _Outcome:
    """Run a row where it is chosen and not finished."""
    try:
        run = locate(row, paths, output, build=chosen)
        if run is not None and run.is_done:
            if chosen:
                say(f"done already, in {run.folder}")
            return _Outcome(row, run)
        if run is None or not chosen:
            return _Outcome(row, reason="not run")
        run.execute()
    except Interrupted:
        raise
    except SageccError as error:
        return _Outcome(row, reason=_one_line(error), failed=True) if chosen else _Outcome(row, reason="not run")
    except (MemoryError, OSError, RuntimeError) as error:
        if ran_out(error) is None:
            raise
        return _Outcome(row, reason=f"out of memory: {str(error).partition(chr(10))[0]}", failed=True)
    return _Outcome(row, run)


def _one_line(error: SageccError) -> str:
    parts = [error.what, *(f"{name}: {text}" for name, text in (("where", error.where), ("fix", error.fix)) if text)]
    return " ".join("; ".join(parts).split())


def _results(outcomes: Collection[_Outcome], paths: Paths, resamples: int) -> list[RowResult]:

    statistics = _statistics([outcome.run for outcome in outcomes if outcome.run is not None], paths)
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


def _statistics(runs: Collection[Run], paths: Paths) -> dict[str, dict[int, PairStatistics]]:
    """Count what the bootstrap is made from, by key of the run and seed; no seeds where no pair changed.

    Pairs that a row could not describe, because a stage skipped them, are left out of all rows: the rows are compared
    on the same pairs.
    """
    if not runs:
        return {}
    generated = {run.key: read_captions(run.folder / CAPTIONS) for run in runs}
    data = read_prepared(paths.prepared)
    split = next(iter(generated.values())).split
    left_out = {pair for of_run in generated.values() for pair in of_run.left_out}
    pairs = [pair for pair in data.split(split) if pair.changed and pair.captions and pair.id not in left_out]
    if not pairs:
        return {key: {} for key in generated}
    ids = [pair.id for pair in pairs]
    measure = next(iter(runs)).plan.section("evaluate", EvaluateSettings)
    said = [captions[pair] for of_run in generated.values() for captions in of_run.seeds.values() for pair in ids]
    rule = Vocabulary.load(data.vocabulary_path).settings.tokens
    tokens = tokenize([*said, *(text for pair in pairs for text in pair.captions)], find_java(measure.java), rule)
    references = {pair.id: [tokens[text] for text in pair.captions] for pair in pairs}

    def count(captions: Mapping[str, str]) -> PairStatistics:
        return pair_statistics(corpus_of({pair: tokens[captions[pair]] for pair in ids}, references, ids))

    return {
        key: {seed: count(captions) for seed, captions in of_run.seeds.items()} for key, of_run in generated.items()
    }
