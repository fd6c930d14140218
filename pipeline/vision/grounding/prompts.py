"""Prompts as Grounding DINO reads them: a text encoder, captions of phrases, and the mini model's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, BertConfig, BertTokenizerFast, PreTrainedTokenizerBase

from pipeline.checkpoints import CHECKPOINTS, shipped
from pipeline.datasets.world.settings import OBJECT_CLASSES
from pipeline.errors import CheckpointError, SettingsError, first_line
from pipeline.files import write_json, write_text
from pipeline.vision.grounding.settings import Category

MAX_TOKENS: Final = 256
"""Longest caption in tokens that Grounding DINO can read."""

_SETTING: Final = "semantics.grounding.prompts"
_FETCH: Final = (
    "run `sagecc checkpoints fetch bert-base-uncased` and set models.grounding_dino.text_encoder to "
    f"{CHECKPOINTS['bert-base-uncased'].path.parent}; the mini model's is artifacts/pretrained/grounding-dino-mini"
)


def load_text_encoder(folder: str) -> tuple[PreTrainedTokenizerBase, BertConfig]:
    """Read tokenizer and configuration of a BERT from a folder, without the network.

    Args:
        folder: Holds config.json and vocab.txt, and may hold more of the tokenizer's files.

    Raises:
        CheckpointError: The folder is missing, incomplete, damaged, or another kind of model's.
    """
    folder = str(shipped(Path(folder)))
    if not Path(folder).is_dir():
        raise CheckpointError("the text encoder is not a folder on this machine", where=folder, fix=_FETCH)
    missing = [file for file in ("config.json", "vocab.txt") if not (Path(folder) / file).is_file()]
    if missing:
        raise CheckpointError(f"the text encoder's folder lacks {' and '.join(missing)}", where=folder, fix=_FETCH)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises errors of many kinds, tokenizers a bare Exception
        raise CheckpointError(
            f"the text encoder cannot be read ({first_line(error)})", where=folder, fix=_FETCH
        ) from error
    if not isinstance(config, BertConfig):
        raise CheckpointError(f"the text encoder is a {config.model_type}, not a BERT", where=folder, fix=_FETCH)
    return tokenizer, config


@dataclass(frozen=True)
class Caption:
    """Phrases joined to one text.

    Attributes:
        text: "building . house . road ."
        phrases: The phrases, in order.
        tokens: (P, T) bool: which of the caption's tokens, [CLS] first, belong to which phrase.
    """

    text: str
    phrases: tuple[str, ...]
    tokens: Tensor


def compose_caption(tokenizer: PreTrainedTokenizerBase, phrases: Sequence[str]) -> Caption:
    """Join phrases into a caption.

    Raises:
        SettingsError: A phrase has no token or one that the text encoder does not know, or there are too many tokens.
    """
    phrase_ids = [tokenizer.encode(phrase, add_special_tokens=False) for phrase in phrases]
    for phrase, ids in zip(phrases, phrase_ids, strict=True):
        if not ids:
            raise SettingsError(
                f"the text encoder sees nothing in the phrase {phrase!r}",
                where=_SETTING,
                fix="write it in letters, or take it out",
            )
        if tokenizer.unk_token_id in ids:
            raise SettingsError(
                f"the text encoder does not know every word of the phrase {phrase!r}",
                where=_SETTING,
                fix="use other words (the mini model's are in its vocab.txt)",
            )
    # [CLS], the phrases with a full stop after each, [SEP].
    length = 2 + sum(len(ids) + 1 for ids in phrase_ids)
    if length > MAX_TOKENS:
        raise SettingsError(
            f"the prompts make {length} tokens, Grounding DINO reads {MAX_TOKENS}", where=_SETTING, fix="use fewer"
        )
    tokens = torch.zeros(len(phrases), length, dtype=torch.bool)
    start = 1
    for row, ids in enumerate(phrase_ids):
        tokens[row, start : start + len(ids)] = True
        start += len(ids) + 1
    return Caption(" . ".join(phrases) + " .", tuple(phrases), tokens)


def category_tokens(tokenizer: PreTrainedTokenizerBase, categories: Sequence[Category]) -> tuple[Caption, Tensor]:
    """Return the caption of all categories' phrases and (K, T) bool: which tokens stand for which category.

    Raises:
        SettingsError: See `compose_caption`.
    """
    caption = compose_caption(tokenizer, [phrase for category in categories for phrase in category.phrases])
    category_of_phrase = torch.tensor([k for k, category in enumerate(categories) for _ in category.phrases])
    rows = [caption.tokens[category_of_phrase == k].any(0) for k in range(len(categories))]
    return caption, torch.stack(rows)


def phrase_attention(ids: Tensor, token_mask: Tensor, separators: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return attention masks and positions by which every phrase attends to itself only (sub-sentence representation).

    The same as groundingdino computes token by token, for captions that end with a full stop.

    Args:
        ids: (B, T) token ids.
        token_mask: (B, T) bool, false where a caption is padded.
        separators: Ids of the tokens that end a phrase.

    Returns:
        (B, T, T) bool: which token attends to which; (B, T) int64: positions, from 0 in every phrase.
    """
    ends = torch.isin(ids, torch.tensor(separators, device=ids.device)).long()
    phrases = ends.cumsum(1) - ends
    attention = (phrases[:, :, None] == phrases[:, None, :]) & token_mask[:, :, None] & token_mask[:, None, :]
    positions = torch.arange(ids.shape[1], device=ids.device)
    members = F.one_hot(phrases, ids.shape[1]).bool()
    starts = torch.where(members, positions[None, :, None], ids.shape[1]).amin(1).gather(1, phrases)
    itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    return attention | itself, (positions - starts) * token_mask


PHRASES: Final[Mapping[str, frozenset[str]]] = {
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
    # Nothing in the world has a box for these: the model learns that a phrase may have no box.
    "bareland": frozenset(),
    "grass": frozenset(),
    "bridge": frozenset(),
    "ship": frozenset(),
    "runway": frozenset(),
}
"""Phrases that the mini model is trained on, and the kinds of objects of the synthetic world that each one means."""

KINDS: Final = tuple(OBJECT_CLASSES)
"""Kinds of objects in the order of their indices."""

_SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?")


def write_text_encoder(folder: Path) -> Path:
    """Write the files of the mini BERT's tokenizer and its config.json, as a transformers model folder.

    Returns:
        `folder`.
    """
    words = dict.fromkeys(word for phrase in PHRASES for word in phrase.split())
    vocabulary = [*_SPECIAL_TOKENS, *words]
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
