from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError, SettingsError
from pipeline.vision.grounding.categories import parse_prompts
from pipeline.vision.grounding.text import category_tokens, compose, load_text_encoder, phrase_attention
from pipeline.vision.grounding.vocabulary import PHRASES, write_text_encoder
from tests.vision.grounding.grounding_data import TEXT_ENCODER


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return load_text_encoder(str(TEXT_ENCODER))[0]


def test_the_folder_that_ships_is_what_is_written(tmp_path: Path) -> None:
    write_text_encoder(tmp_path / "encoder")
    for file in ("vocab.txt", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "encoder" / file).read_bytes() == (TEXT_ENCODER / file).read_bytes()


def test_tokens_belong_to_their_phrases(tokenizer) -> None:
    caption = compose(tokenizer, ["building", "swimming pool", "road"])
    assert caption.text == "building . swimming pool . road ."
    words = tokenizer.convert_ids_to_tokens(tokenizer(caption.text)["input_ids"])
    named = [[word for word, mine in zip(words, row, strict=True) if mine] for row in caption.tokens.tolist()]
    assert named == [["building"], ["swimming", "pool"], ["road"]]


def test_categories_own_the_tokens_of_all_their_phrases(tokenizer) -> None:
    caption, tokens = category_tokens(tokenizer, parse_prompts(["building . house", "swimming pool . pond"]))
    words = tokenizer.convert_ids_to_tokens(tokenizer(caption.text)["input_ids"])
    named = [[word for word, mine in zip(words, row, strict=True) if mine] for row in tokens.tolist()]
    assert named == [["building", "house"], ["swimming", "pool", "pond"]]


def test_every_phrase_of_the_vocabulary_is_known(tokenizer) -> None:
    assert len(compose(tokenizer, list(PHRASES)).phrases) == len(PHRASES)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [(["\u200b"], "sees nothing"), (["building", "quay"], "not know every word"), (["road"] * 150, "reads 256")],
)
def test_phrases_that_cannot_be_read_are_refused(tokenizer, phrases: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        compose(tokenizer, phrases)


def test_phrases_see_themselves_only_as_in_groundingdino(tokenizer) -> None:
    # Not at the top: it warns unless our own library module is imported before it.
    from groundingdino.models.GroundingDINO.bertwarper import generate_masks_with_special_tokens_and_transfer_map

    captions = ["building . swimming pool . road .", "parking lot .", "tree . woods . pond . sports field ."]
    tokenized = tokenizer(captions, padding="longest", return_tensors="pt")
    dividers = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    attention, positions = phrase_attention(tokenized["input_ids"], tokenized["attention_mask"].bool(), dividers)
    expected, expected_positions, _ = generate_masks_with_special_tokens_and_transfer_map(
        tokenized, dividers, tokenizer
    )
    assert torch.equal(attention, expected)
    assert torch.equal(positions, expected_positions)


def test_a_text_encoder_that_is_not_there_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"lacks vocab\.txt"):
        load_text_encoder(str(tmp_path / "half"))
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load_text_encoder(str(tmp_path / "absent"))
    assert "--local-dir" in str(caught.value.fix)
