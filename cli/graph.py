"""`sagecc graph`: the caption knowledge graph: build it, look at it, export it, extract triples from any text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import PARAMS, PATHS, Params, Prepared, Set, Settings, out_file, out_folder, project_paths, tell
from cli.project import ProjectTyper
from pipeline.targets import is_stdout

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.caption_graph.llm.run import Estimate

app = ProjectTyper(invoke_without_command=True)
Graph = Annotated[Path, typer.Option("--graph", help="Folder that `sagecc graph` wrote.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only tell what a language model would be asked, and at what cost.")
]


@app.callback()
def build(
    context: typer.Context,
    params: Params = PARAMS,
    changes: Set = None,
    prepared: Prepared = PATHS.prepared,
    out: Annotated[Path, out_folder("Folder to write.")] = PATHS.graph,
    dry_run: DryRun = False,
) -> None:
    """Build the graph of the training captions and pretrain its encoder; with a command, look at it instead.

    Example: sagecc graph --set graph.build.min_count=30
    """
    if context.invoked_subcommand is not None:
        return
    from stages import graph as stage

    settings = Settings(params, changes)
    section = settings.graph
    paths = project_paths(prepared=prepared, graph=out)
    if dry_run:
        _tell(stage.estimate(section, paths))
        return
    typer.echo(f"wrote {stage.run(section, paths, engine=settings.engine)}")
    for line in stage.summary(out):
        typer.echo(line)


@app.command(short_help="Top entities and relations; a picture of the graph.")
def show(
    graph: Graph = PATHS.graph,
    top: Annotated[int, typer.Option("--top", min=1, help="Entities and relations to list.")] = 20,
    out: Annotated[Path | None, out_file("Picture to draw as well: .svg, .png or .pdf")] = None,
    entities: Annotated[int, typer.Option("--entities", min=1, max=200, help="Entities in the picture.")] = 30,
) -> None:
    """List the most frequent entities and relations, and draw the graph.

    The entity `scene` stands where a caption names no second one.

    Example: sagecc graph show --out graph.svg
    """
    from rich.console import Console

    from pipeline.caption_graph.store import read_graph
    from stages import graph as stage

    stored = read_graph(graph).graph
    if out is not None:
        from pipeline.caption_graph.drawing import draw_graph

        draw_graph(stored, out, entities=entities)
    for line in stage.summary(graph):
        tell(line, out=out)
    console = Console(stderr=is_stdout(out))
    table = _table("entities", "entity", "stated", "also")
    for entity in stored.entities[:top]:
        table.add_row(entity.name, f"{entity.count:,}", ", ".join(n for n in entity.names if n != entity.name))
    console.print(table)
    table = _table("relations", "relation", "family", "stated", "also")
    for relation in stored.relations[:top]:
        also = ", ".join(name for name in relation.names if name != relation.name)
        table.add_row(relation.name, relation.family, f"{relation.count:,}", also)
    console.print(table)
    if out is not None:
        tell(f"wrote {out}", out=out)


@app.command(short_help="What is stated most often about an entity.")
def neighbours(
    entity: Annotated[str, typer.Argument(help="An entity, such as road; merged and plural names are found too.")],
    graph: Graph = PATHS.graph,
    top: Annotated[int, typer.Option("--top", min=1, help="Triples to list in each direction.")] = 20,
) -> None:
    """List what is stated most often about an entity, as head and as tail.

    Example: sagecc graph neighbours road
    """
    from rich.console import Console

    from pipeline.caption_graph.coverage import find_entity
    from pipeline.caption_graph.store import read_graph

    stored = read_graph(graph).graph
    node = find_entity(stored, entity)
    for role, edges in (
        ("head", [edge for edge in stored.edges if edge.head == node]),
        ("tail", [edge for edge in stored.edges if edge.tail == node]),
    ):
        shown = sorted(edges, key=lambda edge: (-edge.count, edge))[:top]
        size = f"{len(edges)}" if len(shown) == len(edges) else f"{len(shown)} of {len(edges)}"
        table = _table(f"{stored.entities[node].name} as {role}: {size}", "head", "relation", "tail", "stated")
        for edge in shown:
            table.add_row(*stored.key(edge), f"{edge.count:,}")
        Console().print(table)


@app.command(short_help="The graph as GraphML or JSON-LD.")
def export(
    out: Annotated[Path, out_file("File to write")],
    graph: Graph = PATHS.graph,
    form: Annotated[
        Literal["graphml", "jsonld"] | None, typer.Option("--format", help="Its form [default: as the name ends].")
    ] = None,
) -> None:
    """Write the graph as GraphML (Gephi, Cytoscape, networkx) or JSON-LD (RDF tools).

    Example: sagecc graph export --out graph.graphml
    """
    from pipeline.caption_graph.drawing import export_graph
    from pipeline.caption_graph.store import read_graph

    tell(f"wrote {export_graph(read_graph(graph).graph, out, form)}", out=out)


@app.command(short_help="The triples of any captions, without a data set.")
def extract(
    file: Annotated[Path, typer.Argument(help="One caption a line, or a caption file of a data set (.json).")],
    out: Annotated[Path, out_file("triples.jsonl to write")],
    engine: Annotated[
        Literal["rules", "llm"] | None, typer.Option("--engine", help="How [default: as the settings say].")
    ] = None,
    params: Params = PARAMS,
    changes: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Extract the triples of any captions, without a data set.

    Example: sagecc graph extract captions.txt --engine rules --out triples.jsonl
    """
    from pipeline.caption_graph.extraction import check_language, make_extractor, read_text_captions
    from pipeline.caption_graph.triples.records import write_triples

    section = Settings(params, changes, optional=True).graph
    extraction = section.build.extraction
    if engine is not None:
        extraction = extraction.model_copy(update={"engine": engine})
    captions = read_text_captions(file)
    check_language(captions, extraction, where=file)
    extractor = make_extractor(extraction, section.build.llm, PATHS.answers)
    if dry_run:
        from pipeline.caption_graph.llm.triples import LLMExtractor

        _tell(extractor.estimate(captions) if isinstance(extractor, LLMExtractor) else None)
        return
    triples = extractor.extract(captions)
    with_triples = len({(triple.pair, triple.sentence) for triple in triples})
    tell(f"wrote {write_triples(out, triples)}", out=out)
    count = "1 triple" if len(triples) == 1 else f"{len(triples):,} triples"
    tell(f"{count} from {with_triples:,} of {len(captions):,} captions ({extractor.name})", out=out)


