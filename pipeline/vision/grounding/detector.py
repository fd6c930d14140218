"""Grounding DINO with its prompts: images in, boxes with categories, scores and embeddings out.

Images as Grounding DINO sees them: scaled, normalised, on a square canvas.

Image–text similarity of regions and the choice of the best, equations (11) and (12).

S = norm(E) norm(E_T)ᵀ presupposes that region embeddings E and text embeddings E_T lie in one space. As the paper
describes them they do not: E comes out of SAM's encoder by RoIAlign, which has seen no word, and E_T out of a text
encoder, which has seen no picture; their scalar product, if the widths agree at all, means nothing. The paper does not
say how it is bridged. Two answers are offered.

`grounding` (the default): both are Grounding DINO's own. E are the decoder's queries that gave the boxes, E_T the text
tokens after its feature enhancer. Contrastive training has put them into one space: their scalar product is the very
logit by which the detector answers. A category is as near as its nearest token.

`aligned`: E are RoI descriptors on SAM's feature map, as in the paper, brought into the space of the text by a linear
map that is fitted to the data set: ridge regression, in closed form, from the descriptors of detected regions to the
text embeddings of the categories they were detected as. E_T are the text encoder's, without the image, the mean of
their tokens, and centred over the categories, since what all words share would make all cosines close to one.


From images to boxes, each with a category and a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert

from pipeline.vision.adaptive_batch import AdaptiveBatch
from pipeline.vision.grounding.model import LAYOUTS, Grounding, build_grounding_dino, encode_text, ground
from pipeline.vision.grounding.prompts import category_tokens
from pipeline.vision.grounding.settings import GroundingSettings, parse_prompts
from pipeline.vision.sam.encoder import resize

# ImageNet's, as published; on a scale of 0–255.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def normalise(images: Tensor) -> Tensor:
    """Bring RGB images (B, 3, H, W), 0–255 of any dtype, to the detector's scale, as float32."""
    mean = torch.tensor(_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() - mean) / std


