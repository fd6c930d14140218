"""Automatic masks of whole images: segment_anything's SamAutomaticMaskGenerator, batched over images and prompts.

What it returns is what the reference returns at the same settings, in another order; only masks without a pixel, which
a stability threshold of 0 lets pass there, are dropped here. It is faster because a mask is drawn only once its
predicted IoU has passed, at full size only to be measured and again if it remains, because the images of a batch share
passes of encoder and decoder, and because nothing leaves the device before an image is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.adaptive_batch import EVERYTHING, AdaptiveBatch, padded_chunks
from pipeline.vision.sam import amg
from pipeline.vision.sam.amg import (
    MASK_THRESHOLD,
    Candidates,
    CropView,
    Measures,
    coarse_indices,
    concat,
    crops,
    measure,
    near_crop_edge,
    point_grid,
)
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.decoder import Decoded, ImageTokens, PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.postprocess import postprocess
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings

_AMBIGUOUS = slice(1, 4)
"""The three masks that the decoder gives for a point."""
_PROMPTS_DRAWN = {"cpu": 16, "cuda": 128}
"""Prompts whose masks are drawn at once, in low resolution."""
_PIXELS_MEASURED = {"cpu": 1 << 18, "cuda": 1 << 28}
"""Pixels of masks, at the encoder's size or the image's, that are measured at once."""
_EMBEDDED_GRIDS = 64
"""Point grids, one for each size of image, whose embeddings are cached."""

Indices = NDArray[np.int64]


class PointPrompter:
    """Prompts SAM with grids of points, and filters each mask by itself: predicted IoU, then stability and crop edges.

    Args:
        decoder: Of the model.
        settings: Points and thresholds.
    """

    def __init__(self, decoder: PromptDecoder, settings: GeneratorSettings) -> None:
        self.decoder = decoder
        self._settings = settings
        kind = decoder.device.type
        self._drawing = AdaptiveBatch(_PROMPTS_DRAWN[kind], "prompts drawn at once", "lower models.sam.encoder_size")
        self._measuring = AdaptiveBatch(_PIXELS_MEASURED[kind], "masks measured at once", "make the images smaller")
        self._embedded: dict[tuple[int, tuple[int, int]], Tensor] = {}

    def predict(self, embeddings: Tensor, views: Sequence[CropView], points_per_batch: int) -> list[Candidates]:
        """Return the masks of each view's grid; with a coarse stride, of its coarse points and those left uncovered.

        Every pass has the same shape, short ones being padded: it then runs the same kernels, so that the masks of a
        view do not depend on other views.

        Args:
            embeddings: (V, C, h, w): of the views.
            views: All with the same number of points.
            points_per_batch: Points per pass.

        Returns:
            Of each view, its masks in the order of the points.
        """
        prompts = torch.stack([self._embedded_grid(view) for view in views])
        each = min(points_per_batch, prompts.shape[1])
        views_at_once = max(1, min(points_per_batch // each, len(views)))
        candidates = [[self._no_candidates(embeddings)] for _ in views]
        coarse = coarse_indices(views[0].crop.points, self._settings.coarse_stride)
        for rows, real in padded_chunks(np.arange(len(views)), views_at_once):
            images = self.decoder.image_tokens(embeddings[rows])
            real_views = [views[row] for row in rows[:real]]
            for number, masks in self._predict(images, real_views, prompts[rows], coarse, each):
                candidates[rows[number]].append(masks)
        if self._settings.coarse_stride > 1:
            for row, view in enumerate(views):
                images = self.decoder.image_tokens(embeddings[row : row + 1])
                uncovered = self._uncovered(view, concat(candidates[row]), coarse)
                for _, masks in self._predict(images, [view], prompts[row : row + 1], uncovered, each):
                    candidates[row].append(masks)
        return [concat(parts) for parts in candidates]

    def _predict(
        self, images: ImageTokens, views: Sequence[CropView], prompts: Tensor, points: Indices, each: int
    ) -> Iterator[tuple[int, Candidates]]:
        """Yield pairs of the number of a view and masks of it.

        Args:
            images: V images.
            views: Of the first images; the others are padding.
            prompts: (V, P, 2, C): embedded points.
            points: Indices among P of the points to prompt with.
            each: Points of each view per pass.
        """
        for indices, real in padded_chunks(points, each):
            decoded = self.decoder.decode(images, prompts[:, indices])
            passes = self._passes_iou(decoded).reshape(len(prompts), each, -1)
            passes[len(views) :] = passes[:, real:] = False
            for prompt, logits, iou in self._draw(decoded, passes.reshape(len(prompts) * each, -1)):
                owners = prompt // each
                for owner in np.unique(owners):
                    rows = torch.from_numpy(np.flatnonzero(owners == owner)).to(logits.device)
                    yield int(owner), self._filter(views[owner], logits[rows], iou[rows])

    def _uncovered(self, view: CropView, candidates: Candidates, prompted: Indices) -> Indices:
        """Return the points of a view's grid that are neither among those prompted nor well within a candidate."""
        # The middle of the pixel that a point lies in, from −1 to 1 over the encoder's image.
        pixels = np.floor(point_grid(view.crop.points, view.crop.size, view.valid_size)) + 0.5
        positions = torch.from_numpy(pixels * 2 / self.decoder.encoder_size - 1).to(candidates.logits)
        logits = F.grid_sample(
            candidates.logits[None], positions[None, None], padding_mode="border", align_corners=False
        )
        threshold = MASK_THRESHOLD + self._settings.stability_score_offset
        uncovered = ~(logits[0, :, 0] > threshold).any(0).cpu().numpy()
        uncovered[prompted] = False
        return np.flatnonzero(uncovered)

    def _passes_iou(self, decoded: Decoded) -> NDArray[np.bool_]:
        """Return which of the masks (3) of each prompt (B) have a high enough predicted IoU."""
        iou = decoded.iou[:, _AMBIGUOUS]
        threshold = self._settings.pred_iou_thresh
        # As in the reference, 0 lets everything pass, the negative too.
        return (iou > threshold if threshold > 0 else torch.ones_like(iou, dtype=torch.bool)).cpu().numpy()

    def _draw(self, decoded: Decoded, passes: NDArray[np.bool_]) -> Iterator[tuple[Indices, Tensor, Tensor]]:
        """Draw the masks that pass (B, 3).

        Yields:
            Of K masks: the indices of their prompts (K), logits (K, h, w), predicted IoU (K).
        """
        prompts = np.flatnonzero(passes.any(axis=1))
        while len(prompts):
            drawn, masks = self._drawing.run(partial(self._draw_first, decoded, passes, prompts))
            yield masks
            prompts = prompts[drawn:]

    def _draw_first(
        self, decoded: Decoded, passes: NDArray[np.bool_], prompts: Indices, size: int
    ) -> tuple[int, tuple[Indices, Tensor, Tensor]]:
        """Draw the masks of the first `size` prompts; return how many these are, and what `_draw` yields."""
        padded, real = next(padded_chunks(prompts[:size], size))
        rows = torch.from_numpy(padded).to(self.decoder.device)
        logits = self.decoder.logits(decoded, rows, _AMBIGUOUS)
        selected = passes[padded]
        selected[real:] = False
        masks = torch.from_numpy(np.flatnonzero(selected)).to(self.decoder.device)
        iou = decoded.iou[rows][:, _AMBIGUOUS]
        return real, (np.repeat(padded, selected.sum(axis=1)), logits.flatten(0, 1)[masks], iou.flatten()[masks])

    def _filter(self, view: CropView, logits: Tensor, iou: Tensor) -> Candidates:
        """Return those of a view's masks (K, h, w) that are stable, not empty, and not cut off by the crop."""
        measures = self._measuring.run(partial(self._measure, view, logits), cost=view.pixels_per_mask)
        stability = torch.cat([batch.stability for batch in measures])
        boxes = torch.cat([batch.boxes for batch in measures])
        boxes += boxes.new_tensor([view.crop.left, view.crop.top] * 2)
        passes = (boxes[:, 2] >= boxes[:, 0]) & ~near_crop_edge(boxes, view.crop, view.image_size)
        # An undefined score (no pixel above either threshold) does not pass either.
        passes &= stability >= self._settings.stability_score_thresh
        return Candidates(logits, iou, stability, boxes)[passes]

    def _measure(self, view: CropView, logits: Tensor, size: int) -> list[Measures]:
        return [measure(view.upsampled(batch), self._settings.stability_score_offset) for batch in logits.split(size)]

    def _no_candidates(self, embeddings: Tensor) -> Candidates:
        side = 4 * self.decoder.encoder_size // self.decoder.patch
        scores = embeddings.new_zeros(0)
        return Candidates(embeddings.new_zeros((0, side, side)), scores, scores, scores.new_zeros((0, 4)).long())

    def _embedded_grid(self, view: CropView) -> Tensor:
        """Return the embedded points (P, 2, C) of a view."""
        key = view.crop.points, view.crop.size
        if key not in self._embedded:
            if len(self._embedded) == _EMBEDDED_GRIDS:
                self._embedded.clear()
            points = point_grid(view.crop.points, view.crop.size, view.valid_size)
            self._embedded[key] = self.decoder.points(torch.from_numpy(points))
        return self._embedded[key]


