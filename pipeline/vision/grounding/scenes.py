"""Scenes of the synthetic world as a detector is trained on them: images, boxes, and captions to ground."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.datasets.records import Split
from pipeline.datasets.world.pair import read_objects, read_picture
from pipeline.vision.grounding.prompts import KINDS, PHRASES, Caption, compose

SMALLEST = 8
"""Visible pixels that an object must have to be asked for: less is a sliver at the border or between crowns."""

_FREQUENT = 0.3
"""A kind that a smaller share of the images shows is drawn more often, by the root of the ratio (LVIS, section 4.2)."""


@dataclass(frozen=True)
class Scenes:
    """Single images with their objects.

    Attributes:
        images: (I, 3, H, W) uint8.
        boxes: Per image (M, 4) float32: left, top, right, bottom in pixels.
        kinds: Per image (M) int64 indices into `KINDS`.
        areas: Per image (M) int64 visible pixels.
        land: (I, H, W) uint8 land classes.
    """

    images: Tensor
    boxes: list[NDArray[np.float32]]
    kinds: list[NDArray[np.int64]]
    areas: list[NDArray[np.int64]]
    land: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Scenes:
        """Return the scenes with their images on `device`."""
        return Scenes(self.images.to(device), self.boxes, self.kinds, self.areas, self.land.to(device))


@dataclass(frozen=True)
class GroundingBatch:
    """Images, what is asked of each, and what is true.

    Attributes:
        images: (B, 3, H, W) uint8.
        captions: One per image.
        boxes: (B, M, 4) float32: centre x, y, width, height as shares of the image; rows beyond an image's are zero.
        tokens: (B, M, T) bool: the tokens that name the object; none for rows beyond an image's.
        land: (B, H, W) uint8 land classes.
    """

    images: Tensor
    captions: list[str]
    boxes: Tensor
    tokens: Tensor
    land: Tensor

    def to(self, device: torch.device) -> GroundingBatch:
        """Return the batch on `device`."""
        tensors = (self.boxes.to(device), self.tokens.to(device), self.land.to(device))
        return GroundingBatch(self.images.to(device), self.captions, *tensors)


def read_scenes(world: Path, split: Split) -> Scenes:
    """Read both dates of a split of a generated world into memory."""
    images, boxes, kinds, areas, land = [], [], [], [], []
    for name, record in read_objects(world, split).items():
        for date, key in (("A", "before"), ("B", "after")):
            images.append(read_picture(world, "images", split, date, f"{name}.png").transpose(2, 0, 1))
            land.append(read_picture(world, "semantic", split, date, f"{name}.png"))
            objects = [item for item in record[key] if item["area"] >= SMALLEST]
            boxes.append(np.array([item["bbox"] for item in objects], dtype=np.float32).reshape(-1, 4))
            kinds.append(np.array([KINDS.index(item["class"]) for item in objects], dtype=np.int64))
            areas.append(np.array([item["area"] for item in objects], dtype=np.int64))
    return Scenes(torch.from_numpy(np.stack(images)), boxes, kinds, areas, torch.from_numpy(np.stack(land)))


def sampling_weights(scenes: Scenes) -> NDArray[np.float64]:
    """Return how often each image is to be drawn, as probabilities: images with rare kinds more often."""
    shows = np.stack([np.bincount(kinds, minlength=len(KINDS)) > 0 for kinds in scenes.kinds])
    share = np.maximum(shows.mean(0), 1 / len(scenes))
    repeats = np.where(shows, np.sqrt(np.maximum(_FREQUENT / share, 1.0)), 1.0).max(1)
    return np.asarray(repeats / repeats.sum())


def grounding_batches(
    scenes: Scenes,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    rng: np.random.Generator,
    phrases: Sequence[str] = tuple(PHRASES),
) -> Iterator[GroundingBatch]:
    """Yield as many batches as the scenes fill, drawn by `sampling_weights`.

    Each image is turned and mirrored at random and gets a caption of its own: a random choice of phrases in random
    order, some of which name nothing in it.
    """
    chosen = rng.choice(len(scenes), size=len(scenes) // size * size, p=sampling_weights(scenes))
    for rows in chosen.reshape(-1, size):
        images, captions, boxes, kinds, land = [], [], [], [], []
        for row in rows:
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            images.append(_turned(scenes.images[row], turns, mirrored))
            land.append(_turned(scenes.land[row], turns, mirrored))
            boxes.append(_turned_boxes(scenes.boxes[row], scenes.images.shape[-1], turns, mirrored))
            kinds.append(scenes.kinds[row])
            count = int(rng.integers(len(phrases) // 4, len(phrases) * 2 // 3))
            captions.append(compose(tokenizer, [phrases[i] for i in rng.permutation(len(phrases))[:count]]))
        yield _collate(torch.stack(images), captions, boxes, kinds, torch.stack(land))


def _collate(
    images: Tensor,
    captions: Sequence[Caption],
    boxes: Sequence[NDArray[np.float32]],
    kinds: Sequence[NDArray[np.int64]],
    land: Tensor,
) -> GroundingBatch:
    side = images.shape[-1]
    named, asked = [], []
    for caption, box, kind in zip(captions, boxes, kinds, strict=True):
        means = torch.tensor([[name in PHRASES[phrase] for phrase in caption.phrases] for name in KINDS])
        tokens = (means.float() @ caption.tokens.float()).bool()[torch.from_numpy(kind)]
        present = tokens.any(1)
        corners = torch.from_numpy(box)[present] / side
        low, high = corners[:, :2], corners[:, 2:]
        named.append(tokens[present])
        asked.append(torch.cat([(low + high) / 2, high - low], dim=1))
    most, longest = max(1, *(len(box) for box in asked)), max(caption.tokens.shape[1] for caption in captions)
    all_boxes = torch.zeros(len(asked), most, 4)
    all_tokens = torch.zeros(len(asked), most, longest, dtype=torch.bool)
    for row, (wanted, tokens) in enumerate(zip(asked, named, strict=True)):
        all_boxes[row, : len(wanted)] = wanted
        all_tokens[row, : len(wanted), : tokens.shape[1]] = tokens
    return GroundingBatch(images, [caption.text for caption in captions], all_boxes, all_tokens, land)


def _turned(image: Tensor, turns: int, mirrored: bool) -> Tensor:
    image = torch.rot90(image, turns, (-2, -1))
    return image.flip(-1) if mirrored else image


def _turned_boxes(boxes: NDArray[np.float32], side: int, turns: int, mirrored: bool) -> NDArray[np.float32]:
    left, top, right, bottom = boxes.T
    for _ in range(turns):
        # A quarter turn against the clock takes x to the row, counted from the other end.
        left, top, right, bottom = top, side - right, bottom, side - left
    if mirrored:
        left, right = side - right, side - left
    return np.stack([left, top, right, bottom], axis=1)