def canvas(images: Sequence[NDArray[np.uint8]], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lay images into the upper left of squares, so that what a model sees of one does not depend on the others.

    Args:
        images: RGB (H, W, 3), of any and of different sizes; their longer side is brought to `size` (bilinear).
        size: Side of the squares.
        device: Where the tensors are to be.

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


def token_similarity(regions: Tensor, text: Tensor, tokens: Tensor) -> Tensor:
    """Return S of equation (11), the text embeddings being those of tokens.

    Args:
        regions: E (J, d).
        text: (T, d) token features.
        tokens: (K, T) bool: tokens of each category, at least one.

    Returns:
        (J, K): the greatest cosine over a category's tokens.
    """
    cosines = F.normalize(regions, dim=-1) @ F.normalize(text, dim=-1).T
    return cosines[:, None].masked_fill(~tokens, -torch.inf).amax(-1)


def similarity(regions: Tensor, text: Tensor) -> Tensor:
    """Return S (J, K) of equation (11) for E (J, d) and E_T (K, d)."""
    return F.normalize(regions, dim=-1) @ F.normalize(text, dim=-1).T


def top_regions(similarities: Tensor, categories: Tensor, q: int, *, each: bool) -> Tensor:
    """Return which regions are selected, equation (12), as bool (J).

    Args:
        similarities: S (J, K).
        categories: (J) int64: as what each region was detected.
        q: How many are selected.
        each: Select the best q of every category by the similarity to it, instead of the best q of all by their
            highest similarity.
    """
    selected = torch.zeros(len(similarities), dtype=torch.bool, device=similarities.device)
    if not each:
        order = similarities.amax(1).argsort(descending=True, stable=True)
        selected[order[:q]] = True
        return selected
    for category in categories.unique():
        members = torch.nonzero(categories == category)[:, 0]
        order = similarities[members, category].argsort(descending=True, stable=True)
        selected[members[order[:q]]] = True
    return selected


def centred(text: Tensor) -> Tensor:
    """Return text embeddings (K, d) less their mean; a single one as it is."""
    return text - text.mean(0) if len(text) > 1 else text


def fit_map(descriptors: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Fit the linear map of `aligned`: the W that minimises ‖[X 1] W − Y‖² + ridge · N · ‖W‖², the bias being free.

    Args:
        descriptors: X (N, D), any scale: every column is divided by its deviation first, and W multiplied back.
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


def apply_map(descriptors: Tensor, weights: Tensor) -> Tensor:
    """Bring descriptors (J, D) into the space of the text by a map of `fit_map`."""
    return descriptors @ weights[:-1] + weights[-1]


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, best first.

    Attributes:
        boxes: (J, 4) float32: left, top, right, bottom in pixels of the image.
        scores: (J) float32 in [0, 1].
        categories: (J) int64.
        rows: (J) int64: the query that each comes from.
    """

    boxes: Tensor
    scores: Tensor
    categories: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def category_scores(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return (B, Q, K): the score of a category is the greatest sigmoid over its tokens.

    Args:
        logits: (B, Q, T) per token.
        tokens: (K, T) bool: tokens of each category, at least one.
    """
    width = tokens.shape[1]
    one = logits[:, :, None, :width].masked_fill(~tokens, float("-inf"))
    return one.amax(-1).sigmoid()


def select(
    grounding: Grounding, tokens: Tensor, settings: GroundingSettings, image: int, size: tuple[int, int], canvas: float
) -> Detections:
    """Choose the boxes of one image.

    Args:
        grounding: Answers for a batch.
        tokens: (K, T) bool: tokens of each category.
        settings: Thresholds, suppression, boxes kept.
        image: Row of the batch.
        size: Height and width of the image in pixels.
        canvas: Side in pixels of the image of the square that the boxes are shares of.
    """
    scores = category_scores(grounding.logits[-1][image : image + 1], tokens)[0]
    kept = scores.amax(1, keepdim=True) >= settings.box_threshold
    rows, categories = torch.nonzero(kept & (scores >= settings.text_threshold), as_tuple=True)
    score = scores[rows, categories]
    limits = torch.tensor([size[1], size[0], size[1], size[0]], device=scores.device)
    boxes = box_convert(grounding.boxes[-1][image], "cxcywh", "xyxy")[rows] * canvas
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    # Boxes that lie in the padding are empty now.
    whole = (boxes[:, 2:] - boxes[:, :2] > 0).all(1)
    boxes, score, rows, categories = boxes[whole], score[whole], rows[whole], categories[whole]
    best = batched_nms(boxes, score, categories, settings.nms)[: settings.boxes]
    return Detections(boxes[best], score[best], categories[best], rows[best])


@dataclass(frozen=True)
class Answer:
    """What is found in one image.

    Attributes:
        found: J boxes, best first.
        embeddings: (J, d): the decoder's queries that gave them.
        similarity: (J, K): cosines of these with the categories' tokens.
    """

    found: Detections
    embeddings: Tensor
    similarity: Tensor


class Detector:
    """Grounding DINO for one list of prompts.

    Args:
        settings: Model, prompts, thresholds.
        device: Where to compute.
        images_per_pass: Images that go through the model at once; halves when a GPU's memory runs out.

    Attributes:
        categories: What is looked for.

    Raises:
        CheckpointError: See `build_grounding_dino`.
        SettingsError: The prompts are too long, or hold words that the text encoder does not know.
    """

    def __init__(self, settings: GroundingSettings, device: torch.device, images_per_pass: int) -> None:
        self._settings = settings
        self._device = device
        self._size = settings.size or LAYOUTS[settings.variant].size
        self._model = build_grounding_dino(settings).to(device)
        self.categories = parse_prompts(settings.prompts)
        caption, tokens = category_tokens(self._model.tokenizer, self.categories)
        self._caption, self._tokens = caption.text, tokens.to(device)
        self._portion = AdaptiveBatch(images_per_pass, "images per pass of Grounding DINO", "lower semantics.grounding.size")

    @torch.inference_mode()
    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Answer]:
        """Look for all categories in images (H, W, 3), of any and of different sizes.

        Raises:
            ResourceError: Not even one image fits into the GPU's memory.
        """
        answers: list[Answer] = []
        while len(answers) < len(images):
            rest = images[len(answers) :]
            answers += self._portion.run(partial(self._first, rest))
        return answers

    def _first(self, images: Sequence[NDArray[np.uint8]], size: int) -> list[Answer]:
        return self._pass(images[:size])

    def _pass(self, images: Sequence[NDArray[np.uint8]]) -> list[Answer]:
        pixels, padding = canvas(images, self._size, self._device)
        grounding = ground(self._model, pixels, padding, [self._caption] * len(images))
        answers = []
        for row, image in enumerate(images):
            height, width = image.shape[:2]
            found = select(grounding, self._tokens, self._settings, row, (height, width), max(height, width))
            queries = grounding.queries[row][found.rows]
            answers.append(Answer(found, queries, token_similarity(queries, grounding.text[row], self._tokens)))
        return answers

    @torch.inference_mode()
    def category_embeddings(self) -> Tensor:
        """Return (K, d): the mean of each category's token features, which no image has touched."""
        text = encode_text(self._model, [self._caption], self._device)["encoded_text"][0]
        shares = self._tokens / self._tokens.sum(1, keepdim=True)
        return shares.float() @ text.float()
