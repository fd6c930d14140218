"""Stage `graph`: the caption knowledge graph of the training captions, and its pretrained encoder (equations 13–16)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.cache.schema import Provenance
from pipeline.caption_graph.build import build
from pipeline.caption_graph.coverage import Coverage, coverage
from pipeline.caption_graph.extraction import (
    check_language,
    describe_engine,
    estimate_merging,
    make_extractor,
    make_session,
)
from pipeline.caption_graph.llm.merges import LLMMerger
from pipeline.caption_graph.llm.run import Estimate
from pipeline.caption_graph.llm.triples import LLMExtractor
from pipeline.caption_graph.merging import MergeMap, apply_merges, read_merges, write_merges
from pipeline.caption_graph.records import count_names
from pipeline.caption_graph.store import GRAPH, SCHEMA, TENSORS, edge_arrays, read_graph, write_graph, write_tensors
from pipeline.caption_graph.text_encoders import build_text_encoder, text_encoder_files
from pipeline.caption_graph.triples.records import Caption, captions_of, read_triples, write_triples
from pipeline.caption_graph.triples.tagging import pipeline_sha256
from pipeline.datasets.records import Prepared, Split, read_prepared
from pipeline.errors import DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import atomic_folder, content_key, read_json, sha256_file, write_json
from pipeline.graph_encoders.link_prediction import pretrain
from pipeline.graph_encoders.tensors import tensors_of
from pipeline.paths import Paths
from pipeline.progress import say, track
from pipeline.weights import save_tensors
from stages.code import stage_digest
from stages.settings import GraphSettings

TRIPLES, MERGES, ENCODER, METRICS = "triples.jsonl", "merges.yaml", "encoder.safetensors", "links.json"
OUTPUTS = (TRIPLES, MERGES, "graph.json", "graph.h5", ENCODER, METRICS)
"""What the stage writes into its folder."""


def run(settings: GraphSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Build the graph of the training captions and pretrain its encoder.

    Everything is computed on the CPU: the graph is small, and its bytes are then the same everywhere.

    Args:
        settings: Extraction, merging, k, node features, encoder, pretraining.
        paths: The prepared data set, and the stored answers of language models. Writes the folder `graph` as a whole:
            triples.jsonl (every statement, before merging), merges.yaml (names that were merged), graph.json, graph.h5
            (node features, edges), encoder.safetensors, links.json (link prediction).
        engine: Not used.

    Returns:
        `paths.graph`.

    Raises:
        DataError: The prepared data set is missing or damaged, has no training captions, its captions hold no triple,
            or none is frequent enough.
        SettingsError: The spaCy pipeline or the language model cannot be used.
        ServiceError: The language model's endpoint fails, or a text encoder cannot be fetched.
        CheckpointError: A text encoder is damaged.
        OutputError: The folder cannot be written, or holds other files.
    """
    del engine
    parts = settings.build
    overrides = _overrides(settings)
    data, captions = _training_captions(paths.prepared)
    check_language(captions, parts.extraction, where=paths.prepared)
    values, weights = settings.result_values(), weights_of(settings)
    with atomic_folder(paths.graph, replaces=(*OUTPUTS, ".gitignore")) as folder:
        say(f"graph: reading {len(captions):,} training captions")
        triples = make_extractor(parts.extraction, parts.llm, paths.answers).extract(captions)
        write_triples(folder / TRIPLES, triples)
        encoder = cache(build_text_encoder)  # the same one mostly proposes and describes
        proposer = None if parts.merge.by == "none" else encoder(parts.merge.text)
        decider = None
        if parts.merge.by == "llm":
            decider = LLMMerger(make_session(parts.extraction, parts.llm, paths.answers))
        built = build([t.key for t in triples], parts.min_count, parts.merge, overrides, proposer, decider)
        write_merges(folder / MERGES, built.merges)
        describer = encoder(parts.features)
        about = {
            "dataset": data.card.name,
            "pairs_sha256": data.card.pairs_sha256,
            **describe_engine(parts.extraction, parts.llm),
            "merged_by": parts.merge.by,
            "merge_model": parts.llm.model if parts.merge.by == "llm" else None,
            "features": describer.identity,
            "settings": values,
            "captions": len(captions),
            "captions_with_triples": len({(t.pair, t.sentence) for t in triples}),
            "statements": built.statements,
            "statements_kept": built.kept,
            "distinct_triples": built.distinct[0],
            "distinct_triples_merged": built.distinct[1],
        }
        write_graph(folder / GRAPH, built.graph, about)
        features = describer.encode([entity.name for entity in built.graph.entities])
        # Not `Provenance.of`: the settings are those that decide the result.
        provenance = Provenance(
            stage="graph",
            schema_version=SCHEMA.version,
            settings=values,
            settings_hash=content_key(values),
            code=stage_digest("graph"),
            weights=weights,
            upstream={"pairs.jsonl": data.card.pairs_sha256, GRAPH: sha256_file(folder / GRAPH)},
        )
        write_tensors(folder / TENSORS, built.graph, features, provenance)

        graph = tensors_of(edge_arrays(built.graph, features))
        with track("graph: pretraining the encoder", settings.pretraining.epochs) as bar:
            trained = pretrain(graph, settings.encoder, settings.pretraining, progress=bar.advance)
        card = {
            "encoder": settings.encoder.model_dump(mode="json"),
            "pretraining": settings.pretraining.model_dump(mode="json"),
            "graph_sha256": sha256_file(folder / GRAPH),
            "epoch": trained.epoch,
        }
        save_tensors(folder / ENCODER, trained.encoder.state_dict(), card)
        write_json(folder / METRICS, trained.values())
    return paths.graph


