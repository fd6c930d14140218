"""The real captions that the benchmarks of the caption graph read, and graphs of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.caption_graph.build import Built, build
from pipeline.caption_graph.merging import MergeMap
from pipeline.caption_graph.settings import MergeSettings
from pipeline.caption_graph.store import edge_arrays
from pipeline.caption_graph.text_encoders import TextEncoder, TextEncoderSettings, build_text_encoder
from pipeline.caption_graph.triples.records import Caption
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.datasets.caption_files import read_captions
from pipeline.errors import DataError
from pipeline.graph_encoders.tensors import GraphTensors, tensors_of

_ROOT: Final = Path(__file__).parents[1]
_DATA: Final = _ROOT / os.environ.get("SAGECC_REFERENCE_DATA", "../shared/data")

LEVIR: Final = (_DATA / "levir_cc" / "LevirCCcaptions.json",)
DUBAI: Final = tuple(_DATA / "dubai_cc" / f"{split}_Dubai_CC.json" for split in ("Train", "Validation"))
LABELS: Final = _ROOT / "tests" / "caption_graph" / "triples" / "labels_levir_cc.jsonl"


def present(files: Sequence[Path]) -> bool:
    """Tell whether all files are there."""
    return all(file.is_file() for file in files)


def need(files: Sequence[Path]) -> None:
    """Raise `DataError` where a file is missing."""
    for file in files:
        if not file.is_file():
            raise DataError(
                "no reference captions",
                where=file,
                fix="name caption files with --captions, or set SAGECC_REFERENCE_DATA to the folder of the data sets",
            )


def real_captions(files: Sequence[Path], split: str | None = None) -> list[Caption]:
    """Read the captions of data sets' caption files, of one split or all."""
    need(files)
    return [
        Caption(pair=entry.stem, sentence=number, text=text)
        for file in files
        for entry in read_captions(file)
        if split is None or entry.split == split
        for number, text in enumerate(entry.captions)
    ]


class GraphMaker:
    """Builds the graphs of some captions at any k, with the default settings but for k.

    Args:
        captions: Those of the training split.
    """

    def __init__(self, captions: Sequence[Caption]) -> None:
        self._statements = [triple.key for triple in RulesExtractor().extract(captions)]
        self._encoder: TextEncoder = build_text_encoder(TextEncoderSettings())

    def build(self, min_count: int) -> Built:
        """Merge, filter and number."""
        return build(self._statements, min_count, MergeSettings(), MergeMap(), self._encoder)

    def tensors(self, min_count: int) -> GraphTensors:
        """Return the graph as the graph encoders read it."""
        graph = self.build(min_count).graph
        return tensors_of(edge_arrays(graph, self._encoder.encode([entity.name for entity in graph.entities])))


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the command line that these benchmarks share."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m benchmarks {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--quick", action="store_true", help="less of the same, within a minute on two cores")
    return arguments


def skipped(error: DataError) -> int:
    """Say why nothing is measured; that is no failure."""
    print(f"skipped: {error}", file=sys.stderr)
    return 0


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines)
