from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.vision.sam.decoder import PromptDecoder, decode, embed_boxes, embed_points
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import SamSettings
from tests.vision.sam.random_sam import random_sam

SETTINGS = {
    "mini": SamSettings(),
    # The published layout, at a size that a test can wait for: eight heads, 256 channels.
    "vit_b": SamSettings(variant="vit_b", encoder_size=64),
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def sam(request: pytest.FixtureRequest) -> Sam:
    return random_sam(SETTINGS[request.param])


@pytest.fixture
def embeddings(sam: Sam) -> Tensor:
    grid = sam.prompt_encoder.image_embedding_size
    shape = (2, sam.prompt_encoder.embed_dim, *grid)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _points(count: int) -> Tensor:
    return torch.rand((2, count, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 64


@torch.inference_mode()
def test_points_of_many_images_are_segment_anythings(sam: Sam, embeddings: Tensor) -> None:
    decoder = PromptDecoder(sam, "cpu")
    points = _points(9)
    sparse = torch.stack([decoder.points(p) for p in points])
    decoded = decoder.decode(decoder.image_tokens(embeddings), sparse)
    prompts = torch.tensor([10, 3, 3, 17])
    logits = decoder.logits(decoded, prompts, slice(1, 4))
    expected_logits, expected_iou = _reference(sam, embeddings, [(p[:, None], torch.ones(9, 1)) for p in points])
    torch.testing.assert_close(decoded.iou[:, 1:], expected_iou[:, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, expected_logits[prompts, 1:], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_boxes_are_segment_anythings(sam: Sam, embeddings: Tensor) -> None:
    decoder = PromptDecoder(sam, "cpu")
    boxes = torch.cat([_points(5), _points(5) + 9], dim=2).float()
    sparse = torch.stack([decoder.boxes(b) for b in boxes])
    decoded = decoder.decode(decoder.image_tokens(embeddings), sparse)
    logits = decoder.logits(decoded, torch.arange(10), slice(0, 1))
    expected_logits, expected_iou = _reference(sam, embeddings, list(boxes))
    torch.testing.assert_close(decoded.iou[:, :1], expected_iou[:, :1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, expected_logits[:, :1], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_prompts_do_not_depend_on_neighbours(sam: Sam, embeddings: Tensor) -> None:
    decoder = PromptDecoder(sam, "cpu")
    sparse = torch.stack([decoder.points(p) for p in _points(4)])
    whole = decoder.decode(decoder.image_tokens(embeddings), sparse)
    reversed_order = decoder.decode(decoder.image_tokens(embeddings.flip(0)), sparse.flip(0).flip(1))
    assert torch.equal(reversed_order.iou.flip(0), whole.iou)
    logits = decoder.logits(whole, torch.tensor([5, 0]), slice(1, 4))
    assert torch.equal(decoder.logits(reversed_order, torch.tensor([0, 2]), slice(1, 4))[1], logits[0])


@torch.inference_mode()
def test_half_precision_is_near_and_leaves_the_model_alone(sam: Sam, embeddings: Tensor) -> None:
    exact, half = (PromptDecoder(sam, "cpu", precision=precision) for precision in ("fp32", "bf16"))
    sparse = torch.stack([exact.points(p) for p in _points(4)])
    expected = exact.decode(exact.image_tokens(embeddings), sparse)
    decoded = half.decode(half.image_tokens(embeddings), sparse)
    assert decoded.image.dtype == torch.bfloat16
    assert decoded.iou.dtype == torch.float32
    assert 0 < (decoded.iou - expected.iou).abs().mean() < 0.1 * expected.iou.std()
    logits = half.logits(decoded, torch.arange(8), slice(1, 4))
    assert logits.dtype == torch.float32
    difference = logits - exact.logits(expected, torch.arange(8), slice(1, 4))
    assert difference.abs().mean() < 0.1 * logits.std()
    assert sam.mask_decoder.iou_token.weight.dtype == torch.float32


def _reference(
    sam: Sam, embeddings: Tensor, prompts: list[Tensor] | list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return logits (B, 4, h, w) and predicted IoU (B, 4) of segment_anything's own decoder, image by image."""
    logits, iou = [], []
    for embedding, prompt in zip(embeddings, prompts, strict=True):
        points, boxes = (prompt, None) if isinstance(prompt, tuple) else (None, prompt)
        sparse, dense = sam.prompt_encoder(points, boxes, None)
        position = sam.prompt_encoder.get_dense_pe()
        masks, quality = sam.mask_decoder.predict_masks(embedding[None], position, sparse, dense)
        logits.append(masks)
        iou.append(quality)
    return torch.cat(logits), torch.cat(iou)


BOXES = torch.tensor(
    [[[4.0, 8.0, 40.0, 50.0], [10.0, 0.0, 20.0, 64.0]], [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 64.0, 64.0]]]
)
POINTS = torch.tensor([[[5.0, 60.0]], [[33.0, 12.0]]])


@pytest.fixture
def mini_sam() -> Sam:
    return build_sam(SamSettings(encoder_size=64), random_weights=True, seed=3)


def test_masks_and_gradients_of_training_are_segment_anythings(mini_sam: Sam) -> None:
    embeddings = torch.randn((2, 64, 8, 8), generator=torch.Generator().manual_seed(0), requires_grad=True)
    parameters = [embeddings, *mini_sam.mask_decoder.parameters(), *mini_sam.prompt_encoder.parameters()]

    prompts = torch.cat(
        [embed_boxes(mini_sam.prompt_encoder, BOXES), embed_points(mini_sam.prompt_encoder, POINTS)], dim=1
    )
    logits, ious = decode(mini_sam, embeddings, prompts)
    assert logits.shape == (2, 3, 4, 32, 32)
    assert ious.shape == (2, 3, 4)
    (logits.square().mean() + ious.square().mean()).backward()
    ours = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]

    for parameter in parameters:
        parameter.grad = None
    expected_logits, expected_ious = [], []
    for image in range(2):
        boxes, dense = mini_sam.prompt_encoder(None, BOXES[image], None)
        labels = torch.ones((1, 1))
        points, _ = mini_sam.prompt_encoder((POINTS[image][:, None], labels), None, None)
        masks, quality = mini_sam.mask_decoder.predict_masks(
            embeddings[image : image + 1],
            mini_sam.prompt_encoder.get_dense_pe(),
            torch.cat([boxes, points]),
            dense[:1].expand(3, -1, -1, -1),
        )
        expected_logits.append(masks)
        expected_ious.append(quality)
    theirs_logits, theirs_ious = torch.stack(expected_logits), torch.stack(expected_ious)
    torch.testing.assert_close(logits, theirs_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ious, theirs_ious, atol=1e-5, rtol=1e-4)
    (theirs_logits.square().mean() + theirs_ious.square().mean()).backward()
    for parameter, gradient in zip(parameters, ours, strict=True):
        # A key's bias cannot be seen through a softmax: segment_anything's own gradient of it is rounding.
        theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            torch.zeros_like(parameter) if gradient is None else gradient, theirs, atol=1e-6, rtol=1e-3
        )
    assert embeddings.grad is not None
    assert embeddings.grad.abs().max() > 0
