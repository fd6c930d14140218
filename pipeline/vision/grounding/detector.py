"""Grounding DINO with its prompts: images in, boxes with categories, scores and embeddings out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.vision.grounding.categories import parse_prompts
from pipeline.vision.grounding.detection import Detections, select
from pipeline.vision.grounding.forward import encode_text, ground
from pipeline.vision.grounding.images import canvas
from pipeline.vision.grounding.model import LAYOUTS, build_grounding_dino
from pipeline.vision.grounding.settings import GroundingSettings
from pipeline.vision.grounding.similarity import token_similarity
from pipeline.vision.grounding.text import category_tokens
from pipeline.vision.portions import Portion


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
        self._portion = Portion(images_per_pass, "images per pass of Grounding DINO", "lower semantics.grounding.size")

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
