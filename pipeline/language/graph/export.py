"""The graph in the formats of other programs: GraphML and JSON-LD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from pipeline.errors import OutputError
from pipeline.files import write_text
from pipeline.language.graph.records import CaptionGraph

_KEYS: Final = (
    ("name", "node", "string"),
    ("count", "node", "long"),
    ("relation", "edge", "string"),
    ("family", "edge", "string"),
    ("stated", "edge", "long"),
)
_VOCABULARY: Final = "urn:sagecc:"


def export_graph(graph: CaptionGraph, path: Path, form: str | None = None) -> Path:
    """Write the graph in `form`, "graphml" or "jsonld"; None: as the file's name ends.

    Raises:
        OutputError: The name ends otherwise and no form is given, or the file cannot be written.
    """
    form = form or {".graphml": "graphml", ".jsonld": "jsonld"}.get(path.suffix.lower())
    if form is None:
        raise OutputError(
            "which form shall the file have?", where=path, fix="end its name with .graphml or .jsonld, or give --format"
        )
    return export_graphml(graph, path) if form == "graphml" else export_jsonld(graph, path)


def export_graphml(graph: CaptionGraph, path: Path) -> Path:
    """Write GraphML: a directed multigraph; nodes with name and count, edges with relation, family and count."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        *(
            f'  <key id="{domain}-{name}" for="{domain}" attr.name="{name}" attr.type="{kind}"/>'
            for name, domain, kind in _KEYS
        ),
        '  <graph id="captions" edgedefault="directed">',
    ]
    for number, entity in enumerate(graph.entities):
        lines.append(f"    <node id={quoteattr(f'n{number}')}>")
        lines += _data("node", {"name": entity.name, "count": entity.count})
        lines.append("    </node>")
    for number, edge in enumerate(graph.edges):
        relation = graph.relations[edge.relation]
        lines.append(f'    <edge id="e{number}" source="n{edge.head}" target="n{edge.tail}">')
        lines += _data("edge", {"relation": relation.name, "family": relation.family, "stated": edge.count})
        lines.append("    </edge>")
    return write_text(path, "\n".join([*lines, "  </graph>", "</graphml>", ""]))


def export_jsonld(graph: CaptionGraph, path: Path) -> Path:
    """Write JSON-LD: every entity with its outgoing relations, and every triple once more with its count."""
    links: list[dict[str, list[dict[str, str]]]] = [{} for _ in graph.entities]
    for edge in graph.edges:
        relation = f"relation:{quote(graph.relations[edge.relation].name)}"
        links[edge.head].setdefault(relation, []).append({"@id": _entity(graph, edge.tail)})
    nodes: list[dict[str, Any]] = [
        {"@id": _entity(graph, number), "@type": "Entity", "name": entity.name, "count": entity.count, **links[number]}
        for number, entity in enumerate(graph.entities)
    ]
    relations = [
        {"@id": f"relation:{quote(r.name)}", "@type": "Relation", "name": r.name, "family": r.family, "count": r.count}
        for r in graph.relations
    ]
    statements = [
        {
            "@type": "Statement",
            "head": _entity(graph, edge.head),
            "predicate": f"relation:{quote(graph.relations[edge.relation].name)}",
            "tail": _entity(graph, edge.tail),
            "count": edge.count,
        }
        for edge in graph.edges
    ]
    reference = {"@type": "@id"}
    context = {
        "@vocab": _VOCABULARY,
        "entity": f"{_VOCABULARY}entity/",
        "relation": f"{_VOCABULARY}relation/",
        "head": reference,
        "predicate": reference,
        "tail": reference,
    }
    document = {"@context": context, "@graph": [*nodes, *relations, *statements]}
    return write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _entity(graph: CaptionGraph, number: int) -> str:
    return f"entity:{quote(graph.entities[number].name)}"


def _data(domain: str, values: dict[str, object]) -> list[str]:
    return [f'      <data key="{domain}-{name}">{escape(str(value))}</data>' for name, value in values.items()]
