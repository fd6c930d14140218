"""Automatic masks of whole images: segment_anything's SamAutomaticMaskGenerator, batched over images and prompts.

What it returns is what the reference returns at the same settings, in another order; only masks without a pixel, which
a stability threshold of 0 lets pass there, are dropped here. It is faster because a mask is drawn only once its
predicted IoU has passed, at full size only to be measured and again if it stays, because the images of a batch share
passes of encoder and decoder, and because nothing leaves the device before an image is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.vision.portions import EVERYTHING, Portion
from pipeline.vision.sam import filtering
from pipeline.vision.sam.asking import PointAsker
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.candidates import Candidates, View
from pipeline.vision.sam.decoding import PromptDecoder
from pipeline.vision.sam.encoding import ImageEncoder
from pipeline.vision.sam.finishing import finished
from pipeline.vision.sam.points import crops
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings
from pipeline.vision.sam.upsampling import THRESHOLD

IMAGES = {"cpu": 4, "cuda": 8}
PROMPTS = {"cpu": 32, "cuda": 1024}
"""What `images_per_pass` and `prompts_per_pass` are where the settings leave them open."""
_DRAWN = {"cpu": 1 << 22, "cuda": 1 << 26}
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
        self._images = Portion(self.images_per_pass, "images per pass of SAM's encoder", encoder_fix)
        self._together = Portion(EVERYTHING, "images whose masks are sought at once", _SMALLER)
        prompts = settings.prompts_per_pass or PROMPTS[kind]
        self._prompts = Portion(prompts, "prompts per pass of SAM's mask decoder", encoder_fix)
        self._drawing = Portion(_DRAWN[kind], "masks drawn at once at the image's size", _SMALLER)
        self._comparing = Portion(_COMPARED, "masks compared at once", _SMALLER)

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
        return [self._drawing.run(partial(finished, mine, self._settings), each=mine[0][0].pixels) for mine in found]

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
        left = filtering.best(boxes, scores, groups, self._settings.box_nms).cpu().numpy()
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
        compare = partial(filtering.best_by_mask, masks, overlap)
        return self._comparing.run(compare, each=masks[:1].numel() or 1, most=len(masks))
