"""Training of the mini SAM from scratch, after SAM (arXiv 2304.02643, section 3 and appendix A).

One pass of the encoder serves all prompts of an image. A point is ambiguous: it may mean an object or the larger
surface that the object is part of, as a point on a road may mean this road or the whole network. So every prompt has
two targets, three masks answer a point, and the best of them is trained; a box means its object. Dense tasks on the
image embedding, before and beside the masks, teach the encoder what segments are at a fraction of the cost of prompts:
what covers the ground, where segments meet, and how far it is from each pixel to the sides of its segment's box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.sam.amg import MASK_THRESHOLD
from pipeline.vision.sam.decoder import decode, embed_boxes, embed_points
from pipeline.vision.tensors import TensorBatch, boxes_of_masks, rotate_and_flip

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)
_MIN_AREA = 8
"""Segments of fewer pixels are not prompted for."""
_AREA_POWER = 0.2
"""A segment's probability is proportional to its area to this power: 0 is uniform over segments, 1 over pixels."""
_BOX_JITTER = 0.1
"""Standard deviation of a box's edges as a share of its sides (SAM, arXiv 2304.02643, appendix A)."""


@dataclass(frozen=True)
class SegmentedImages(TensorBatch):
    """Images with their segments, each as a map of segment numbers.

    Attributes:
        images: (N, 3, H, W) uint8.
        land_cover: (N, H, W) uint8 class indices.
        segments: (N, H, W) int16: positive numbers are objects, negative ones are connected parts of open ground.
        surfaces: (N, H, W) int16: connected parts of one land-cover class, whatever objects they are made of.
    """

    images: Tensor
    land_cover: Tensor
    segments: Tensor
    surfaces: Tensor

    def rotated(self, quarter_turns: int, mirrored: bool) -> SegmentedImages:
        """Return the images rotated by quarter turns and, if asked, mirrored; see `rotate_and_flip`."""
        return self.map(lambda tensor: rotate_and_flip(tensor, quarter_turns, mirrored).contiguous())


@dataclass(frozen=True)
class PromptBatch(TensorBatch):
    """A batch of images with equally many prompts on each.

    Attributes:
        pixels: (B, 3, H, W) float32, 0–255, colours changed a little.
        land_cover: (B, H, W) uint8.
        segments: (B, H, W) int16.
        boxes: (B, Q, 4) float32: left, top, right, bottom; jittered.
        points: (B, P, 2) int64: column and row.
        targets: (B, Q + P, 2, H, W) bool: segment and surface that each prompt means, boxes before points.
    """

    pixels: Tensor
    land_cover: Tensor
    segments: Tensor
    boxes: Tensor
    points: Tensor
    targets: Tensor