def weights_of(settings: GraphSettings) -> dict[str, str]:
    """Return the SHA-256 of the files of the text encoders and of the spaCy pipeline that the settings name, by name.

    Raises:
        CheckpointError: A text encoder is not on this machine.
        ServiceError: A text encoder must be fetched, and cannot be.
        SettingsError: The spaCy pipeline is not installed.
    """
    parts = settings.build
    encoders = {"features": parts.features} | ({} if parts.merge.by == "none" else {"merge": parts.merge.text})
    weights = {
        f"{use}/{name}": sha256
        for use, encoder in encoders.items()
        for name, sha256 in text_encoder_files(encoder).items()
    }
    rules = parts.extraction.rules
    if parts.extraction.engine == "rules" and rules.pipeline is not None:
        weights["spacy"] = pipeline_sha256(rules.pipeline)
    return weights


def summary(graph_folder: Path) -> list[str]:
    """Describe a graph folder in a few lines."""
    stored = read_graph(graph_folder)
    graph, about = stored.graph, stored.about
    engine = about["engine"] + (f" ({about['model']})" if about["model"] else "")
    links = read_json(graph_folder / METRICS)["test"]
    lines = [
        f"{len(graph.entities)} entities, {len(graph.relations)} relations, {len(graph.edges):,} triples "
        f"({about['statements_kept']:,} of {about['statements']:,} statements; {about['captions']:,} captions; "
        f"{engine})"
    ]
    lines.append(
        f"link prediction: MRR {links['mrr']:.3f}, hits@10 {links['hits_10']:.3f}"
        if links
        else "link prediction: too few triples to hold some out, so it is not measured"
    )
    return lines


def estimate(settings: GraphSettings, paths: Paths) -> Estimate | None:
    """Estimate the requests to a language model, without sending any; None where the settings use none.

    Where it extracts triples, its questions about names are left out: they depend on the triples.
    """
    parts = settings.build
    _, captions = _training_captions(paths.prepared)
    session = make_session(parts.extraction, parts.llm, paths.answers)
    if parts.extraction.engine == "llm":
        return LLMExtractor(session).estimate(captions)
    if parts.merge.by != "llm":
        return None

    triples = make_extractor(parts.extraction, parts.llm, paths.answers).extract(captions)
    encoder = build_text_encoder(parts.merge.text)
    statements = [triple.key for triple in triples]
    return estimate_merging(statements, parts.merge, _overrides(settings), encoder, LLMMerger(session))


def measure_coverage(settings: GraphSettings, paths: Paths, split: Split) -> Coverage:
    """Measure how far a built graph covers the captions of a split, read by the engine that the settings name.

    Raises:
        DataError: The graph or the prepared data set is missing or damaged, or the split has no captions.
    """
    stored, merges = read_graph(paths.graph).graph, read_merges(paths.graph / MERGES)
    statements = read_triples(paths.graph / TRIPLES)
    training = count_names(apply_merges((triple.key for triple in statements), merges))
    captions = captions_of(read_prepared(paths.prepared).split(split))
    if not captions:
        raise DataError(f"the split {split} has no captions", where=paths.prepared, fix="choose another with --split")
    parts = settings.build
    if split == "train":
        return coverage(stored, merges, training, captions, statements)
    triples = make_extractor(parts.extraction, parts.llm, paths.answers).extract(captions)
    return coverage(stored, merges, training, captions, triples)


def _overrides(settings: GraphSettings) -> MergeMap:
    path = settings.build.merge.overrides
    return MergeMap() if path is None else read_merges(path)


def _training_captions(prepared: Path) -> tuple[Prepared, list[Caption]]:
    data = read_prepared(prepared)
    captions = captions_of(data.split("train"))
    if not captions:
        raise DataError(
            "no training pair has a caption, so there is no graph",
            where=prepared,
            fix="look at audit.json and run `sagecc prepare`",
        )
    return data, captions
