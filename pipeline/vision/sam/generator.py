"""Automatic masks of whole images: segment_anything's SamAutomaticMaskGenerator, batched over images and prompts.

What it returns is what the reference returns at the same settings, in another order; only masks without a pixel, which
a stability threshold of 0 lets pass there, are dropped here. It is faster because a mask is drawn only once its
predicted IoU has passed, at full size only to be measured and again if it stays, because the images of a batch share
passes of encoder and decoder, and because nothing leaves the device before an image is done.


Asking a grid of points of every image, and keeping the masks that are good enough in themselves.
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
from pipeline.vision.sam.amg import THRESHOLD, Candidates, Measures, View, crops, cut_off, every, grid, joined, measure
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.decoder import Decoded, PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.postprocess import finished
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings

_AMBIGUOUS = slice(1, 4)
"""The three masks that the decoder gives for a point."""
_UPSAMPLED_PROMPTS = {"cpu": 16, "cuda": 128}
"""Prompts whose masks are drawn at once."""
_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 28}
"""Pixels of masks, at the encoder's size or the image's, that are measured at once."""
_REMEMBERED = 64
"""Sizes of images of which embedded points are kept."""

Numbers = NDArray[np.int64]


class PointAsker:
    """Asks points and judges each mask by itself: predicted IoU first, before it is drawn, then stability and place.

    Args:
        decoder: Of the model.
        settings: Points and thresholds.
    """

    def __init__(self, decoder: PromptDecoder, settings: GeneratorSettings) -> None:
        self.decoder = decoder
        self._settings = settings
        kind = decoder.device.type
        self._drawing = AdaptiveBatch(_UPSAMPLED_PROMPTS[kind], "prompts drawn at once", "lower masks.sam.encoder_size")
        self._measuring = AdaptiveBatch(_PIXELS[kind], "masks measured at once", "make the images smaller")
        self._embedded: dict[tuple[int, tuple[int, int]], Tensor] = {}

    def ask(self, embeddings: Tensor, views: Sequence[View], prompts: int) -> list[Candidates]:
        """Ask the points of every view: all, or with a coarse stride those first, then what no mask covers yet.

        Every pass has the same shape, short ones being filled up: it then takes the same kernels, so that what is found
        in a view depends on no other.

        Args:
            embeddings: (V, C, h, w): of the views.
            views: All with the same number of points.
            prompts: Points per pass.

        Returns:
            Of each view, its masks in the order of the points.
        """
        points = torch.stack([self._points(view) for view in views])
        each = min(prompts, points.shape[1])
        together = max(1, min(prompts // each, len(views)))
        found: list[list[Candidates]] = [[self._none(embeddings)] for _ in views]
        first = every(views[0].crop.points, self._settings.coarse_stride)
        for owners, real in padded_chunks(np.arange(len(views)), together):
            self._ask(embeddings, views, owners, real, points, first, each, found)
        if self._settings.coarse_stride > 1:
            for number, view in enumerate(views):
                rest = self._uncovered(view, joined(found[number]), first)
                self._ask(embeddings, views, np.array([number]), 1, points, rest, each, found)
        return [joined(parts) for parts in found]

    def _ask(
        self,
        embeddings: Tensor,
        views: Sequence[View],
        owners: Numbers,
        real: int,
        points: Tensor,
        asked: Numbers,
        each: int,
        found: list[list[Candidates]],
    ) -> None:
        """Ask the first `real` of the views numbered `owners` the points numbered `asked`, and add to `found`."""
        images = self.decoder.image_side(embeddings[owners])
        for portion, meant in padded_chunks(asked, each):
            decoded = self.decoder.decode(images, points[owners][:, portion])
            good = self._good(decoded).reshape(len(owners), each, -1)
            good[real:] = good[:, meant:] = False
            for of, logits, iou in self._drawn(decoded, good.reshape(len(owners) * each, -1)):
                owner = owners[of // each]
                for number in np.unique(owner):
                    mine = torch.from_numpy(np.flatnonzero(owner == number)).to(logits.device)
                    found[number].append(self._judged(views[number], logits[mine], iou[mine]))

    def _uncovered(self, view: View, found: Candidates, asked: Numbers) -> Numbers:
        """Return the points of a view's grid that are neither among `asked` nor well within a mask that was found."""
        # The middle of the pixel that a point lies in, from −1 to 1 over the encoder's image.
        pixels = np.floor(grid(view.crop.points, view.crop.size, view.shown)) + 0.5
        places = torch.from_numpy(pixels * 2 / self.decoder.encoder_size - 1).to(found.logits)
        logits = F.grid_sample(found.logits[None], places[None, None], padding_mode="border", align_corners=False)
        left = ~(logits[0, :, 0] > THRESHOLD + self._settings.stability_offset).any(0).cpu().numpy()
        left[asked] = False
        return np.flatnonzero(left)

    def _good(self, decoded: Decoded) -> NDArray[np.bool_]:
        """Tell of each prompt (B) which of its masks (3) have a high enough predicted IoU."""
        iou = decoded.iou[:, _AMBIGUOUS]
        least = self._settings.predicted_iou
        # Like the reference, 0 lets everything pass, the negative too.
        return (iou > least if least > 0 else torch.ones_like(iou, dtype=torch.bool)).cpu().numpy()

    def _drawn(self, decoded: Decoded, good: NDArray[np.bool_]) -> Iterator[tuple[Numbers, Tensor, Tensor]]:
        """Draw the masks that are `good` (B, 3).

        Yields:
            Of K masks: the numbers of their prompts (K), logits (K, h, w), predicted IoU (K).
        """
        left = np.flatnonzero(good.any(axis=1))
        while len(left):
            done, drawn = self._drawing.run(partial(self._draw, decoded, good, left))
            yield drawn
            left = left[done:]

    def _draw(
        self, decoded: Decoded, good: NDArray[np.bool_], left: Numbers, size: int
    ) -> tuple[int, tuple[Numbers, Tensor, Tensor]]:
        """Draw the masks of the first `size` of the prompts `left`; with how many prompts these are."""
        prompts, real = next(padded_chunks(left[:size], size))
        chosen = torch.from_numpy(prompts).to(self.decoder.device)
        logits = self.decoder.logits(decoded, chosen, _AMBIGUOUS)
        mine = good[prompts]
        mine[real:] = False
        flat = torch.from_numpy(np.flatnonzero(mine)).to(self.decoder.device)
        iou = decoded.iou[chosen][:, _AMBIGUOUS]
        return real, (np.repeat(prompts, mine.sum(axis=1)), logits.flatten(0, 1)[flat], iou.flatten()[flat])

    def _judged(self, view: View, logits: Tensor, iou: Tensor) -> Candidates:
        """Keep masks (K, h, w) of a view that are stable, not empty, and not cut off by the crop."""
        measured = self._measuring.run(partial(self._measured, view, logits), cost=view.pixels)
        stability = torch.cat([part.stability for part in measured])
        boxes = torch.cat([part.boxes for part in measured])
        boxes += boxes.new_tensor([view.crop.left, view.crop.top] * 2)
        good = (boxes[:, 2] >= boxes[:, 0]) & ~cut_off(boxes, view.crop, view.image)
        # An undefined score (no pixel above either threshold) is not good enough either.
        good &= stability >= self._settings.stability
        return Candidates(logits, iou, stability, boxes)[good]

    def _measured(self, view: View, logits: Tensor, size: int) -> list[Measures]:
        return [measure(view.drawn(part), self._settings.stability_offset) for part in logits.split(size)]

    def _none(self, embeddings: Tensor) -> Candidates:
        side = 4 * self.decoder.encoder_size // self.decoder.patch
        scores = embeddings.new_zeros(0)
        return Candidates(embeddings.new_zeros((0, side, side)), scores, scores, scores.new_zeros((0, 4)).long())

    def _points(self, view: View) -> Tensor:
        """Return the embedded points (P, 2, C) of a view."""
        key = view.crop.points, view.crop.size
        if key not in self._embedded:
            if len(self._embedded) == _REMEMBERED:
                self._embedded.clear()
            points = grid(view.crop.points, view.crop.size, view.shown)
            self._embedded[key] = self.decoder.points(torch.from_numpy(points))
        return self._embedded[key]


