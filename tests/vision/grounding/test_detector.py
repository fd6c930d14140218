from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.vision.grounding.detector import (
    Detector,
    apply_linear_map,
    category_scores,
    centre_embeddings,
    cosine_similarity,
    fit_linear_map,
    pad_to_square,
    select_detections,
    select_top_regions,
    token_similarity,
)
from pipeline.vision.grounding.model import GroundingOutputs, Proposals, forward_with_states
from pipeline.vision.grounding.prompts import category_tokens
from pipeline.vision.grounding.settings import GroundingSettings, parse_prompts
from tests.vision.grounding.grounding_data import TEXT_ENCODER, random_grounding_dino

TOKENS = torch.tensor([[False, True, True, False], [False, False, False, True]])
LOW_LOGIT = -20.0


def outputs_of(rows: list[tuple[float, float, tuple[float, float, float, float]]]) -> GroundingOutputs:
    """Return the outputs for one image with queries of (logit of category 0, of category 1, box in shares)."""
    logits = torch.tensor([[[9.0, LOW_LOGIT, logit0, logit1] for logit0, logit1, _ in rows]])
    boxes = torch.tensor([[list(box) for _, _, box in rows]])
    empty = torch.zeros(1, 0, 4)
    queries = torch.zeros(1, len(rows), 2)
    return GroundingOutputs([logits], [boxes], queries, empty, Proposals(empty, empty, empty[0]), [])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_category_scores_as_its_best_token() -> None:
    logits = torch.tensor([[[9.0, -1.0, 0.5, -3.0], [9.0, 2.0, -4.0, 1.0]]])
    expected = [[[sigmoid(0.5), sigmoid(-3.0)], [sigmoid(2.0), sigmoid(1.0)]]]
    np.testing.assert_allclose(category_scores(logits, TOKENS), expected, rtol=1e-6)


def test_thresholds_categories_and_pixels() -> None:
    rows = [
        (3.0, -0.5, (0.5, 0.5, 0.5, 0.25)),
        (-1.0, -3.0, (0.2, 0.2, 0.1, 0.1)),
        (LOW_LOGIT, 1.0, (0.1, 0.1, 0.2, 0.2)),
    ]
    settings = GroundingSettings(box_threshold=0.35, text_threshold=0.25)
    detections = select_detections(outputs_of(rows), TOKENS, settings, 0, (100, 100), 100)
    # The first query counts for both categories, the second for none.
    assert detections.categories.tolist() == [0, 1, 1]
    assert detections.query_indices.tolist() == [0, 2, 0]
    np.testing.assert_allclose(detections.scores, [sigmoid(3), sigmoid(1), sigmoid(-0.5)], rtol=1e-5)
    np.testing.assert_allclose(detections.boxes[0], [25, 37.5, 75, 62.5], rtol=1e-5)


def test_boxes_end_at_the_picture_and_padding_holds_none() -> None:
    rows = [(3.0, LOW_LOGIT, (0.5, 0.5, 1.2, 0.8)), (2.0, LOW_LOGIT, (0.5, 0.9, 0.2, 0.1))]
    detections = select_detections(outputs_of(rows), TOKENS, GroundingSettings(), 0, (50, 100), 100)
    np.testing.assert_allclose(detections.boxes, [[0, 10, 100, 50]], atol=1e-4)


def test_suppression_is_within_a_category_and_the_best_are_kept() -> None:
    box = (0.5, 0.5, 0.4, 0.4)
    rows = [
        (1.0, LOW_LOGIT, box),
        (2.0, LOW_LOGIT, (0.51, 0.5, 0.4, 0.4)),
        (LOW_LOGIT, 0.5, box),
        (0.2, LOW_LOGIT, (0.1, 0.1, 0.1, 0.1)),
    ]
    settings = GroundingSettings(nms_threshold=0.6)
    assert select_detections(outputs_of(rows), TOKENS, settings, 0, (64, 64), 64).query_indices.tolist() == [1, 2, 3]
    few = settings.model_copy(update={"max_boxes": 2})
    assert select_detections(outputs_of(rows), TOKENS, few, 0, (64, 64), 64).query_indices.tolist() == [1, 2]
    none = settings.model_copy(update={"box_threshold": 0.99})
    assert len(select_detections(outputs_of(rows), TOKENS, none, 0, (64, 64), 64)) == 0


