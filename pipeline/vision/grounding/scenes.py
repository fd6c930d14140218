"""Training data of the mini Grounding DINO: scenes of the synthetic world in batches with random captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.datasets.records import Split
from pipeline.datasets.world.pair import read_objects, read_picture
from pipeline.vision.grounding.prompts import KINDS, PHRASES, Caption, compose_caption
from pipeline.vision.tensors import rotate_and_flip

MIN_AREA: Final = 8
"""Least visible pixels of an object that has a box: smaller ones are slivers at the border or between crowns."""

_REPEAT_THRESHOLD: Final = 0.3
"""Images of kinds that a smaller share of the images shows are repeated: repeat factor sampling (LVIS, section 4.2)."""


@dataclass(frozen=True)
class Scenes:
    """Images and their objects.

    Attributes:
        images: (I, 3, H, W) uint8.
        boxes: Per image (M, 4) float32: left, top, right, bottom in pixels.
        kinds: Per image (M) int64 indices into `KINDS`.
        areas: Per image (M) int64 visible pixels.
        land_cover: (I, H, W) uint8 indices into `LAND_CLASSES`.
    """

    images: Tensor
    boxes: list[NDArray[np.float32]]
    kinds: list[NDArray[np.int64]]
    areas: list[NDArray[np.int64]]
    land_cover: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Scenes:
        """Return the scenes with images and land cover on `device`."""
        return Scenes(self.images.to(device), self.boxes, self.kinds, self.areas, self.land_cover.to(device))


@dataclass(frozen=True)
class GroundingBatch:
    """Images, their captions, and the objects that the captions name.

    Attributes:
        images: (B, 3, H, W) uint8.
        captions: One per image.
        boxes: (B, M, 4) float32: centre x, y, width, height as shares of the image; padded with zeros.
        tokens: (B, M, T) bool: the tokens that name the object; padded with false.
        land_cover: (B, H, W) uint8 indices into `LAND_CLASSES`.
    """

    images: Tensor
    captions: list[str]
    boxes: Tensor
    tokens: Tensor
    land_cover: Tensor

    def to(self, device: torch.device) -> GroundingBatch:
        """Return the batch on `device`."""
        tensors = (self.boxes.to(device), self.tokens.to(device), self.land_cover.to(device))
        return GroundingBatch(self.images.to(device), self.captions, *tensors)


def read_scenes(world: Path, split: Split) -> Scenes:
    """Read both dates of a split of a generated world into memory."""
    images, boxes, kinds, areas, land_cover = [], [], [], [], []
    for name, record in read_objects(world, split).items():
        for date, key in (("A", "before"), ("B", "after")):
            images.append(read_picture(world, "images", split, date, f"{name}.png").transpose(2, 0, 1))
            land_cover.append(read_picture(world, "semantic", split, date, f"{name}.png"))
            objects = [item for item in record[key] if item["area"] >= MIN_AREA]
            boxes.append(np.array([item["bbox"] for item in objects], dtype=np.float32).reshape(-1, 4))
            kinds.append(np.array([KINDS.index(item["class"]) for item in objects], dtype=np.int64))
            areas.append(np.array([item["area"] for item in objects], dtype=np.int64))
    return Scenes(torch.from_numpy(np.stack(images)), boxes, kinds, areas, torch.from_numpy(np.stack(land_cover)))


def sampling_weights(scenes: Scenes) -> NDArray[np.float64]:
    """Return the probability of each image to be drawn (I): higher for images with rare kinds."""
    present = np.stack([np.bincount(kinds, minlength=len(KINDS)) > 0 for kinds in scenes.kinds])
    share = np.maximum(present.mean(0), 1 / len(scenes))
    repeats = np.where(present, np.sqrt(np.maximum(_REPEAT_THRESHOLD / share, 1.0)), 1.0).max(1)
    return np.asarray(repeats / repeats.sum())


def grounding_batches(
    scenes: Scenes,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    rng: np.random.Generator,
    phrases: Sequence[str] = tuple(PHRASES),
) -> Iterator[GroundingBatch]:
    """Yield as many batches as the scenes fill, drawn by `sampling_weights`.

    Each image is rotated and flipped at random and gets a caption of its own: a random choice of phrases in random
    order, some of which name nothing in it.
    """
    drawn = rng.choice(len(scenes), size=len(scenes) // batch_size * batch_size, p=sampling_weights(scenes))
    for rows in drawn.reshape(-1, batch_size):
        images, captions, boxes, kinds, land_cover = [], [], [], [], []
        for row in rows:
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            images.append(rotate_and_flip(scenes.images[row], turns, flip))
            land_cover.append(rotate_and_flip(scenes.land_cover[row], turns, flip))
            boxes.append(_rotated_boxes(scenes.boxes[row], scenes.images.shape[-1], turns, flip))
            kinds.append(scenes.kinds[row])
            count = int(rng.integers(len(phrases) // 4, len(phrases) * 2 // 3))
            captions.append(compose_caption(tokenizer, [phrases[i] for i in rng.permutation(len(phrases))[:count]]))
        yield _collate(torch.stack(images), captions, boxes, kinds, torch.stack(land_cover))


def _rotated_boxes(boxes: NDArray[np.float32], side: int, turns: int, flip: bool) -> NDArray[np.float32]:
    left, top, right, bottom = boxes.T
    for _ in range(turns):
        # A quarter turn counter-clockwise makes x the row, counted from the other end.
        left, top, right, bottom = top, side - right, bottom, side - left
    if flip:
        left, right = side - right, side - left
    return np.stack([left, top, right, bottom], axis=1)


def _collate(
    images: Tensor,
    captions: Sequence[Caption],
    boxes: Sequence[NDArray[np.float32]],
    kinds: Sequence[NDArray[np.int64]],
    land_cover: Tensor,
) -> GroundingBatch:
    """Keep the objects that the captions name, and pad boxes and tokens to the largest image's."""
    side = images.shape[-1]
    named_boxes, named_tokens = [], []
    for caption, image_boxes, image_kinds in zip(captions, boxes, kinds, strict=True):
        means = torch.tensor([[name in PHRASES[phrase] for phrase in caption.phrases] for name in KINDS])
        tokens = (means.float() @ caption.tokens.float()).bool()[torch.from_numpy(image_kinds)]
        named = tokens.any(1)
        corners = torch.from_numpy(image_boxes)[named] / side
        low, high = corners[:, :2], corners[:, 2:]
        named_tokens.append(tokens[named])
        named_boxes.append(torch.cat([(low + high) / 2, high - low], dim=1))
    most, longest = max(1, *map(len, named_boxes)), max(caption.tokens.shape[1] for caption in captions)
    padded_boxes = torch.zeros(len(images), most, 4)
    padded_tokens = torch.zeros(len(images), most, longest, dtype=torch.bool)
    for row, (centred_boxes, tokens) in enumerate(zip(named_boxes, named_tokens, strict=True)):
        padded_boxes[row, : len(centred_boxes)] = centred_boxes
        padded_tokens[row, : len(tokens), : tokens.shape[1]] = tokens
    return GroundingBatch(images, [caption.text for caption in captions], padded_boxes, padded_tokens, land_cover)