def segment(
    instances: NDArray[np.integer], land_cover: NDArray[np.uint8]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Number the segments and surfaces of an image.

    Args:
        instances: (H, W): object numbers, 0 for open ground.
        land_cover: (H, W): class indices.

    Returns:
        Segments and surfaces as `SegmentedImages` has them. Parts of open ground are connected by their sides, so that
        a path one pixel wide separates them; surfaces by sides or corners.
    """
    _, objects = np.unique(instances, return_inverse=True)
    # Without open ground the lowest number is an object's.
    segments = (objects.reshape(instances.shape) + (0 if (instances == 0).any() else 1)).astype(np.int16)
    surfaces = np.zeros(instances.shape, dtype=np.int16)
    grounds = connected = 0
    for value in np.unique(land_cover):
        ground, count = ndimage.label((land_cover == value) & (instances == 0))
        segments[ground > 0] = -(ground[ground > 0] + grounds)
        grounds += count
        surface, count = ndimage.label(land_cover == value, structure=_EIGHT_NEIGHBOURS)
        surfaces[surface > 0] = surface[surface > 0] + connected
        connected += count
    return segments, surfaces


def batches(
    images: SegmentedImages, size: int, points: int, boxes: int, rng: np.random.Generator
) -> Iterator[PromptBatch]:
    """Yield shuffled batches with freshly drawn prompts, rotated and mirrored at random; a short last one is left out.

    Args:
        images: What to draw from.
        size: Images per batch.
        points: Prompts of one point, per image.
        boxes: Prompts of one box, per image.
        rng: Random generator.
    """
    order = torch.from_numpy(rng.permutation(len(images)))
    for start in range(0, len(images) - size + 1, size):
        batch = images.select(order[start : start + size]).rotated(int(rng.integers(4)), bool(rng.integers(2)))
        yield draw_prompts(batch, points, boxes, rng)


def draw_prompts(images: SegmentedImages, points: int, boxes: int, rng: np.random.Generator) -> PromptBatch:
    """Draw prompts on images, and change their colours a little."""
    count, _, height, width = images.images.shape
    pixels = torch.from_numpy(
        np.stack([_draw_pixels(segments, boxes + points, rng) for segments in images.segments.numpy()])
    )
    each, flat = torch.arange(count)[:, None], pixels
    segments, surfaces = images.segments.flatten(1), images.surfaces.flatten(1)
    targets = torch.stack(
        [
            images.segments[:, None] == segments[each, flat][..., None, None],
            images.surfaces[:, None] == surfaces[each, flat][..., None, None],
        ],
        dim=2,
    )
    exact = boxes_of_masks(targets[:, :boxes, 0].flatten(0, 1)).unflatten(0, (count, boxes))
    sides = (exact[..., 2:] - exact[..., :2]).repeat(1, 1, 2)
    jittered = exact + torch.from_numpy(rng.normal(0, _BOX_JITTER, exact.shape)).float() * sides
    gain = rng.uniform(0.85, 1.15, (count, 3, 1, 1)).astype(np.float32)
    offset = rng.uniform(-12, 12, (count, 1, 1, 1)).astype(np.float32)
    return PromptBatch(
        pixels=images.images.float() * torch.from_numpy(gain) + torch.from_numpy(offset),
        land_cover=images.land_cover,
        segments=images.segments,
        boxes=jittered.clamp(0, max(height, width)),
        points=torch.stack([flat[:, boxes:] % width, flat[:, boxes:] // width], dim=-1),
        targets=targets,
    )


def _draw_pixels(segments: NDArray[np.int16], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `count` pixels as indices into the flattened image: a segment each, and a pixel anywhere within it."""
    flat = segments.ravel()
    numbers, areas = np.unique(flat, return_counts=True)
    weight = np.where(areas >= _MIN_AREA, areas, 0) ** _AREA_POWER
    drawn = rng.choice(len(numbers), count, p=weight / weight.sum())
    positions = rng.random(count)
    inside = [np.flatnonzero(flat == numbers[row]) for row in drawn]
    return np.array(
        [pixels[int(position * len(pixels))] for pixels, position in zip(inside, positions, strict=True)],
        dtype=np.int64,
    )


FOCAL_WEIGHT = 20.0
"""Weight of the focal loss beside the dice loss (SAM, arXiv 2304.02643, appendix A)."""
_ALPHA = 0.25


def mask_costs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 20 × focal + dice loss of each output against each target.

    Focal loss with α = 0.25, γ = 2 (Lin et al. 2017) averaged over the mask, dice loss with one pixel added to both
    sides of the fraction. Both are linear in the target, so that all pairs are products of matrices.

    Args:
        logits: (P, K, h, w): K outputs of each of P prompts.
        targets: (P, L, h, w) in [0, 1]: the share of each cell that is of the target.

    Returns:
        (P, K, L).
    """
    x, truth = logits.flatten(2), targets.flatten(2).transpose(1, 2)
    inside, outside = x.sigmoid(), (-x).sigmoid()
    negative_log = F.softplus(-x)
    present = _ALPHA * outside.square() * negative_log
    absent = (1 - _ALPHA) * inside.square() * (negative_log + x)
    focal = (torch.bmm(present - absent, truth) + absent.sum(-1, keepdim=True)) / x.shape[-1]
    overlap = torch.bmm(inside, truth)
    dice = 1 - (2 * overlap + 1) / (inside.sum(-1, keepdim=True) + truth.sum(1)[:, None] + 1)
    return FOCAL_WEIGHT * focal + dice


@torch.no_grad()
def mask_ious(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU of each output with each target, as the masks come out in the end.

    Args:
        logits: (P, K, h, w) in low resolution; they are brought to the targets' size bilinearly.
        targets: (P, L, H, W), 0 or 1.

    Returns:
        (P, K, L) in [0, 1]; 0 where both are empty.
    """
    whole = F.interpolate(logits.detach(), size=targets.shape[-2:], mode="bilinear", align_corners=False)
    masks, truth = (whole > MASK_THRESHOLD).float().flatten(2), targets.float().flatten(2)
    overlap = torch.bmm(masks, truth.transpose(1, 2))
    union = masks.sum(-1, keepdim=True) + truth.sum(-1)[:, None] - overlap
    return overlap / union.clamp(min=1)


DETAIL = 4
"""Targets are predicted at this many sub-cells a side of every token."""


class DenseHead(nn.Module):
    """A linear head on the image embedding; thrown away after training.

    Args:
        channels: Of the embedding.
        classes: Number of land-cover classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self._channels = (classes, 1, 4)
        self.linear = nn.Conv2d(channels, sum(self._channels) * DETAIL**2, 1)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map embeddings (B, C, h, w) to logits of land cover and of borders, and sides, at DETAIL·h × DETAIL·w."""
        land_cover, border, sides = F.pixel_shuffle(self.linear(embeddings), DETAIL).split(self._channels, dim=1)
        return land_cover, border, sides

    def loss(self, embeddings: Tensor, land_cover: Tensor, segments: Tensor) -> Tensor:
        """Return the sum of the three tasks' losses.

        Args:
            embeddings: (B, C, h, w).
            land_cover: (B, H, W) class indices.
            segments: (B, H, W) segment numbers, of any sign.
        """
        cover, border, sides = self(embeddings)
        cell = segments.shape[-1] // cover.shape[-1]
        middle = slice(cell // 2, None, cell)
        return (
            0.5 * F.cross_entropy(cover, land_cover[:, middle, middle].long())
            + F.binary_cross_entropy_with_logits(border, F.avg_pool2d(borders(segments).float()[:, None], cell))
            + F.l1_loss(sides, (1 + box_sides(segments)[:, :, middle, middle]).log() / 2)
        )


def borders(segments: Tensor) -> Tensor:
    """Return where a pixel of (B, H, W) has a neighbour to its side, above or below of another segment."""
    border = torch.zeros_like(segments, dtype=torch.bool)
    across, down = segments[:, :, 1:] != segments[:, :, :-1], segments[:, 1:] != segments[:, :-1]
    border[:, :, 1:] |= across
    border[:, :, :-1] |= across
    border[:, 1:] |= down
    border[:, :-1] |= down
    return border


def box_sides(segments: Tensor) -> Tensor:
    """Return how many pixels lie between each pixel of (B, H, W) and the sides of its segment's box.

    Returns:
        (B, 4, H, W) float32: to the left, top, right and bottom; 0 on that side itself.
    """
    images, height, width = segments.shape
    numbers = segments.long() - segments.min().long()
    count = int(numbers.max()) + 1
    key = (numbers + count * torch.arange(images, device=segments.device)[:, None, None]).flatten()
    y, x = torch.meshgrid(
        torch.arange(height, device=key.device), torch.arange(width, device=key.device), indexing="ij"
    )

    def reduced(values: Tensor, how: str, start: int) -> Tensor:
        table = torch.full((images * count,), start, device=key.device)
        table = table.scatter_reduce(0, key, values.expand(images, -1, -1).flatten(), how)
        return table[key].view(images, height, width)

    left, top = x - reduced(x, "amin", width), y - reduced(y, "amin", height)
    right, bottom = reduced(x, "amax", -1) - x, reduced(y, "amax", -1) - y
    return torch.stack([left, top, right, bottom], dim=1).float()


MIN_OBJECT_AREA = 30
"""Objects of fewer visible pixels are not validated on: at 8 pixels per token they are hardly visible."""


class SamPretraining(nn.Module):
    """A SAM with a dense head on its image embedding; the head is thrown away afterwards.

    Args:
        sam: What is to be trained.
        classes: Number of land-cover classes.
    """

    def __init__(self, sam: Sam, classes: int) -> None:
        super().__init__()
        self.sam = sam
        self.dense = DenseHead(sam.prompt_encoder.embed_dim, classes)

    def matrices(self) -> list[Tensor]:
        """Return the weights of the linear layers of the image encoder's blocks."""
        blocks = self.sam.image_encoder.blocks
        return [layer.weight for layer in blocks.modules() if isinstance(layer, nn.Linear)]

    def encode(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, S, S), 0–255, to image embeddings (B, C, h, w) float32."""
        normalised = (pixels - self.sam.pixel_mean) / self.sam.pixel_std
        # Less than half the time of a step in float32 on CPUs that know bfloat16, and on GPUs.
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=self.training):
            embeddings: Tensor = self.sam.image_encoder(normalised)
        return embeddings.float()

    def losses(self, batch: PromptBatch) -> dict[str, Tensor]:
        """Return the losses of a batch, each a scalar; without prompts only the dense tasks'.

        `point` is the cost of the best of the three masks, for the segment and with half the weight for the surface,
        and of the single mask for the segment; `box` that of the single mask; `iou` the squared error of predicted IoU
        against the better of both targets.
        """
        embeddings = self.encode(batch.pixels)
        losses = {"dense": self.dense.loss(embeddings, batch.land_cover, batch.segments)}
        boxes, points = batch.boxes.shape[1], batch.points.shape[1]
        if boxes + points == 0:
            return losses
        prompts = [embed_boxes(self.sam.prompt_encoder, batch.boxes)] if boxes else []
        prompts += [embed_points(self.sam.prompt_encoder, batch.points.float())] if points else []
        logits, predicted = decode(self.sam, embeddings, torch.cat(prompts, dim=1))
        targets = batch.targets.flatten(0, 1).float()
        cell = targets.shape[-1] // logits.shape[-1]
        costs = mask_costs(logits.flatten(0, 1), F.avg_pool2d(targets, cell)).unflatten(0, logits.shape[:2])
        ious = mask_ious(logits.flatten(0, 1), targets).unflatten(0, logits.shape[:2])
        single = F.mse_loss(predicted[..., 0], ious[..., 0, 0])
        if boxes:
            losses["box"] = 0.5 * costs[:, :boxes, 0, 0].mean()
        if points:
            segment, surface = costs[:, boxes:, 1:].amin(dim=2).unbind(-1)
            losses["point"] = (segment + 0.5 * surface + 0.25 * costs[:, boxes:, 0, 0]).mean() / 1.5
            multiple = F.mse_loss(predicted[:, boxes:, 1:], ious[:, boxes:, 1:].amax(dim=-1))
            losses["iou"] = multiple + 0.5 * single
        else:
            losses["iou"] = single
        return losses


@torch.inference_mode()
def validate(model: SamPretraining, images: SegmentedImages) -> dict[str, float]:
    """Prompt every object of at least `MIN_OBJECT_AREA` pixels by a random point of it and by its box.

    Returns:
        Means over objects, in [0, 1]. `point_iou`: of the best of three masks with the object. `point_recall`: share of
        objects for which that is 0.5 or more. `chosen_iou`: of the mask of the highest predicted IoU with the object or
        its surface. `box_iou`: of the single mask with the object. `iou_error`: absolute error of predicted IoU.
    """
    model.eval()
    device = next(model.parameters()).device
    rng = np.random.default_rng(0)
    best, chosen, box, errors = ([torch.zeros(0)] for _ in range(4))
    for pixels, points, objects, surfaces in _objects(images, rng):
        embeddings = model.encode(pixels.to(device))
        targets = torch.stack([objects, surfaces], dim=1).to(device)
        logits, predicted = decode(
            model.sam, embeddings, embed_points(model.sam.prompt_encoder, points[None].float().to(device))
        )
        ious = mask_ious(logits[0, :, 1:], targets)
        either, guessed = ious.amax(dim=-1), predicted[0, :, 1:]
        best.append(ious[..., 0].amax(dim=1).cpu())
        chosen.append(either.gather(1, guessed.argmax(dim=1, keepdim=True))[:, 0].cpu())
        errors.append((guessed - either).abs().mean(dim=1).cpu())
        corners = boxes_of_masks(objects)[None].to(device)
        logits, _ = decode(model.sam, embeddings, embed_boxes(model.sam.prompt_encoder, corners))
        box.append(mask_ious(logits[0, :, :1], targets[:, :1])[:, 0, 0].cpu())
    means = {"point_iou": best, "chosen_iou": chosen, "box_iou": box, "iou_error": errors}
    scores = {name: _mean(torch.cat(values)) for name, values in means.items()}
    return {**scores, "point_recall": _mean((torch.cat(best) >= 0.5).float())}


def _objects(images: SegmentedImages, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield pixels (1, 3, H, W), points (K, 2), masks of objects (K, H, W) and of their surfaces, for each image."""
    for row in range(len(images)):
        segments, surfaces = images.segments[row], images.surfaces[row]
        numbers, areas = segments[segments > 0].unique(return_counts=True)
        numbers = numbers[areas >= MIN_OBJECT_AREA]
        if len(numbers) == 0:
            continue
        objects = segments[None] == numbers[:, None, None]
        pixels = [mask.nonzero() for mask in objects]
        rows, columns = torch.stack([inside[rng.integers(len(inside))] for inside in pixels]).unbind(1)
        whole = surfaces[None] == surfaces[rows, columns][:, None, None]
        yield images.images[row : row + 1].float(), torch.stack([columns, rows], dim=1), objects, whole


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
