"""Draws the captions that labels_levir_cc.jsonl labels: `python -m tests.caption_graph.triples.sample_captions FILE`.

Distinct changed captions of the training split, 32 from each of five strata of length, every other one for tuning
("dev") and the rest for the final figure ("final"). The draw is seeded and knows nothing of any engine.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Final

from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.no_change import implies_change
from pipeline.datasets.vocabulary import tokenize

_SEED: Final = 20
_PER_STRATUM: Final = 32
_STRATA: Final = 5


def stratum(caption: str) -> int:
    """Return 1 for up to 8 words, then one more per four words, 5 from 21 words on."""
    return min(max((len(tokenize(caption)) - 1) // 4, 1), _STRATA)


def draw(captions: Path) -> list[dict[str, object]]:
    """Return pair, sentence and part of each drawn caption."""
    first: dict[str, tuple[str, int]] = {}
    for entry in read_captions(captions):
        if entry.split == "train":
            for number, text in enumerate(entry.captions):
                if implies_change(text):
                    first.setdefault(text, (entry.stem, number))
    strata: dict[int, list[tuple[str, int]]] = {number: [] for number in range(1, _STRATA + 1)}
    for text, key in first.items():
        strata[stratum(text)].append(key)
    rng = random.Random(_SEED)
    return [
        {"pair": pair, "sentence": sentence, "part": "final" if position % 2 else "dev"}
        for keys in strata.values()
        for position, (pair, sentence) in enumerate(rng.sample(sorted(keys), _PER_STRATUM))
    ]


if __name__ == "__main__":
    for drawn in draw(Path(sys.argv[1])):
        print(json.dumps(drawn))
