"""`sagecc experiment`: the rows of a table, each trained, captioned and scored, and the table that compares them.

One row of an experiment: its settings, where its run lies, and the run: train, caption, evaluate.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import OutOfMemoryError

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation
from pipeline.caption_graph.store import read_graph
from pipeline.config import Section, parse_section, render_params, settings_hash, with_overrides
from pipeline.datasets.records import Prepared, read_prepared
from pipeline.errors import CacheError, DataError, SageccError, SettingsError
from pipeline.evaluation.bootstrap import PairStatistics, compare, pair_statistics
from pipeline.evaluation.java import find_java
from pipeline.evaluation.output import read_captions
from pipeline.evaluation.scores import corpus_of, tokenize
from pipeline.execution.settings import EngineSettings
from pipeline.experiments.rows import Experiment
from pipeline.experiments.table import Results, RowResult, draw_rows, markdown
from pipeline.files import content_key, read_json, sha256_file, write_json, write_text
from pipeline.progress import say
from pipeline.training.distributed import Interrupted
from pipeline.training.inputs import open_inputs
from pipeline.training.region_inputs import EvidencePaths, open_evidence
from pipeline.training.run import SECONDS, read_seconds, training_key
from pipeline.vision.matching.cache import SCHEMA
from stages import caption, evaluate, graph, matches, paths, train
from stages.settings import SECTIONS, CaptionSettings, EvaluateSettings, GraphSettings, MatchesSettings, TrainSettings

PARAMS, REPEAT, DONE, TIMES = "params.yaml", "repeat.sh", "run.json", "times.json"
MODELS, CURVES, CAPTIONS, METRICS, PLOTS = "models", "curves", "captions", "metrics.json", "plots"
INPUTS = "inputs"
"""Folder of the matches and graphs that rows needed for themselves, beside the runs."""

SectionT = TypeVar("SectionT", bound=Section)
_VERSION = 1  # rises whenever the same settings would give another run


@dataclass(frozen=True)
class Sources:
    """What the stages before the training wrote."""

    prepared: Path = paths.PREPARED
    scenes: Path = paths.SCENES
    regions: Path = paths.REGIONS
    matches: Path = paths.MATCHES
    semantics: Path = paths.SEMANTICS
    graph: Path = paths.GRAPH

    @property
    def caches(self) -> dict[str, Path]:
        """What is read where the captioner's fusion takes it, by stage."""
        return {"regions": self.regions, "matches": self.matches, "semantics": self.semantics, "graph": self.graph}


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
        found = self.sections[name]
        if not isinstance(found, kind):
            raise TypeError(f"section {name} is no {kind.__name__}")
        return found

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
        sources: What the stages wrote, with the row's own matches and graph where it needs them.
        key: Content key of everything that decides the result.
        training_key: That of the training alone.
        folder: Where everything of the run lies.
    """

    plan: Plan
    sources: Sources
    key: str
    training_key: str
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether it was finished, and its captions and scores are still what they were."""
        try:
            found = read_json(self.folder / DONE)
            return bool(found == self._record())
        except (DataError, OSError):
            return False

    def execute(self) -> None:
        """Train, caption and evaluate; what an earlier, unfinished run has left is not done again.

        Raises:
            SageccError: A stage refuses or fails; see there.
        """
        plan, sources, folder, caches = self.plan, self.sources, self.folder, self.sources.caches
        write_text(folder / PARAMS, _params(plan))
        write_text(folder / REPEAT, self._commands())
        inputs = (sources.prepared, sources.scenes)
        train.run(plan.train, *inputs, folder / MODELS, engine=plan.engine, curves=folder / CURVES, **caches)
        self._keep_times()
        search = plan.section("caption", CaptionSettings)
        caption.run(search, *inputs, folder / MODELS, folder / CAPTIONS, engine=plan.engine, explain=False, **caches)
        measure = plan.section("evaluate", EvaluateSettings)
        where = (sources.prepared, folder / CAPTIONS, folder / METRICS, folder / PLOTS)
        evaluate.run(measure, *where, engine=plan.engine)
        write_json(folder / DONE, self._record())

    def seconds(self) -> dict[int, float]:
        """Return the training time of each seed; of none where it is not known of all."""
        try:
            found = read_json(self.folder / TIMES)
            return {seed: float(found[str(seed)]) for seed in self.plan.train.seeds}
        except (DataError, KeyError, TypeError, ValueError):
            return {}

    def _keep_times(self) -> None:
        """Copy the times of the trainings, which lie with their states, into the run's folder."""
        work = paths.training(self.training_key)
        known = {seed: read_seconds(work / f"seed-{seed}" / SECONDS) for seed in self.plan.train.seeds}
        if all(time is not None for time in known.values()):
            write_json(self.folder / TIMES, {str(seed): time for seed, time in known.items()})

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
        kept = {name: shlex.quote(str(path)) for name, path in vars(self.sources).items()}
        scenes = {name: kept[name] for name in ("prepared", "scenes")}
        lines = []

        def add(stage: str, inputs: Mapping[str, str], **outputs: str) -> None:
            known = {"params": shlex.quote(str(self.folder / PARAMS)), **inputs}
            made = {option: f'"$out/{name}"' for option, name in outputs.items()}
            options = " ".join(f"--{option} {word}" for option, word in (known | made).items())
            lines.append(f"sagecc {stage} {options}\n")

        if self.sources.matches.is_relative_to(own):
            add("matches", {"regions": kept["regions"]}, out="matches.h5")
            kept["matches"] = '"$out/matches.h5"'
        if self.sources.graph.is_relative_to(own):
            add("graph", {"prepared": kept["prepared"]}, out="graph")
            kept["graph"] = '"$out/graph"'
        caches = {name: kept[name] for name in self.sources.caches}
        add("train", scenes | caches, out=MODELS, curves=CURVES)
        add("caption", scenes | caches, models=MODELS, out=CAPTIONS)
        add("evaluate", {"prepared": kept["prepared"]}, captions=CAPTIONS, out=METRICS, plots=PLOTS)
        return _REPEAT + "".join(lines)


