"""Detection by Grounding DINO, image–text similarity of regions and the choice of the best, equations (11) and (12).

S = norm(E) norm(E_T)ᵀ presupposes that region embeddings E and text embeddings E_T lie in one space. As the paper
describes them they do not: E comes out of SAM's encoder by RoIAlign, which was trained without text, and E_T out of a
text encoder, which was trained without images; their scalar product, if the widths agree at all, has no meaning. The
paper does not say how the two are aligned. There are two ways:

`grounding` (the default): both are Grounding DINO's own. E are the decoder's queries that gave the boxes, E_T the text
tokens after its feature enhancer. Contrastive training has put them into one space: their scalar product is the
detector's own logit. The similarity to a category is the greatest over its tokens.

`aligned`: E are RoI descriptors on SAM's feature map, as in the paper, brought into the space of the text by a linear
map that is fitted to the data set: ridge regression, in closed form, from the descriptors of detected regions to the
text embeddings of the categories they were detected as. E_T are the text encoder's, without the image, the mean of
their tokens, and centred over the categories, since what all words share would make all cosines close to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert

from pipeline.vision.adaptive_batch import AdaptiveBatch
from pipeline.vision.grounding.model import (
    LAYOUTS,
    GroundingOutputs,
    build_grounding_dino,
    encode_text,
    forward_with_states,
)
from pipeline.vision.grounding.prompts import category_tokens
from pipeline.vision.grounding.settings import GroundingSettings, parse_prompts
from pipeline.vision.sam.encoder import resize

# ImageNet's, as published; on a scale of 0–255.
_MEAN: Final = (123.675, 116.28, 103.53)
_STD: Final = (58.395, 57.12, 57.375)


def normalise(images: Tensor) -> Tensor:
    """Return RGB images (B, 3, H, W), 0–255 of any dtype, normalised as the detector takes them, float32."""
    mean = torch.tensor(_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() - mean) / std


def pad_to_square(images: Sequence[NDArray[np.uint8]], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and normalise images and pad them at the right and bottom to squares of one size.

    The size is fixed, so that an image's input does not depend on the other images of the batch.

    Args:
        images: RGB (H, W, 3), of any and of different sizes; their longer side is scaled to `size` (bilinear).
        size: Side of the squares.
        device: Device of the result.

    Returns:
        (B, 3, size, size) normalised, zero in the padding; (B, size, size) bool, true in the padding.
    """
    pixels = torch.zeros(len(images), 3, size, size, device=device)
    padding = torch.ones(len(images), size, size, dtype=torch.bool, device=device)
    for row, image in enumerate(images):
        scaled = torch.from_numpy(np.array(resize(image, size))).to(device).permute(2, 0, 1)
        height, width = scaled.shape[1:]
        pixels[row, :, :height, :width] = normalise(scaled[None])[0]
        padding[row, :height, :width] = False
    return pixels, padding


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, best first.

    Attributes:
        boxes: (J, 4) float32: left, top, right, bottom in pixels of the image.
        scores: (J) float32 in [0, 1].
        categories: (J) int64.
        query_indices: (J) int64: the decoder's query that each comes from.
    """

    boxes: Tensor
    scores: Tensor
    categories: Tensor
    query_indices: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def category_scores(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the score of each category (B, Q, K): the greatest sigmoid over its tokens.

    Args:
        logits: (B, Q, T) per token.
        tokens: (K, T) bool: tokens of each category, at least one.
    """
    count = tokens.shape[1]
    token_logits = logits[:, :, None, :count].masked_fill(~tokens, float("-inf"))
    return token_logits.amax(-1).sigmoid()


def select_detections(
    outputs: GroundingOutputs,
    tokens: Tensor,
    settings: GroundingSettings,
    row: int,
    size: tuple[int, int],
    canvas_size: float,
) -> Detections:
    """Return the boxes of one image after thresholds and non-maximum suppression.

    Args:
        outputs: Of a batch.
        tokens: (K, T) bool: tokens of each category.
        settings: Thresholds and number of boxes.
        row: Row of the image in the batch.
        size: Height and width of the image in pixels.
        canvas_size: Side of the square that the boxes are shares of, in pixels of the image.
    """
    scores = category_scores(outputs.logits[-1][row : row + 1], tokens)[0]
    above_threshold = scores.amax(1, keepdim=True) >= settings.box_threshold
    queries, categories = torch.nonzero(above_threshold & (scores >= settings.text_threshold), as_tuple=True)
    scores = scores[queries, categories]
    limits = torch.tensor([size[1], size[0], size[1], size[0]], device=scores.device)
    boxes = box_convert(outputs.boxes[-1][row], "cxcywh", "xyxy")[queries] * canvas_size
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    # Clipping has left boxes that lie in the padding without an area.
    valid = (boxes[:, 2:] - boxes[:, :2] > 0).all(1)
    boxes, scores, queries, categories = boxes[valid], scores[valid], queries[valid], categories[valid]
    best = batched_nms(boxes, scores, categories, settings.nms_threshold)[: settings.max_boxes]
    return Detections(boxes[best], scores[best], categories[best], queries[best])


def token_similarity(regions: Tensor, text: Tensor, tokens: Tensor) -> Tensor:
    """Return S of equation (11) for text embeddings of tokens: the greatest cosine over a category's tokens.

    Args:
        regions: E (J, d).
        text: (T, d) token features.
        tokens: (K, T) bool: tokens of each category, at least one.

    Returns:
        (J, K).
    """
    cosines = F.normalize(regions, dim=-1) @ F.normalize(text, dim=-1).T
    return cosines[:, None].masked_fill(~tokens, -torch.inf).amax(-1)


