from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from pipeline.checkpoints import CHECKPOINTS
from pipeline.errors import CheckpointError, SettingsError
from pipeline.vision.grounding import prompts
from pipeline.vision.grounding.prompts import (
    PHRASES,
    category_tokens,
    compose_caption,
    load_text_encoder,
    phrase_attention,
    write_text_encoder,
)
from pipeline.vision.grounding.settings import parse_prompts
from tests.vision.grounding.grounding_data import TEXT_ENCODER


def test_the_folder_that_ships_is_what_is_written(tmp_path: Path) -> None:
    write_text_encoder(tmp_path / "encoder")
    for file in ("vocab.txt", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "encoder" / file).read_bytes() == (TEXT_ENCODER / file).read_bytes()


def test_tokens_belong_to_their_phrases(tokenizer: PreTrainedTokenizerBase) -> None:
    caption = compose_caption(tokenizer, ["building", "swimming pool", "road"])
    assert caption.text == "building . swimming pool . road ."
    words = tokenizer.convert_ids_to_tokens(tokenizer(caption.text)["input_ids"])
    named = [[word for word, belongs in zip(words, row, strict=True) if belongs] for row in caption.tokens.tolist()]
    assert named == [["building"], ["swimming", "pool"], ["road"]]


def test_categories_own_the_tokens_of_all_their_phrases(tokenizer: PreTrainedTokenizerBase) -> None:
    caption, tokens = category_tokens(tokenizer, parse_prompts(["building . house", "swimming pool . pond"]))
    words = tokenizer.convert_ids_to_tokens(tokenizer(caption.text)["input_ids"])
    named = [[word for word, belongs in zip(words, row, strict=True) if belongs] for row in tokens.tolist()]
    assert named == [["building", "house"], ["swimming", "pool", "pond"]]


def test_every_phrase_of_the_vocabulary_is_known(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(compose_caption(tokenizer, list(PHRASES)).phrases) == len(PHRASES)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [(["\u200b"], "sees nothing"), (["building", "quay"], "not know every word"), (["road"] * 150, "reads 256")],
)
def test_phrases_that_cannot_be_read_are_refused(
    tokenizer: PreTrainedTokenizerBase, phrases: list[str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        compose_caption(tokenizer, phrases)


def test_phrases_see_themselves_only_as_in_groundingdino(tokenizer: PreTrainedTokenizerBase) -> None:
    # Not at the top: it warns unless `pipeline.vision.grounding.model` is imported before it.
    from groundingdino.models.GroundingDINO.bertwarper import generate_masks_with_special_tokens_and_transfer_map

    captions = ["building . swimming pool . road .", "parking lot .", "tree . woods . pond . sports field ."]
    tokenized = tokenizer(captions, padding="longest", return_tensors="pt")
    separators = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    attention, positions = phrase_attention(tokenized["input_ids"], tokenized["attention_mask"].bool(), separators)
    expected, expected_positions, _ = generate_masks_with_special_tokens_and_transfer_map(
        tokenized, separators, tokenizer
    )
    assert torch.equal(attention, expected)
    assert torch.equal(positions, expected_positions)


def test_prompts_that_cannot_be_read_name_their_setting_and_a_cure(tokenizer: PreTrainedTokenizerBase) -> None:
    for phrases in (["\u200b"], ["building", "quay"], ["road"] * 150):
        with pytest.raises(SettingsError) as caught:
            compose_caption(tokenizer, phrases)
        assert caught.value.where == "semantics.grounding.prompts"
        assert caught.value.fix


def copy_text_encoder(folder: Path) -> Path:
    return Path(shutil.copytree(TEXT_ENCODER, folder))


def test_a_text_encoder_that_is_not_there_is_explained(tmp_path: Path) -> None:
    half = copy_text_encoder(tmp_path / "half")
    (half / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks vocab\.txt") as first:
        load_text_encoder(str(half))
    with pytest.raises(CheckpointError, match="not a folder") as second:
        load_text_encoder(str(tmp_path / "absent"))
    for caught in (first, second):
        assert "sagecc checkpoints fetch bert-base-uncased" in str(caught.value.fix)
        assert f"text_encoder to {CHECKPOINTS['bert-base-uncased'].path.parent}" in str(caught.value.fix)


def test_a_name_of_the_hub_is_never_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    with pytest.raises(CheckpointError, match="not a folder"):
        load_text_encoder("bert-base-uncased")
    # Nor for what a folder does not hold.
    load_text_encoder(str(TEXT_ENCODER))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "WordPiece"'),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "Nonsense"}}'),
        ("tokenizer.json", "[]"),
        ("config.json", "{"),
        ("config.json", "[1, 2]"),
        ("config.json", "{}"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_a_damaged_text_encoder_is_explained(tmp_path: Path, file: str, content: str) -> None:
    folder = copy_text_encoder(tmp_path / "encoder")
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load_text_encoder(str(folder))
    assert caught.value.where == str(folder)
    assert "sagecc checkpoints fetch" in str(caught.value.fix)


def test_an_error_that_says_nothing_is_named_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr(prompts.BertTokenizerFast, "from_pretrained", trip)
    with pytest.raises(CheckpointError, match=r"cannot be read \(ValueError\)"):
        load_text_encoder(str(TEXT_ENCODER))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    folder = copy_text_encoder(tmp_path / "encoder")
    (folder / "config.json").write_text('{"model_type": "distilbert"}')
    with pytest.raises(CheckpointError, match="a distilbert, not a BERT"):
        load_text_encoder(str(folder))
