"""One row of an experiment: its settings, where its run lies, and the run: train, caption, evaluate."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.config import Section, render_params, settings_hash
from pipeline.execution.settings import EngineSettings
from stages import caption, evaluate, graph, matches, paths, train

if TYPE_CHECKING:
    from pipeline.datasets.records import Prepared

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
    def train(self) -> train.TrainSettings:
        """The captioner, its training and the seeds."""
        return self.section("train", train.TrainSettings)

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
        from pipeline.errors import DataError
        from pipeline.files import read_json

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
        from pipeline.files import write_json, write_text

        plan, sources, folder, caches = self.plan, self.sources, self.folder, self.sources.caches
        write_text(folder / PARAMS, _params(plan))
        write_text(folder / REPEAT, self._commands())
        inputs = (sources.prepared, sources.scenes)
        train.run(plan.train, *inputs, folder / MODELS, engine=plan.engine, curves=folder / CURVES, **caches)
        self._keep_times()
        search = plan.section("caption", caption.CaptionSettings)
        caption.run(search, *inputs, folder / MODELS, folder / CAPTIONS, engine=plan.engine, explain=False, **caches)
        measure = plan.section("evaluate", evaluate.EvaluateSettings)
        where = (sources.prepared, folder / CAPTIONS, folder / METRICS, folder / PLOTS)
        evaluate.run(measure, *where, engine=plan.engine)
        write_json(folder / DONE, self._record())

    def seconds(self) -> dict[int, float]:
        """Return the training time of each seed; of none where it is not known of all."""
        from pipeline.errors import DataError
        from pipeline.files import read_json

        try:
            found = read_json(self.folder / TIMES)
            return {seed: float(found[str(seed)]) for seed in self.plan.train.seeds}
        except (DataError, KeyError, TypeError, ValueError):
            return {}

    def _keep_times(self) -> None:
        """Copy the times of the trainings, which lie with their states, into the run's folder."""
        from pipeline.files import write_json
        from pipeline.training.clock import SECONDS, read_seconds

        work = paths.training(self.training_key)
        known = {seed: read_seconds(work / f"seed-{seed}" / SECONDS) for seed in self.plan.train.seeds}
        if all(time is not None for time in known.values()):
            write_json(self.folder / TIMES, {str(seed): time for seed, time in known.items()})

    def _record(self) -> dict[str, object]:
        """Describe a finished run by the content of what it wrote."""
        from pipeline.files import sha256_file

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
    from pipeline.files import content_key
    from pipeline.training.evidence import EvidencePaths, open_evidence
    from pipeline.training.inputs import open_inputs
    from pipeline.training.seeds import training_key

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
    from pipeline.cache import Cache, Expectation
    from pipeline.errors import CacheError
    from pipeline.files import sha256_file
    from pipeline.vision.matching.cache import SCHEMA

    settings = plan.section("matches", matches.MatchesSettings)
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
    from pipeline.errors import DataError
    from pipeline.files import content_key
    from pipeline.language.graph.store import read_graph

    settings = plan.section("graph", graph.GraphSettings)
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