SHAPES = ((40, 96), (96, 40), (64, 64), (70, 120))
"""Height and width of pictures, most of them not square."""


def pictures() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(7)
    blocks = [rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8) for height, width in SHAPES]
    return [
        block.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        for block, (height, width) in zip(blocks, SHAPES, strict=True)
    ]


def test_pictures_lie_in_the_upper_left_of_their_squares() -> None:
    pixels, padding = pad_to_square(pictures(), 48, torch.device("cpu"))
    for row, picture in enumerate(pictures()):
        longer = max(picture.shape[:2])
        height, width = (int(side * 48 / longer + 0.5) for side in picture.shape[:2])
        assert not padding[row, :height, :width].any() and padding[row].sum() == 48 * 48 - height * width
        scaled = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR), np.float64)
        expected = (scaled - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        np.testing.assert_allclose(pixels[row, :, :height, :width].permute(1, 2, 0), expected, atol=1e-5)
        assert not pixels[row, :, height:].any() and not pixels[row, :, :, width:].any()


def test_boxes_of_pictures_that_are_not_square_are_in_their_own_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_grounding_dino()
    monkeypatch.setattr("pipeline.vision.grounding.detector.build_grounding_dino", lambda _settings: model)
    settings = GroundingSettings(
        text_encoder=str(TEXT_ENCODER), size=64, box_threshold=0.0, text_threshold=0.0, max_boxes=50
    )
    detected = Detector(settings, torch.device("cpu"), 4).detect(pictures())
    caption, _ = category_tokens(model.tokenizer, parse_prompts(settings.prompts))
    pixels, padding = pad_to_square(pictures(), 64, torch.device("cpu"))
    with torch.inference_mode():
        shares = forward_with_states(model, pixels, padding, [caption.text] * len(SHAPES)).boxes[-1].double().numpy()
    for image, (height, width), detections in zip(shares, SHAPES, detected, strict=True):
        assert len(detections) > 5
        # A box is a share of the square whose side is the picture's longer one, cut off at the picture's edges.
        side = max(height, width)
        for query, box in zip(detections.query_indices.tolist(), detections.boxes.numpy(), strict=True):
            x, y, across, down = image[query] * side
            expected = [
                max(x - across / 2, 0),
                max(y - down / 2, 0),
                min(x + across / 2, width),
                min(y + down / 2, height),
            ]
            np.testing.assert_allclose(box, expected, atol=2e-2)


def test_memory_that_runs_out_halves_the_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "pipeline.vision.grounding.detector.build_grounding_dino", lambda _settings: random_grounding_dino()
    )
    settings = GroundingSettings(text_encoder=str(TEXT_ENCODER), size=64, box_threshold=0.0, text_threshold=0.0)
    images = [np.full((64, 64, 3), value, dtype=np.uint8) for value in (0, 90, 180, 250)]
    whole = Detector(settings, torch.device("cpu"), 4).detect(images)
    tight = Detector(settings, torch.device("cpu"), 4)
    detect_batch = tight._detect_batch

    def at_most_one(batch: list[np.ndarray]) -> object:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return detect_batch(batch)

    monkeypatch.setattr(tight, "_detect_batch", at_most_one)
    single = tight.detect(images)
    assert len(single) == 4
    for one, other in zip(whole, single, strict=True):
        assert len(one) == len(other)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=1e-4)
    assert "memory ran out" in capsys.readouterr().err


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def test_similarity_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    regions, text = torch.randn(4, 6, generator=generator), torch.randn(3, 6, generator=generator)
    expected = [[cosine(region, word) for word in text] for region in regions]
    np.testing.assert_allclose(cosine_similarity(regions, text), expected, atol=1e-6)