_IMAGES = {"cpu": 4, "cuda": 8}
_POINTS = {"cpu": 32, "cuda": 1024}
"""Defaults of `images_per_batch` and `points_per_batch`."""
_PIXELS_POSTPROCESSED = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Pixels of masks that are upsampled at once when an image is postprocessed."""
_PIXELS_COMPARED = 1 << 28
"""Pixels of masks, in low resolution, that are compared with others at once."""
_SMALLER = "lower models.sam.encoder_size, or make the images smaller"


class MaskGenerator:
    """Generates the masks of images.

    Attributes:
        encoder: Makes the image embeddings.
        images_per_batch: Images that it encodes at once.

    Args:
        sam: The model.
        sam_settings: What it was built from.
        settings: Points, thresholds, batches.
        device: Where to compute.
        precision: fp32, or bf16 in weights and activations.
        compiled: Whether encoder and decoder go through torch.compile.
    """

    def __init__(
        self,
        sam: Sam,
        sam_settings: SamSettings,
        settings: GeneratorSettings,
        device: torch.device | str,
        *,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        self.encoder = ImageEncoder(sam, sam_settings, device, precision=precision, compiled=compiled)
        kind = self.encoder.device.type
        self.images_per_batch = settings.images_per_batch or _IMAGES[kind]
        decoder = PromptDecoder(sam, device, precision=precision, compiled=compiled)
        self._prompter = PointPrompter(decoder, settings)
        self._settings = settings
        encoder_fix = "lower models.sam.encoder_size, or take a smaller models.sam.variant"
        points = settings.points_per_batch or _POINTS[kind]
        self._encoding = AdaptiveBatch(self.images_per_batch, "images per pass of SAM's encoder", encoder_fix)
        self._generating = AdaptiveBatch(EVERYTHING, "images whose masks are sought at once", _SMALLER)
        self._prompting = AdaptiveBatch(points, "prompts per pass of SAM's mask decoder", encoder_fix)
        self._postprocessing = AdaptiveBatch(
            _PIXELS_POSTPROCESSED[kind], "masks drawn at once at the image's size", _SMALLER
        )
        self._comparing = AdaptiveBatch(_PIXELS_COMPARED, "masks compared at once", _SMALLER)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return the embeddings (B, channels, grid, grid) float32 of images RGB (H, W, 3).

        Raises:
            ResourceError: Not even one image fits.
        """

        def passes(size: int) -> Tensor:
            starts = range(0, len(images), size)
            return torch.cat([self.encoder.encode(images[start : start + size]) for start in starts])

        return self._encoding.run(passes)

    @torch.inference_mode()
    def generate(self, images: Sequence[NDArray[np.uint8]], embeddings: Tensor | None = None) -> list[MaskSet]:
        """Return the masks of each image.

        Args:
            images: RGB (H, W, 3), of any and of different sizes. The masks of one depend on how many there are, in the
                last bits, but not on the others.
            embeddings: Of `encode`; None computes them.

        Returns:
            Of each image at most `max_masks` masks, best predicted IoU first, larger ones first where it is equal.

        Raises:
            ResourceError: Not even one image, one prompt, or one mask at the image's size fits.
        """

        def generate(rows: list[int]) -> list[MaskSet]:
            selected = embeddings
            # All together are taken as they are: a copy may be laid out otherwise.
            if selected is not None and len(rows) < len(images):
                selected = selected[rows]
            return self._generate([images[row] for row in rows], selected)

        return self._generating.map(range(len(images)), generate)

    def _generate(self, images: Sequence[NDArray[np.uint8]], embeddings: Tensor | None) -> list[MaskSet]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        crops_by_image = [crops(*size, self._settings) for size in sizes]
        results: list[list[tuple[CropView, Candidates]]] = [[] for _ in images]
        for number, crop_of_each in enumerate(zip(*crops_by_image, strict=True)):
            if number > 0 or embeddings is None:
                embeddings = self.encode([crop.cut(image) for crop, image in zip(crop_of_each, images, strict=True)])
            views = [CropView(crop, size, self.encoder.size) for crop, size in zip(crop_of_each, sizes, strict=True)]
            for result, view, candidates in zip(results, views, self._candidates(embeddings, views), strict=True):
                result.append((view, candidates))
        return [
            self._postprocessing.run(partial(postprocess, result, self._settings), cost=result[0][0].pixels_per_mask)
            for result in results
        ]

    def _candidates(self, embeddings: Tensor, views: Sequence[CropView]) -> list[Candidates]:
        """Return the masks of each view after non-maximum suppression, best first."""
        candidates = self._prompting.run(partial(self._prompter.predict, embeddings, views))
        device = embeddings.device
        owners = np.repeat(np.arange(len(views)), [len(masks) for masks in candidates])
        boxes = torch.cat([masks.boxes for masks in candidates])
        scores = torch.cat([masks.predicted_iou for masks in candidates])
        groups = torch.from_numpy(owners).to(device)
        remaining = amg.box_nms(boxes, scores, groups, self._settings.box_nms_thresh).cpu().numpy()
        starts = np.searchsorted(owners, np.arange(len(views)))
        candidates = [
            masks[torch.from_numpy(remaining[owners[remaining] == view] - starts[view]).to(device)]
            for view, masks in enumerate(candidates)
        ]
        iou_threshold = self._settings.mask_nms_thresh
        if iou_threshold is None:
            return candidates
        return [
            masks[self._mask_nms(view.crop_valid(masks.logits) > MASK_THRESHOLD, iou_threshold)]
            for view, masks in zip(views, candidates, strict=True)
        ]

    def _mask_nms(self, masks: Tensor, iou_threshold: float) -> Tensor:
        compare = partial(amg.mask_nms, masks, iou_threshold)
        return self._comparing.run(compare, cost=masks[:1].numel() or 1, count=len(masks))
