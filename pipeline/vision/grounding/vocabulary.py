"""The words of the mini Grounding DINO, and the folder from which its tokenizer and BERT are built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.world.classes import OBJECT_CLASSES
from pipeline.files import write_json, write_text

PHRASES: Mapping[str, frozenset[str]] = {
    "building": frozenset({"house", "building"}),
    "house": frozenset({"house"}),
    "villa": frozenset({"house"}),
    "hall": frozenset({"building"}),
    "road": frozenset({"road"}),
    "street": frozenset({"road"}),
    "vegetation": frozenset({"tree", "woods"}),
    "tree": frozenset({"tree"}),
    "woods": frozenset({"woods"}),
    "forest": frozenset({"woods"}),
    "water": frozenset({"pond", "swimming pool"}),
    "pond": frozenset({"pond"}),
    "lake": frozenset({"pond"}),
    "swimming pool": frozenset({"swimming pool"}),
    "parking lot": frozenset({"parking lot"}),
    "playground": frozenset({"playground"}),
    "sports field": frozenset({"playground"}),
    # Words for what has no box, so that the model learns to answer nothing.
    "bareland": frozenset(),
    "grass": frozenset(),
    "bridge": frozenset(),
    "ship": frozenset(),
    "runway": frozenset(),
}
"""Phrases that the mini model is trained on, and the kinds of the synthetic world's objects that each one means."""

KINDS = tuple(OBJECT_CLASSES)
"""Kinds of objects in the order of their indices."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?")


def write_text_encoder(folder: Path) -> Path:
    """Write vocab.txt and config.json of the mini BERT, in the layout of a transformers model folder.

    Returns:
        `folder`.
    """
    words = dict.fromkeys(word for phrase in PHRASES for word in phrase.split())
    vocabulary = [*_SPECIAL, *words]
    write_text(folder / "vocab.txt", "".join(f"{word}\n" for word in vocabulary))
    write_json(
        folder / "config.json",
        {
            "model_type": "bert",
            "vocab_size": len(vocabulary),
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 192,
            "max_position_embeddings": 256,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    )
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    return folder
