"""Stage `evaluate`: scores of the captions, beside trivial rows, into metrics.json and plots (section 4.1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.datasets.no_change import ChangeRule
from pipeline.datasets.records import read_prepared
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.evaluation.java import VERSION, find_java
from pipeline.evaluation.output import (
    check_pairs,
    choose_examples,
    draw_examples,
    draw_scores,
    left_out_note,
    markdown,
    read_captions,
    score_table,
)
from pipeline.evaluation.report import evaluate
from pipeline.execution.settings import EngineSettings
from pipeline.files import write_json, write_text
from pipeline.paths import Paths
from pipeline.progress import say
from stages.settings import EvaluateSettings


def run(settings: EvaluateSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Score the captions of every seed on all, changed and unchanged pairs.

    Pairs that a stage skipped have no captions; they are left out, and a note says how many.

    Args:
        settings: What is measured.
        paths: The prepared data set, and the folder `captions`: `seed-<n>.json` and `provenance.json`. Writes the JSON
            file `metrics`: family → subset → row → metric, all times 100; `change_flag`, `seeds`, `pairs` and
            `intervals` (of the model's words on changed pairs, over resamples of them); and `about`, a list with one
            object of text (`left_out`: ids of the skipped pairs), which `dvc metrics` leaves out. Writes into the
            folder `plots`: `table.md`, `scores.csv`, `scores.png` and, where there are images, `examples.png`.
        engine: How to run; scoring takes this process and one of Java.

    Returns:
        `paths.metrics`.

    Raises:
        DataError: The captions are missing or damaged, not those of the prepared pairs, or there are no references.
        ServiceError: The chosen Java does not run, or Java failed.
    """
    data = read_prepared(paths.prepared)
    generated = read_captions(paths.captions)
    of_split = data.split(generated.split)
    check_pairs(generated, (pair.id for pair in of_split), paths.captions)
    pairs = [pair for pair in of_split if pair.id not in generated.left_out]
    vocabulary = Vocabulary.load(data.vocabulary_path)
    java = find_java(settings.java)
    report = evaluate(
        generated.seeds,
        pairs,
        data.split("train"),
        java=java,
        meteor=settings.meteor != "never",
        vocabulary=vocabulary if settings.ids else None,
        candidates=settings.constant_candidates,
        resamples=settings.resamples,
        token_rule=vocabulary.settings.tokens,
        change_rule=ChangeRule(data.card.no_change),
    )
    if (note := left_out_note(generated, len(of_split))) is not None:
        say(f"evaluate: {note}")
        report = replace(report, notes=[note, *report.notes])
    about = {
        "dataset": data.card.name,
        "split": generated.split,
        "seeds": list(generated.seeds),
        "left_out": list(generated.left_out),
        "tokenizer": "sagecc" if java is None else "Stanford PTBTokenizer 3.4.1",
        "meteor": None if java is None or settings.meteor == "never" else VERSION,
        "constants": dict(report.constants),
        "notes": list(report.notes),
    }
    write_text(paths.plots / "table.md", markdown(report))
    write_text(paths.plots / "scores.csv", score_table(report))
    draw_scores(report, paths.plots / "scores.png")
    if settings.examples and data.card.images:
        chosen = choose_examples(pairs, settings.examples)
        draw_examples(chosen, generated.seeds[min(generated.seeds)], data.root, paths.plots / "examples.png")
    return write_json(
        paths.metrics,
        {
            **report.scores,
            "change_flag": report.change_flag,
            "seeds": report.seeds,
            "pairs": report.pairs,
            "intervals": {"changed": {metric: one.as_dict() for metric, one in report.intervals.items()}},
            "about": [about],
        },
    )


def summary(plots: Path) -> str:
    """Return what table.md says of words on changed and on all pairs, for the terminal."""
    sections = (plots / "table.md").read_text(encoding="utf-8").split("\n## ")
    chosen = [section for section in sections if section.startswith(("Words: changed", "Words: all", "“Changed”"))]
    return "\n".join(section.rstrip() + "\n" for section in chosen) + f"\nmore in {plots / 'table.md'}"