IMAGES = {"cpu": 4, "cuda": 8}
PROMPTS = {"cpu": 32, "cuda": 1024}
"""What `images_per_pass` and `prompts_per_pass` are where the settings leave them open."""
_UPSAMPLED_MASKS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Pixels of masks that are drawn at once when an image is finished."""
_COMPARED = 1 << 28
"""Pixels of masks, in low resolution, that are compared with others at once."""
_SMALLER = "lower masks.sam.encoder_size, or make the images smaller"


class MaskGenerator:
    """Finds the masks of images.

    Attributes:
        encoder: Makes the image embeddings.
        images_per_pass: Images that it encodes at once.

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
        self.images_per_pass = settings.images_per_pass or IMAGES[kind]
        decoder = PromptDecoder(sam, device, precision=precision, compiled=compiled)
        self._asker = PointAsker(decoder, settings)
        self._settings = settings
        encoder_fix = "lower masks.sam.encoder_size, or take a smaller masks.sam.variant"
        self._images = AdaptiveBatch(self.images_per_pass, "images per pass of SAM's encoder", encoder_fix)
        self._together = AdaptiveBatch(EVERYTHING, "images whose masks are sought at once", _SMALLER)
        prompts = settings.prompts_per_pass or PROMPTS[kind]
        self._prompts = AdaptiveBatch(prompts, "prompts per pass of SAM's mask decoder", encoder_fix)
        self._drawing = AdaptiveBatch(_UPSAMPLED_MASKS[kind], "masks drawn at once at the image's size", _SMALLER)
        self._comparing = AdaptiveBatch(_COMPARED, "masks compared at once", _SMALLER)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return the embeddings (B, channels, grid, grid) float32 of images RGB (H, W, 3).

        Raises:
            ResourceError: Not even one image fits.
        """

        def passes(size: int) -> Tensor:
            starts = range(0, len(images), size)
            return torch.cat([self.encoder.encode(images[start : start + size]) for start in starts])

        return self._images.run(passes)

    @torch.inference_mode()
    def generate(self, images: Sequence[NDArray[np.uint8]], embeddings: Tensor | None = None) -> list[MaskSet]:
        """Find the masks of each image.

        Args:
            images: RGB (H, W, 3), of any and of different sizes. What is found in one depends on how many there are,
                in the last bits, but not on the others.
            embeddings: What `encode` makes of them, if that is known already.

        Returns:
            Of each image at most `keep` masks, best predicted IoU first, larger ones first where it is equal.

        Raises:
            ResourceError: Not even one image, one prompt, or one mask at the image's size fits.
        """

        def some(numbers: list[int]) -> list[MaskSet]:
            known = embeddings
            # All together go on as they are: a copy may be laid out otherwise.
            if known is not None and len(numbers) < len(images):
                known = known[numbers]
            return self._generate([images[number] for number in numbers], known)

        return self._together.map(range(len(images)), some)

    def _generate(self, images: Sequence[NDArray[np.uint8]], embeddings: Tensor | None) -> list[MaskSet]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        plans = [crops(*size, self._settings) for size in sizes]
        found: list[list[tuple[View, Candidates]]] = [[] for _ in images]
        for number in range(len(plans[0])):
            parts = [plan[number] for plan in plans]
            if number > 0 or embeddings is None:
                embeddings = self.encode([part.of(image) for part, image in zip(parts, images, strict=True)])
            views = [View(part, size, self.encoder.size) for part, size in zip(parts, sizes, strict=True)]
            for owner, candidates in enumerate(self._best(embeddings, views)):
                found[owner].append((views[owner], candidates))
        return [self._drawing.run(partial(finished, mine, self._settings), cost=mine[0][0].pixels) for mine in found]

    def _best(self, embeddings: Tensor, views: Sequence[View]) -> list[Candidates]:
        """Return the masks of each view that remain of those that overlap, best first."""

        def ask(prompts: int) -> list[Candidates]:
            return self._asker.ask(embeddings, views, prompts)

        candidates = self._prompts.run(ask)
        device = embeddings.device
        owners = np.repeat(np.arange(len(views)), [len(mine) for mine in candidates])
        boxes = torch.cat([mine.boxes for mine in candidates])
        scores = torch.cat([mine.predicted_iou for mine in candidates])
        groups = torch.from_numpy(owners).to(device)
        left = amg.best(boxes, scores, groups, self._settings.box_nms).cpu().numpy()
        starts = np.searchsorted(owners, np.arange(len(views)))
        remaining = [
            mine[torch.from_numpy(left[owners[left] == number] - starts[number]).to(device)]
            for number, mine in enumerate(candidates)
        ]
        overlap = self._settings.mask_nms
        if overlap is None:
            return remaining
        return [
            mine[self._best_by_mask(view.within(mine.logits) > THRESHOLD, overlap)]
            for view, mine in zip(views, remaining, strict=True)
        ]

    def _best_by_mask(self, masks: Tensor, overlap: float) -> Tensor:
        compare = partial(amg.best_by_mask, masks, overlap)
        return self._comparing.run(compare, cost=masks[:1].numel() or 1, count=len(masks))
