"""The words of the mini Grounding DINO, and the folder from which its tokenizer and BERT are built.

Prompts as the user writes them: categories of phrases.

Prompts as Grounding DINO reads them: one caption of phrases, and which tokens stand for which category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, BertConfig, BertTokenizerFast, PreTrainedTokenizerBase

from pipeline.checkpoints import CHECKPOINTS
from pipeline.datasets.world.settings import OBJECT_CLASSES
from pipeline.errors import CheckpointError, SettingsError, first_line
from pipeline.files import write_json, write_text
from pipeline.vision.grounding.settings import Category

MAX_TOKENS = 256
"""Tokens that a Grounding DINO reads."""


_PROMPTS = "semantics.grounding.prompts"
_FETCH = (
    "run `sagecc checkpoints fetch bert-base-uncased` and set semantics.grounding.text_encoder to "
    f"{CHECKPOINTS['bert-base-uncased'].path.parent}; the mini model's is artifacts/pretrained/grounding-dino-mini"
)


def load_text_encoder(folder: str) -> tuple[PreTrainedTokenizerBase, BertConfig]:
    """Read tokenizer and configuration of a BERT from a folder; nothing is looked for on the network.

    Args:
        folder: It holds config.json and vocab.txt, and may hold more of the tokenizer's files.

    Raises:
        CheckpointError: The folder is missing, incomplete, damaged, or another kind of model's.
    """
    if not Path(folder).is_dir():
        raise CheckpointError("the text encoder is not a folder on this machine", where=folder, fix=_FETCH)
    absent = [file for file in ("config.json", "vocab.txt") if not (Path(folder) / file).is_file()]
    if absent:
        raise CheckpointError(f"the text encoder's folder lacks {' and '.join(absent)}", where=folder, fix=_FETCH)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers lets errors of many kinds through, and tokenizers bare ones
        raise CheckpointError(
            f"the text encoder cannot be read ({first_line(error)})", where=folder, fix=_FETCH
        ) from error
    if not isinstance(config, BertConfig):
        raise CheckpointError(f"the text encoder is a {config.model_type}, not a BERT", where=folder, fix=_FETCH)
    return tokenizer, config


@dataclass(frozen=True)
class Caption:
    """Phrases as one text.

    Attributes:
        text: "building . house . road ."
        phrases: Its phrases, in order.
        tokens: (P, T) bool: which of the caption's tokens, [CLS] first, belong to which phrase.
    """

    text: str
    phrases: tuple[str, ...]
    tokens: Tensor


def compose(tokenizer: PreTrainedTokenizerBase, phrases: Sequence[str]) -> Caption:
    """Join phrases into a caption.

    Raises:
        SettingsError: A phrase tokenises to nothing or to what the encoder does not know, or all are too long.
    """
    pieces = [tokenizer.encode(phrase, add_special_tokens=False) for phrase in phrases]
    for phrase, piece in zip(phrases, pieces, strict=True):
        if not piece:
            raise SettingsError(
                f"the text encoder sees nothing in the phrase {phrase!r}",
                where=_PROMPTS,
                fix="write it in letters, or take it out",
            )
        if tokenizer.unk_token_id in piece:
            raise SettingsError(
                f"the text encoder does not know every word of the phrase {phrase!r}",
                where=_PROMPTS,
                fix="use other words (the mini model's are in its vocab.txt)",
            )
    # [CLS], the phrases with a full stop after each, [SEP].
    length = 2 + sum(len(piece) + 1 for piece in pieces)
    if length > MAX_TOKENS:
        raise SettingsError(
            f"the prompts make {length} tokens, Grounding DINO reads {MAX_TOKENS}", where=_PROMPTS, fix="use fewer"
        )
    tokens = torch.zeros(len(phrases), length, dtype=torch.bool)
    start = 1
    for row, piece in enumerate(pieces):
        tokens[row, start : start + len(piece)] = True
        start += len(piece) + 1
    return Caption(" . ".join(phrases) + " .", tuple(phrases), tokens)


def category_tokens(tokenizer: PreTrainedTokenizerBase, categories: Sequence[Category]) -> tuple[Caption, Tensor]:
    """Return the caption of all categories' phrases and (K, T) bool: which tokens stand for which category.

    Raises:
        SettingsError: See `compose`.
    """
    caption = compose(tokenizer, [phrase for category in categories for phrase in category.phrases])
    owners = torch.tensor([k for k, category in enumerate(categories) for _ in category.phrases])
    rows = [caption.tokens[owners == k].any(0) for k in range(len(categories))]
    return caption, torch.stack(rows)


def phrase_attention(ids: Tensor, real: Tensor, dividers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Let every phrase of captions see itself only, counted from its own beginning (sub-sentence representation).

    What groundingdino computes token by token, for captions that end with a full stop.

    Args:
        ids: (B, T) token numbers.
        real: (B, T) bool, false where a caption is padded.
        dividers: Numbers of the tokens that end a phrase.

    Returns:
        (B, T, T) bool: which token sees which; (B, T) int64: positions.
    """
    ends = torch.isin(ids, torch.tensor(dividers, device=ids.device)).long()
    phrase = ends.cumsum(1) - ends
    same = (phrase[:, :, None] == phrase[:, None, :]) & real[:, :, None] & real[:, None, :]
    steps = torch.arange(ids.shape[1], device=ids.device)
    first = F.one_hot(phrase, ids.shape[1]).bool()
    beginning = torch.where(first, steps[None, :, None], ids.shape[1]).amin(1).gather(1, phrase)
    return same | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device), (steps - beginning) * real


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
