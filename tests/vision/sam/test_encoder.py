from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from pipeline.vision.sam import encoder
from pipeline.vision.sam.encoder import ImageEncoder, input_size, resize
from pipeline.vision.sam.settings import SamSettings
from tests.vision.sam.random_sam import random_image, random_sam

SIZES = [(128, 128), (60, 101), (333, 40), (8, 8), (1, 300)]


@pytest.fixture(scope="module")
def sam() -> Sam:
    return random_sam(SamSettings())


@pytest.mark.parametrize("size", SIZES)
def test_images_are_resized_as_segment_anything_does(size: tuple[int, int]) -> None:
    image = random_image(*size)
    expected = ResizeLongestSide(128).apply_image(image) if min(size) > 1 else None
    resized = resize(image, 128)
    assert resized.shape[:2] == input_size(*size, 128)
    assert max(resized.shape[:2]) == 128
    if expected is not None:
        np.testing.assert_array_equal(resized, expected)
    assert resize(resized, 128) is resized


@pytest.mark.parametrize("max_plain_tokens", [0, 1024])
def test_embeddings_are_segment_anythings(sam: Sam, monkeypatch: pytest.MonkeyPatch, max_plain_tokens: int) -> None:
    # Both kinds of attention: scaled_dot_product_attention of longer vectors, and the plain formula.
    monkeypatch.setattr(encoder, "_MAX_PLAIN_TOKENS", max_plain_tokens)
    images = [random_image(*size, seed=number) for number, size in enumerate(SIZES[:4])]
    embeddings = ImageEncoder(sam, SamSettings(), "cpu").encode(images)
    assert (embeddings.shape, embeddings.dtype) == ((4, 64, 16, 16), torch.float32)
    predictor = SamPredictor(sam)
    for image, embedding in zip(images, embeddings, strict=True):
        predictor.set_image(image)
        torch.testing.assert_close(embedding, predictor.get_image_embedding()[0], atol=2e-5, rtol=1e-4)


def test_windows_that_do_not_divide_the_image_are_padded() -> None:
    settings = SamSettings(encoder_size=96)
    sam = random_sam(settings)
    predictor = SamPredictor(sam)
    predictor.set_image(random_image(50, 70))
    embedding = ImageEncoder(sam, settings, "cpu").encode([random_image(50, 70)])
    torch.testing.assert_close(embedding, predictor.get_image_embedding(), atol=2e-5, rtol=1e-4)


def test_the_model_itself_is_left_alone(sam: Sam) -> None:
    before = [type(block.attn) for block in sam.image_encoder.blocks]
    ImageEncoder(sam, SamSettings(), "cpu", precision="bf16")
    assert [type(block.attn) for block in sam.image_encoder.blocks] == before
    assert sam.image_encoder.pos_embed.dtype == torch.float32


def test_embeddings_do_not_depend_on_neighbours(sam: Sam) -> None:
    encoder = ImageEncoder(sam, SamSettings(), "cpu")
    images = [random_image(128, 128, seed=seed) for seed in range(4)]
    assert torch.equal(encoder.encode(images)[1], encoder.encode([images[3], images[1], images[1], images[1]])[1])


def test_half_precision_is_near(sam: Sam) -> None:
    images = [random_image(128, 128)]
    exact = ImageEncoder(sam, SamSettings(), "cpu").encode(images)
    half = ImageEncoder(sam, SamSettings(), "cpu", precision="bf16").encode(images)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().mean() < 0.05 * exact.std()


def test_scales(sam: Sam) -> None:
    encoder = ImageEncoder(sam, SamSettings(), "cpu")
    assert (encoder.size, encoder.patch, encoder.grid, encoder.channels) == (128, 8, 16, 64)
    assert encoder.scale(64, 256) == 0.5
    assert encoder.spatial_scale(64, 256) == 0.5 / 8
