from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from pipeline.vision.grounding.prompts import KINDS, PHRASES
from pipeline.vision.grounding.scenes import Scenes, grounding_batches, sampling_weights


def test_boxes_rotate_with_their_images(scenes: Scenes, tokenizer: PreTrainedTokenizerBase) -> None:
    marked = torch.zeros_like(scenes.images)
    for image, boxes, kinds in zip(marked, scenes.boxes, scenes.kinds, strict=True):
        for number in np.flatnonzero(kinds == KINDS.index("house"))[:1]:
            left, top, right, bottom = boxes[number].astype(int)
            image[:, top:bottom, left:right] = 255
    only = Scenes(
        marked,
        [boxes[kinds == KINDS.index("house")][:1] for boxes, kinds in zip(scenes.boxes, scenes.kinds, strict=True)],
        [kinds[kinds == KINDS.index("house")][:1] for kinds in scenes.kinds],
        scenes.areas,
        scenes.land_cover,
    )
    checked = 0
    for seed in range(4):
        for batch in grounding_batches(only, tokenizer, 2, np.random.default_rng(seed), phrases=["house"] * 4):
            for image, boxes in zip(batch.images, batch.boxes, strict=True):
                if not image.any():
                    continue
                rows, columns = torch.nonzero(image[0], as_tuple=True)
                box = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 96
                middle, extent = boxes[0, :2], boxes[0, 2:]
                torch.testing.assert_close(torch.cat([middle - extent / 2, middle + extent / 2]), box)
                checked += 1
    assert checked > 8


def test_tokens_name_the_objects(scenes: Scenes, tokenizer: PreTrainedTokenizerBase) -> None:
    batch = next(iter(grounding_batches(scenes, tokenizer, 4, np.random.default_rng(1))))
    ids = tokenizer(batch.captions, padding="longest")["input_ids"]
    assert batch.tokens.shape[2] == len(ids[0])
    for row, caption in enumerate(batch.captions):
        phrases = set(caption.removesuffix(" .").split(" . "))
        assert phrases <= set(PHRASES)
        assert len(phrases) == len(caption.removesuffix(" .").split(" . "))
        words = tokenizer.convert_ids_to_tokens(ids[row])
        for tokens in batch.tokens[row][batch.tokens[row].any(1)]:
            named = {word for word, names in zip(words, tokens.tolist(), strict=True) if names}
            assert "." not in named
            # Of one object: there is a kind that all phrases of these words mean.
            meant = [kinds for phrase, kinds in PHRASES.items() if phrase in phrases and set(phrase.split()) <= named]
            assert frozenset.intersection(*meant)


def test_rare_kinds_are_drawn_more_often() -> None:
    # Of ten images all show kind 0, five kind 1, two kind 2, one kind 3 (and 2); the last shows nothing else.
    shown = [[0, 2, 3], [0, 2], [0, 1, 1], *[[0, 1]] * 4, *[[0]] * 3]
    kinds = [np.array(numbers) for numbers in shown]
    boxes = [np.zeros((len(numbers), 4), np.float32) for numbers in shown]
    weights = sampling_weights(Scenes(torch.zeros(10, 3, 8, 8), boxes, kinds, kinds, torch.zeros(10, 8, 8)))
    assert weights.sum() == pytest.approx(1)
    # By the root of 0.3 over the share of the rarest kind; kinds that are not rare, and their number, do not count.
    repeats = np.array([np.sqrt(0.3 / 0.1), np.sqrt(0.3 / 0.2), *[1.0] * 8])
    np.testing.assert_allclose(weights, repeats / repeats.sum())
