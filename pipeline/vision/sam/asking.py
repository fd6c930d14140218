"""Asking a grid of points of every image, and keeping the masks that are good enough in themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.portions import Portion, filled
from pipeline.vision.sam.candidates import Candidates, View, joined
from pipeline.vision.sam.decoding import Decoded, PromptDecoder
from pipeline.vision.sam.filtering import Measures, cut_off, measure
from pipeline.vision.sam.points import every, grid
from pipeline.vision.sam.settings import GeneratorSettings
from pipeline.vision.sam.upsampling import THRESHOLD

_AMBIGUOUS = slice(1, 4)
"""The three masks that the decoder gives for a point."""
_DRAWN = {"cpu": 16, "cuda": 128}
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
        self._drawing = Portion(_DRAWN[kind], "prompts drawn at once", "lower masks.sam.encoder_size")
        self._measuring = Portion(_PIXELS[kind], "masks measured at once", "make the images smaller")
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
        for owners, real in filled(np.arange(len(views)), together):
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
        for portion, meant in filled(asked, each):
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
        prompts, real = next(filled(left[:size], size))
        chosen = torch.from_numpy(prompts).to(self.decoder.device)
        logits = self.decoder.logits(decoded, chosen, _AMBIGUOUS)
        mine = good[prompts]
        mine[real:] = False
        flat = torch.from_numpy(np.flatnonzero(mine)).to(self.decoder.device)
        iou = decoded.iou[chosen][:, _AMBIGUOUS]
        return real, (np.repeat(prompts, mine.sum(axis=1)), logits.flatten(0, 1)[flat], iou.flatten()[flat])

    def _judged(self, view: View, logits: Tensor, iou: Tensor) -> Candidates:
        """Keep masks (K, h, w) of a view that are stable, not empty, and not cut off by the crop."""
        measured = self._measuring.run(partial(self._measured, view, logits), each=view.pixels)
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
