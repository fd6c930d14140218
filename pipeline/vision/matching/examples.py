"""Examples that need no second view: both dates of the pairs of a generated world, whose truth is known.

What SAM makes of one object differs from date to date by more than any warp of one mask shows: it merges, splits and
overlooks. Here the regions of both dates are SAM's own.


Examples that are computed once, in pieces that survive an interruption.

Examples as tensors: descriptors computed once, correspondences beside them.

The images that examples are made of: a prepared data set and its masks.h5.

All examples of a data set, computed once in pieces that survive an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.cache.reader import Cache
from pipeline.cache.schema import Expectation
from pipeline.datasets.images import read_unchanged
from pipeline.datasets.records import Prepared, read_prepared
from pipeline.datasets.world.pair import read_picture
from pipeline.errors import CacheError, DataError
from pipeline.progress import track
from pipeline.vision.matching.example_settings import ExampleSettings
from pipeline.vision.matching.matcher import RegionPairs, collate
from pipeline.vision.matching.oracle import Gold, read_gold
from pipeline.vision.matching.views import MaskedImage, View, make_example
from pipeline.vision.regions.cache import RegionSet
from pipeline.vision.regions.descriptor import DescriptorHead, region_descriptors
from pipeline.vision.regions.settings import RoiSettings
from pipeline.vision.regions.worker import MaskSource, read_source, require_weights
from pipeline.vision.sam.cache import SCHEMA, read_masks
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.weights import load_tensors, save_tensors

T = TypeVar("T")


def in_pieces(
    sources: Sequence[T],
    make: Callable[[T], Iterable[Example]],
    describer: Describer,
    length: int,
    *,
    size: int,
    folder: Path,
    title: str,
) -> Examples:
    """Make the examples of all sources, or read what `folder` holds of them.

    Args:
        sources: What examples are made of.
        make: Makes those of one source.
        describer: Computes descriptors.
        length: Regions that every view is padded to.
        size: Sources per piece.
        folder: Where the pieces lie; it must belong to exactly these arguments.
        title: What the progress bar is called.

    Raises:
        CheckpointError: A piece is damaged.
    """
    parts = []
    with track(title, len(sources)) as bar:
        for first in range(0, len(sources), size):
            chosen = sources[first : first + size]
            path = folder / f"{first:06d}.safetensors"
            if not path.is_file():
                made = [example for source in chosen for example in make(source)]
                save_tensors(path, to_examples(made, describer, length).tensors())
            parts.append(load_tensors(path, fix=f"delete {path}")[0])
            bar.advance(len(chosen))
    return Examples.from_tensors(parts)


Example = tuple[View, View, NDArray[np.int64]]
"""Two views, and of each region of the first the number of the one of the second that is the same, −1 for none."""


@dataclass(frozen=True)
class Examples:
    """Pairs of region sets whose correspondences are known.

    Attributes:
        pairs: B pairs of at most N regions a side; descriptors may be float16.
        counterpart: (B, N) int64, of each region before the number of the one after, −1 for none and at padding.
    """

    pairs: RegionPairs
    counterpart: Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, rows: Tensor | slice) -> Examples:
        """Return the examples at `rows`."""
        return Examples(self.pairs.take(rows), self.counterpart[rows])

    def to(self, device: torch.device) -> Examples:
        """Return the examples on `device`."""
        return Examples(self.pairs.to(device), self.counterpart.to(device))

    def trimmed(self) -> Examples:
        """Return the examples without the padding that all of them share."""
        pairs = self.pairs.trimmed()
        return Examples(pairs, self.counterpart[:, : pairs.valid.shape[2]])

    def tensors(self) -> dict[str, Tensor]:
        """Return what `from_tensors` takes."""
        return {**vars(self.pairs), "counterpart": self.counterpart}

    @classmethod
    def from_tensors(cls, parts: Sequence[dict[str, Tensor]]) -> Examples:
        """Join the tensors of several sets of examples."""
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        counterpart = joined.pop("counterpart")
        return cls(RegionPairs(**joined), counterpart)


def joined(sets: Sequence[Examples]) -> Examples:
    """Return all examples of several sets, which have the same padding, as one."""
    return Examples.from_tensors([part.tensors() for part in sets])


class Describer(nn.Module):
    """Views → region sets, by SAM's image encoder, RoIAlign and the descriptor head: the way of the stage `regions`.

    Args:
        encoder: SAM's image encoder.
        head: g of equation (8).
        roi: RoIAlign.
        batch_size: Views per pass of the encoder.
    """

    def __init__(self, encoder: ImageEncoder, head: DescriptorHead, roi: RoiSettings, batch_size: int) -> None:
        super().__init__()
        self.head = head
        self._encoder, self._roi, self._batch_size = encoder, roi, batch_size

    @torch.inference_mode()
    def forward(self, views: Sequence[View]) -> list[RegionSet]:
        """Return the regions of each view, descriptors (N, d) float16."""
        found = []
        for start in range(0, len(views), self._batch_size):
            part = views[start : start + self._batch_size]
            sizes = [(view.image.shape[0], view.image.shape[1]) for view in part]
            # Rounded as they are where the stages store them.
            embeddings = self._encoder.encode([view.image for view in part]).half()
            descriptors = region_descriptors(
                embeddings,
                [torch.from_numpy(view.boxes) for view in part],
                [self._encoder.spatial_scale(*size) for size in sizes],
                sizes,
                self.head,
                self._roi,
                masks=[torch.from_numpy(view.masks) for view in part] if self._roi.mask_pooling else None,
            )
            rows = descriptors.half().cpu().split([len(view) for view in part])
            found += [_region_set(view, row.numpy()) for view, row in zip(part, rows, strict=True)]
        return found


def _region_set(view: View, descriptors: NDArray[np.float16]) -> RegionSet:
    return RegionSet(
        descriptors=descriptors,
        boxes=view.boxes,
        centroids=view.centroids,
        areas=view.masks.sum((1, 2)).astype(np.int32),
        scores=view.scores,
        size=(view.image.shape[0], view.image.shape[1]),
    )


def to_examples(made: Sequence[Example], describer: Describer, length: int) -> Examples:
    """Compute the descriptors of examples and pad them to `length` regions a side."""
    regions = describer([view for before, after, _ in made for view in (before, after)])
    pairs = collate(list(zip(regions[::2], regions[1::2], strict=True)), length)
    counterpart = torch.full((len(made), length), -1)
    for row, (_, _, numbers) in enumerate(made):
        counterpart[row, : len(numbers)] = torch.from_numpy(numbers)
    return Examples(pairs, counterpart)


_HELD_OUT = 10
"""Where a data set has no validation split, every tenth training pair is held out."""


class PreparedImages:
    """Images of both dates with their masks, by unit: 2i + t is pair i at date t.

    Attributes:
        data: The prepared pairs.
        masks: masks.h5 of them.
        sam: The SAM that the masks were made with.
    """

    def __init__(self, data: Prepared, masks: Cache, sam: MaskSource) -> None:
        self.data, self.masks, self.sam = data, masks, sam

    @classmethod
    def open(cls, prepared: Path, masks: Path) -> PreparedImages:
        """Open a prepared data set and the masks that belong to it.

        Raises:
            CacheError: The masks are missing, damaged, or of another data set.
            CheckpointError: SAM's weights are missing, or not those of the masks.
            DataError: The prepared folder is missing or damaged.
        """
        data = read_prepared(prepared)
        expect = Expectation(upstream={"pairs.jsonl": data.card.pairs_sha256}, repair="sagecc masks")
        cache = Cache.open(masks, SCHEMA, expect=expect)
        if cache.ids != tuple(pair.id for pair in data.pairs):
            raise CacheError("the masks are not those of the prepared pairs", where=masks, fix="run `sagecc masks`")
        source = read_source(cache)
        require_weights(source)
        return cls(data, cache, source)

    def units(self, split: Literal["train", "val"]) -> list[int]:
        """Return the units of a split, those left out whose image was skipped.

        Raises:
            DataError: There is none.
        """
        numbers = [index for index, pair in enumerate(self.data.pairs) if pair.split == split]
        if not self.data.split("val"):
            training = [index for index, pair in enumerate(self.data.pairs) if pair.split == "train"]
            held_out = training[_HELD_OUT - 1 :: _HELD_OUT] or training[-1:]
            numbers = held_out if split == "val" else [index for index in training if index not in set(held_out)]
        skipped = set(self.masks.missing.tolist())
        units = [unit for index in numbers for unit in (2 * index, 2 * index + 1) if unit not in skipped]
        if not units:
            raise DataError(
                f"the data set has no images to make {split} examples of",
                where=self.data.folder,
                fix="a data set needs two pairs of the training split at least",
            )
        return units

    def __len__(self) -> int:
        return 2 * len(self.data.pairs)

    def __getitem__(self, unit: int) -> MaskedImage:
        """Read one image and its masks.

        Raises:
            DataError: The image cannot be read, or has changed since `prepare`.
        """
        pair, date = self.data.pairs[unit // 2], ("before", "after")[unit % 2]
        path = self.data.root / getattr(pair, date)
        pixels = read_unchanged(path, pair.sha256[date])
        masks = read_masks(self.masks, unit)
        return MaskedImage(pixels, masks.bitmaps(), masks.predicted_iou)

    def close(self) -> None:
        """Let go of the masks."""
        self.masks.close()

    def __enter__(self) -> PreparedImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_IMAGES_PER_FILE = 32
_TRIES = 20
"""How many other images are looked at for one of the right size to paint from."""


class MaskedImages(Protocol):
    """Images with their masks, by number."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, number: int) -> MaskedImage:
        """Return one; IndexError beyond the last."""