@app.command(short_help="How much of what captions say the graph knows.")
def coverage(
    graph: Graph = PATHS.graph,
    prepared: Prepared = PATHS.prepared,
    split: Annotated[Literal["train", "val", "test"], typer.Option("--split", help="Whose captions.")] = "val",
    out: Annotated[Path | None, out_file("JSON to write as well")] = None,
    params: Params = PARAMS,
    changes: Set = None,
) -> None:
    """Tell how much of what captions say the graph knows: captions, entities and relations, by frequency.

    Example: sagecc graph coverage --split val
    """
    from rich.console import Console

    from pipeline.caption_graph.coverage import coverage_tables
    from pipeline.files import write_json
    from stages import graph as stage

    section = Settings(params, changes).graph
    measured = stage.measure_coverage(section, project_paths(prepared=prepared, graph=graph), split)
    for table in coverage_tables(measured, split):
        Console(stderr=is_stdout(out)).print(table)
    if out is not None:
        tell(f"wrote {write_json(out, measured.values())}", out=out)


def _table(title: str, *headings: str) -> Table:
    """Return a table whose counts stand below one another."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading == "stated" else "left")
    return table


def _tell(estimate: Estimate | None) -> None:
    if estimate is None:
        typer.echo("the rules ask nothing and cost nothing")
        return
    cost = (
        "unknown (set graph.build.llm.prices)" if estimate.cost is None else f"{estimate.cost:.2f} {estimate.currency}"
    )
    typer.echo(
        f"distinct {estimate.what} to ask: {estimate.items:,}, answered already: {estimate.stored:,}; requests: "
        f"{estimate.requests:,}, about {estimate.prompt_tokens:,} tokens to send and {estimate.answer_tokens:,} to "
        f"receive; cost: {cost}"
    )
