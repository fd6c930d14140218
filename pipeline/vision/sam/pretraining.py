"""Training the mini SAM from scratch, after SAM (arXiv 2304.02643, section 3 and appendix A).

A point may mean several things, so three masks answer it and the best of them is trained; a box means one. An encoder
pass serves all prompts of an image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.sam.dense import DenseHead
from pipeline.vision.sam.examples import Prompted, SegmentedImages, boxes_of
from pipeline.vision.sam.losses import mask_costs, mask_ious
from pipeline.vision.sam.prompting import decode, embed_boxes, embed_points

SMALLEST_OBJECT = 30
"""Objects of fewer visible pixels are not validated on: at 8 pixels per token little is left of them."""


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

    def losses(self, batch: Prompted) -> dict[str, Tensor]:
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
    """Prompt every object of at least `SMALLEST_OBJECT` pixels by a random point of it and by its box.

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
        corners = boxes_of(objects)[None].to(device)
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
        numbers = numbers[areas >= SMALLEST_OBJECT]
        if len(numbers) == 0:
            continue
        objects = segments[None] == numbers[:, None, None]
        places = [mask.nonzero() for mask in objects]
        rows, columns = torch.stack([place[rng.integers(len(place))] for place in places]).unbind(1)
        whole = surfaces[None] == surfaces[rows, columns][:, None, None]
        yield images.images[row : row + 1].float(), torch.stack([columns, rows], dim=1), objects, whole


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