def test_a_category_is_as_near_as_its_nearest_token() -> None:
    generator = torch.Generator().manual_seed(1)
    regions, text = torch.randn(5, 6, generator=generator), torch.randn(4, 6, generator=generator)
    tokens = torch.tensor([[False, True, True, False], [False, False, False, True]])
    expected = [
        [max(cosine(region, text[t]) for t in range(4) if row[t]) for row in tokens.tolist()] for region in regions
    ]
    np.testing.assert_allclose(token_similarity(regions, text, tokens), expected, atol=1e-6)
    assert token_similarity(regions[:0], text, tokens).shape == (0, 2)


def test_top_regions_against_a_plain_sort() -> None:
    table = torch.rand(12, 3, generator=torch.Generator().manual_seed(2))
    order = sorted(range(12), key=lambda row: -max(table[row].tolist()))
    for q in (1, 5, 12, 20):
        chosen = select_top_regions(table, torch.zeros(12, dtype=torch.int64), q, per_category=False)
        assert set(torch.nonzero(chosen)[:, 0].tolist()) == set(order[:q])
    assert select_top_regions(table[:0], torch.zeros(0, dtype=torch.int64), 5, per_category=False).shape == (0,)


def test_top_regions_of_each_category() -> None:
    table = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.7, 0.9], [0.0, 0.1]])
    categories = torch.tensor([0, 0, 0, 1])
    assert select_top_regions(table, categories, 1, per_category=True).tolist() == [True, False, False, True]
    assert select_top_regions(table, categories, 2, per_category=True).tolist() == [True, True, False, True]


def test_equal_similarities_go_by_position() -> None:
    table = torch.full((4, 2), 0.5)
    selected = select_top_regions(table, torch.zeros(4, dtype=torch.int64), 2, per_category=False)
    assert selected.tolist() == [True, True, False, False]


def test_the_map_is_the_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(40, 5, generator=generator) * 3 + 1, torch.randn(40, 2, generator=generator)
    weights = fit_linear_map(x, y, 0.3)
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).double().requires_grad_()
    inner = (weights[:-1] * x.std(0, correction=0)[:, None]).double().requires_grad_()
    bias = y.double().mean(0).requires_grad_()
    loss = (scaled.detach() @ inner + bias - y.double()).square().sum() + 0.3 * 40 * inner.square().sum()
    loss.backward()
    # A closed form is right where the gradient of what it minimises vanishes.
    assert inner.grad is not None
    assert bias.grad is not None
    assert inner.grad.abs().max() < 1e-3
    assert bias.grad.abs().max() < 1e-3
    np.testing.assert_allclose(apply_linear_map(x, weights), (scaled @ inner + bias).detach(), atol=1e-4)


def test_the_map_brings_descriptors_to_their_words() -> None:
    generator = torch.Generator().manual_seed(4)
    words = centre_embeddings(torch.randn(3, 8, generator=generator) + 5)
    kinds = torch.randint(0, 3, (200,), generator=generator)
    prototypes = torch.randn(3, 16, generator=generator)
    descriptors = prototypes[kinds] + 0.3 * torch.randn(200, 16, generator=generator)
    weights = fit_linear_map(descriptors[:150], words[kinds[:150]], 0.1)
    predicted = cosine_similarity(apply_linear_map(descriptors[150:], weights), words).argmax(1)
    assert (predicted == kinds[150:]).float().mean() == pytest.approx(1.0)


def test_one_word_is_not_centred_away() -> None:
    word = torch.ones(1, 3)
    assert torch.equal(centre_embeddings(word), word)
    assert centre_embeddings(torch.eye(3)).sum(0).abs().max() < 1e-6