def cosine_similarity(regions: Tensor, text: Tensor) -> Tensor:
    """Return S (J, K) of equation (11) for E (J, d) and E_T (K, d)."""
    return F.normalize(regions, dim=-1) @ F.normalize(text, dim=-1).T


def select_top_regions(similarities: Tensor, categories: Tensor, top_q: int, *, per_category: bool) -> Tensor:
    """Return which regions are selected, equation (12), as bool (J).

    Args:
        similarities: S (J, K).
        categories: (J) int64: category that each region was detected as.
        top_q: q, the number of regions to select.
        per_category: Select the best q of every category by the similarity to it, instead of the best q of all by
            their highest similarity.
    """
    selected = torch.zeros(len(similarities), dtype=torch.bool, device=similarities.device)
    if not per_category:
        order = similarities.amax(1).argsort(descending=True, stable=True)
        selected[order[:top_q]] = True
        return selected
    for category in categories.unique():
        members = torch.nonzero(categories == category)[:, 0]
        order = similarities[members, category].argsort(descending=True, stable=True)
        selected[members[order[:top_q]]] = True
    return selected


def centre_embeddings(text: Tensor) -> Tensor:
    """Return text embeddings (K, d) minus their mean; a single one is returned as it is."""
    return text - text.mean(0) if len(text) > 1 else text


def fit_linear_map(descriptors: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Fit the linear map of `aligned`: the W that minimises ‖[X 1] W − Y‖² + ridge · N · ‖W‖², the bias being free.

    Args:
        descriptors: X (N, D) of any scale: every column is divided by its deviation first, which W makes up for.
        targets: Y (N, d).
        ridge: Weight of the penalty.

    Returns:
        float32 (D + 1, d); its last row is the bias.
    """
    x, y = descriptors.double(), targets.double()
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    scaled = (x - mean) / deviation
    gram = scaled.T @ scaled + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    weights = torch.linalg.solve(gram, scaled.T @ (y - y.mean(0))) / deviation[:, None]
    return torch.cat([weights, (y.mean(0) - mean @ weights)[None]]).float()


def apply_linear_map(descriptors: Tensor, weights: Tensor) -> Tensor:
    """Map descriptors (J, D) into the space of the text by the result of `fit_linear_map`."""
    return descriptors @ weights[:-1] + weights[-1]


@dataclass(frozen=True)
class ImageDetections(Detections):
    """Boxes of one image, best first, with their embeddings.

    Attributes:
        embeddings: (J, d): the decoder's queries that gave the boxes.
        similarity: (J, K): cosines of these with the categories' tokens; see `token_similarity`.
    """

    embeddings: Tensor
    similarity: Tensor


class Detector:
    """Grounding DINO for one list of prompts.

    Args:
        settings: Model, prompts, thresholds.
        device: Where to compute.
        batch_size: Images per forward pass; halves when a GPU's memory runs out.

    Attributes:
        categories: Those of the prompts.

    Raises:
        CheckpointError: See `build_grounding_dino`.
        SettingsError: The prompts are too long, or hold words that the text encoder does not know.
    """

    def __init__(self, settings: GroundingSettings, device: torch.device, batch_size: int) -> None:
        self._settings = settings
        self._device = device
        self._size = settings.size or LAYOUTS[settings.variant].size
        self._model = build_grounding_dino(settings).to(device)
        self.categories = parse_prompts(settings.prompts)
        caption, tokens = category_tokens(self._model.tokenizer, self.categories)
        self._caption, self._tokens = caption.text, tokens.to(device)
        self._images_per_pass = AdaptiveBatch(
            batch_size, "images per pass of Grounding DINO", "lower models.grounding_dino.size"
        )

    @torch.inference_mode()
    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageDetections]:
        """Detect all categories in images (H, W, 3), of any and of different sizes.

        Raises:
            ResourceError: Not even one image fits into the GPU's memory.
        """
        detections: list[ImageDetections] = []
        while len(detections) < len(images):
            detections += self._images_per_pass.run(partial(self._detect_first, images[len(detections) :]))
        return detections

    def _detect_first(self, images: Sequence[NDArray[np.uint8]], count: int) -> list[ImageDetections]:
        return self._detect_batch(images[:count])

    def _detect_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageDetections]:
        pixels, padding = pad_to_square(images, self._size, self._device)
        outputs = forward_with_states(self._model, pixels, padding, [self._caption] * len(images))
        batch = []
        for row, image in enumerate(images):
            height, width = image.shape[:2]
            detections = select_detections(
                outputs, self._tokens, self._settings, row, (height, width), max(height, width)
            )
            queries = outputs.queries[row][detections.query_indices]
            similarity = token_similarity(queries, outputs.text[row], self._tokens)
            batch.append(ImageDetections(**vars(detections), embeddings=queries, similarity=similarity))
        return batch

    @torch.inference_mode()
    def category_embeddings(self) -> Tensor:
        """Return the mean of each category's token features (K, d), which are independent of any image."""
        text = encode_text(self._model, [self._caption], self._device)["encoded_text"][0]
        shares = self._tokens / self._tokens.sum(1, keepdim=True)
        return shares.float() @ text.float()