def compute_examples(
    images: MaskedImages,
    numbers: Sequence[int],
    describer: Describer,
    settings: ExampleSettings,
    length: int,
    *,
    seed: int,
    folder: Path,
    title: str,
) -> Examples:
    """Make `settings.per_image` examples of each of some images, or read what `folder` holds of them.

    Every example is drawn from `seed`, its image's number and its own, so an interruption changes nothing.

    Args:
        images: Where images come from.
        numbers: Which of them; regions that are painted in come from these too.
        describer: Computes descriptors.
        settings: How examples are made.
        length: Regions that every view is padded to.
        seed: See above.
        folder: Where the pieces lie; it must belong to exactly these arguments.
        title: What the progress bar is called.

    Raises:
        DataError: No image holds a region.
        CheckpointError: A piece is damaged.
    """
    cached = lru_cache(maxsize=256)(images.__getitem__)

    def make(number: int) -> Iterator[Example]:
        source = cached(number)
        another = _Painter(cached, numbers, source)
        for index in range(settings.per_image):
            rng = np.random.default_rng([seed, number, index])
            yield make_example(source, another, settings, length, rng)

    examples = in_pieces(numbers, make, describer, length, size=_IMAGES_PER_FILE, folder=folder, title=title)
    if not bool(examples.pairs.valid.any()):
        raise DataError("no image of the data set holds a region", fix="look at masks.h5 with `sagecc inspect`")
    return examples