_REPEAT = """\
#!/bin/sh
# Makes this run again: sh repeat.sh FOLDER, from the project's folder. `sagecc clean train` first, or models that are
# trained already are taken for it.
set -e
out=${1:?a folder to write}
mkdir -p "$out"
"""


def locate(plan: Plan, sources: Sources, output: Path, *, build: bool) -> Run | None:
    """Find where the run of a row lies.

    Matches and graph that were made with other settings than the row's are made for it, under `output`/inputs.

    Args:
        plan: The row.
        sources: What the stages wrote.
        output: Folder of the experiment.
        build: Whether matches and graph may be made.

    Returns:
        None where something would have to be made first, and `build` is false.

    Raises:
        SageccError: An input is missing or damaged, or cannot be made.
    """
    settings = plan.train
    inputs = open_inputs(sources.prepared, sources.scenes)
    taken = settings.captioner.evidence
    if settings.captioner.fusion != "none":
        if taken.motion:
            found = _matches(plan, sources, output / INPUTS, build=build)
            if found is None:
                return None
            sources = replace(sources, matches=found)
        if taken.graph:
            found = _graph(plan, sources, inputs.data, output / INPUTS, build=build)
            if found is None:
                return None
            sources = replace(sources, graph=found)
    evidence = open_evidence(settings.captioner, EvidencePaths(**sources.caches), inputs.data, training=True)
    trained = training_key(settings, inputs, evidence)
    searched, measured = (settings_hash(plan.sections[name]) for name in ("caption", "evaluate"))
    key = content_key(_VERSION, trained, list(settings.seeds), searched, measured)
    return Run(plan, sources, key, trained, output / key[:16])


def _matches(plan: Plan, sources: Sources, folder: Path, *, build: bool) -> Path | None:

    settings = plan.section("matches", MatchesSettings)
    if not sources.regions.is_file():
        return sources.matches  # who reads both says what is missing
    expect = Expectation(settings_hash=settings_hash(settings), upstream={"regions.h5": sha256_file(sources.regions)})

    def fits(path: Path) -> bool:
        try:
            Cache.open(path, SCHEMA, expect=expect)
        except CacheError:
            return False
        return True

    own = folder / f"matches-{settings_hash(settings)[:16]}.h5"
    if fits(sources.matches):
        return sources.matches
    if build:
        return matches.run(settings, sources.regions, own, engine=plan.engine)
    return own if fits(own) else None


def _graph(plan: Plan, sources: Sources, data: Prepared, folder: Path, *, build: bool) -> Path | None:

    settings = plan.section("graph", GraphSettings)
    values = settings.result_values()

    def fits(path: Path) -> bool:
        try:
            about = read_graph(path).about
        except DataError:
            return False
        return (about.get("settings"), about.get("pairs_sha256")) == (values, data.card.pairs_sha256)

    own = folder / f"graph-{content_key(values, data.card.pairs_sha256)[:16]}"
    for path in (sources.graph, own):
        if fits(path):
            return path
    return graph.run(settings, sources.prepared, own, engine=plan.engine) if build else None


def _params(plan: Plan) -> str:
    heading = (
        "Settings of one run of an experiment; beside it lie the commands that make it again, its models, captions and "
        "scores."
    )
    # Those of the mini models' trainings have no part in it.
    return render_params({name: found for name, found in plan.sections.items() if name != "pretrain"}, heading=heading)


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
