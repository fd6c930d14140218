from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import Sam

from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.prompting import decode, embed_boxes, embed_points
from pipeline.vision.sam.settings import SamSettings

BOXES = torch.tensor(
    [[[4.0, 8.0, 40.0, 50.0], [10.0, 0.0, 20.0, 64.0]], [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 64.0, 64.0]]]
)
POINTS = torch.tensor([[[5.0, 60.0]], [[33.0, 12.0]]])


@pytest.fixture
def sam() -> Sam:
    return build_sam(SamSettings(encoder_size=64), random_weights=True, seed=3)


def test_masks_and_gradients_are_segment_anythings(sam: Sam) -> None:
    embeddings = torch.randn((2, 64, 8, 8), generator=torch.Generator().manual_seed(0), requires_grad=True)
    parameters = [embeddings, *sam.mask_decoder.parameters(), *sam.prompt_encoder.parameters()]

    prompts = torch.cat([embed_boxes(sam.prompt_encoder, BOXES), embed_points(sam.prompt_encoder, POINTS)], dim=1)
    logits, ious = decode(sam, embeddings, prompts)
    assert logits.shape == (2, 3, 4, 32, 32)
    assert ious.shape == (2, 3, 4)
    (logits.square().mean() + ious.square().mean()).backward()
    ours = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]

    for parameter in parameters:
        parameter.grad = None
    expected_logits, expected_ious = [], []
    for image in range(2):
        boxes, dense = sam.prompt_encoder(None, BOXES[image], None)
        labels = torch.ones((1, 1))
        points, _ = sam.prompt_encoder((POINTS[image][:, None], labels), None, None)
        masks, quality = sam.mask_decoder.predict_masks(
            embeddings[image : image + 1],
            sam.prompt_encoder.get_dense_pe(),
            torch.cat([boxes, points]),
            dense[:1].expand(3, -1, -1, -1),
        )
        expected_logits.append(masks)
        expected_ious.append(quality)
    theirs_logits, theirs_ious = torch.stack(expected_logits), torch.stack(expected_ious)
    torch.testing.assert_close(logits, theirs_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ious, theirs_ious, atol=1e-5, rtol=1e-4)
    (theirs_logits.square().mean() + theirs_ious.square().mean()).backward()
    for parameter, mine in zip(parameters, ours, strict=True):
        # A key's bias cannot be seen through a softmax: segment_anything's own gradient of it is rounding.
        theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(torch.zeros_like(parameter) if mine is None else mine, theirs, atol=1e-6, rtol=1e-3)
    assert embeddings.grad is not None
    assert embeddings.grad.abs().max() > 0