class _Painter:
    """Draws images as large as one that regions are painted into."""

    def __init__(self, images: Callable[[int], MaskedImage], numbers: Sequence[int], like: MaskedImage) -> None:
        self._images, self._numbers, self._like = images, numbers, like

    def __call__(self, rng: np.random.Generator) -> MaskedImage:
        for _ in range(_TRIES):
            found = self._images(self._numbers[int(rng.integers(len(self._numbers)))])
            if found.image.shape == self._like.image.shape:
                return found
        return self._like


_PAIRS_PER_FILE = 64
_SAME_IOU = 0.5
_UNCHANGED = 0.75
"""Share of a region that must not have changed for it to be the same ground at both dates."""


def date_examples(
    images: PreparedImages,
    split: Literal["train", "val"],
    describer: Describer,
    length: int,
    *,
    folder: Path,
    title: str,
) -> Examples:
    """Make an example of every pair of a split, or read what `folder` holds of them.

    Args:
        images: A generated world and its masks.
        split: Which of its splits; none of its images may have been skipped.
        describer: Computes descriptors.
        length: Regions that every date is padded to; it has no more.
        folder: Where the pieces lie; it must belong to exactly these arguments.
        title: What the progress bar is called.

    Raises:
        CheckpointError: A piece is damaged.
        DataError: What the world knows is missing or damaged.
    """
    world = images.data.root
    gold = list(read_gold(world, split, images.masks).items())

    def make(source: tuple[str, Gold]) -> list[Example]:
        name, truth = source
        before, after = (_view(images, images.masks.unit(name, date), length) for date in (0, 1))
        change = read_picture(world, "change", split, f"{name}.png") > 0
        return [(before, after, counterparts(before.masks, after.masks, truth, change))]

    return in_pieces(gold, make, describer, length, size=_PAIRS_PER_FILE, folder=folder, title=title)


def _view(images: PreparedImages, unit: int, length: int) -> View:
    found, picture = read_masks(images.masks, unit), images[unit]
    return View(
        picture.image, picture.masks[:length], found.boxes[:length], found.centroids[:length], picture.scores[:length]
    )


def counterparts(
    before: NDArray[np.bool_], after: NDArray[np.bool_], gold: Gold, change: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return (N1) of each region before the number of the one after that is the same, −1 for none.

    Regions that show the same surviving object belong together; where there are several of it, those that overlap
    best. Others do where they overlap by IoU 0.5 on ground that has not changed, unless one of them shows an object
    that came or went.

    Args:
        before: (N1, H, W) masks.
        after: (N2, H, W) masks.
        gold: Which object each region shows; it may speak of more regions than there are masks.
        change: (H, W) where the dates differ in what there is.
    """
    flat = [masks.reshape(len(masks), change.size).astype(np.float32) for masks in (before, after)]
    areas = [masks.sum(1) for masks in flat]
    shared = flat[0] @ flat[1].T
    iou = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1)
    one, other = gold.before[: len(before), None], gold.after[None, : len(after)]
    same = (one == other) & np.isin(one, list(gold.corresponding))
    moving = np.isin(one, list(gold.disappeared)) | np.isin(other, list(gold.appeared))
    steady = [
        1 - masks @ change.reshape(-1).astype(np.float32) / np.maximum(area, 1)
        for masks, area in zip(flat, areas, strict=True)
    ]
    still = (steady[0][:, None] >= _UNCHANGED) & (steady[1][None] >= _UNCHANGED)
    # One object's regions are no other object's, however much they overlap.
    different = (one != other) & (one > 0) & (other > 0)
    alike = (iou >= _SAME_IOU) & still & ~moving & ~different
    worth = np.where(same, 1 + iou, np.where(alike, iou, 0))
    found = np.full(len(before), -1, dtype=np.int64)
    while worth.size and worth.max() > 0:
        row, column = np.unravel_index(int(worth.argmax()), worth.shape)
        found[row] = column
        worth[row], worth[:, column] = 0, 0
    return found
