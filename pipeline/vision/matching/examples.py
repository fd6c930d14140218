"""Training examples of matchers: pairs of region sets with known correspondences.

Images with masks come from a prepared data set. An example is either two augmented views of one image, or the two
dates of a pair of a generated world, whose ground truth is known: SAM's masks of one object differ more between dates
than any warp of one mask shows. Descriptors are computed once and stored in chunks that survive an interruption.
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
from pipeline.vision.matching.oracle import GroundTruth, read_ground_truth
from pipeline.vision.matching.views import AugmentedView, MaskedImage, make_example
from pipeline.vision.regions.cache import RegionSet
from pipeline.vision.regions.descriptor import DescriptorHead, region_descriptors
from pipeline.vision.regions.settings import RoiSettings
from pipeline.vision.regions.worker import MaskSource, read_mask_source, require_sam_weights
from pipeline.vision.sam.cache import SCHEMA, read_masks
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.tensors import TensorBatch
from pipeline.weights import load_tensors, save_tensors

T = TypeVar("T")

Example = tuple[AugmentedView, AugmentedView, NDArray[np.int64]]
"""Two views, and for each region of the first the number of its counterpart in the second, −1 for none."""

_VALIDATION_STRIDE = 10
"""Where a data set has no validation split, every tenth training pair serves as one."""
_IMAGES_PER_CHUNK = 32
_PAIRS_PER_CHUNK = 64
_DONOR_TRIES = 20
"""Number of images that are drawn to find one of the right size to paste from."""
_SAME_IOU = 0.5
_MIN_UNCHANGED = 0.75
"""Share of a region that must not have changed for it to be the same ground at both dates."""


class PreparedImages:
    """The images of a prepared data set with their masks, by unit: 2i + t is pair i at date t.

    Attributes:
        data: The prepared pairs.
        masks: Their masks.h5.
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
        source = read_mask_source(cache)
        require_sam_weights(source)
        return cls(data, cache, source)

    def units(self, split: Literal["train", "val"]) -> list[int]:
        """Return the units of a split without those of skipped images.

        Raises:
            DataError: There are none.
        """
        rows = [index for index, pair in enumerate(self.data.pairs) if pair.split == split]
        if not self.data.split("val"):
            training = [index for index, pair in enumerate(self.data.pairs) if pair.split == "train"]
            held_out = training[_VALIDATION_STRIDE - 1 :: _VALIDATION_STRIDE] or training[-1:]
            rows = held_out if split == "val" else [index for index in training if index not in set(held_out)]
        skipped = set(self.masks.missing.tolist())
        units = [unit for index in rows for unit in (2 * index, 2 * index + 1) if unit not in skipped]
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
        """Close masks.h5."""
        self.masks.close()

    def __enter__(self) -> PreparedImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Examples(TensorBatch):
    """Pairs of region sets whose correspondences are known.

    Attributes:
        pairs: B pairs of at most N regions per date; descriptors may be float16.
        counterpart: (B, N) int64, the number of the counterpart after of each region before, −1 for none and at
            padding.
    """

    pairs: RegionPairs
    counterpart: Tensor

    def trimmed(self) -> Examples:
        """Return the examples without the padding that all of them share."""
        pairs = self.pairs.trimmed()
        return Examples(pairs, self.counterpart[:, : pairs.valid.shape[2]])

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, for `from_tensors`."""
        return {**vars(self.pairs), "counterpart": self.counterpart}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Examples:
        """Return the examples whose `tensors` these are."""
        pairs = {name: tensor for name, tensor in tensors.items() if name != "counterpart"}
        return cls(RegionPairs(**pairs), tensors["counterpart"])


class Describer(nn.Module):
    """SAM's image encoder, RoIAlign and the descriptor head, as in the stage `regions`: views in, region sets out.

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
    def forward(self, views: Sequence[AugmentedView]) -> list[RegionSet]:
        """Return the regions of each view, descriptors (N, d) float16."""
        regions = []
        for start in range(0, len(views), self._batch_size):
            batch = views[start : start + self._batch_size]
            sizes = [(view.image.shape[0], view.image.shape[1]) for view in batch]
            # Rounded to float16, as the stage `masks` stores them.
            embeddings = self._encoder.encode([view.image for view in batch]).half()
            descriptors = region_descriptors(
                embeddings,
                [torch.from_numpy(view.boxes) for view in batch],
                [self._encoder.spatial_scale(*size) for size in sizes],
                sizes,
                self.head,
                self._roi,
                masks=[torch.from_numpy(view.masks) for view in batch] if self._roi.mask_pooling else None,
            )
            rows = descriptors.half().cpu().split([len(view) for view in batch])
            regions += [_region_set(view, row.numpy()) for view, row in zip(batch, rows, strict=True)]
        return regions


def _region_set(view: AugmentedView, descriptors: NDArray[np.float16]) -> RegionSet:
    return RegionSet(
        descriptors=descriptors,
        boxes=view.boxes,
        centroids=view.centroids,
        areas=view.masks.sum((1, 2)).astype(np.int32),
        scores=view.scores,
        size=(view.image.shape[0], view.image.shape[1]),
    )


def describe_examples(examples: Sequence[Example], describer: Describer, length: int) -> Examples:
    """Compute the descriptors of examples and pad them to `length` regions per date."""
    regions = describer([view for before, after, _ in examples for view in (before, after)])
    pairs = collate(list(zip(regions[::2], regions[1::2], strict=True)), length)
    counterpart = torch.full((len(examples), length), -1)
    for row, (_, _, numbers) in enumerate(examples):
        counterpart[row, : len(numbers)] = torch.from_numpy(numbers)
    return Examples(pairs, counterpart)


def examples_in_chunks(
    sources: Sequence[T],
    make: Callable[[T], Iterable[Example]],
    describer: Describer,
    length: int,
    *,
    size: int,
    folder: Path,
    title: str,
) -> Examples:
    """Make the examples of all sources, or read those that `folder` holds.

    Args:
        sources: What examples are made from.
        make: Makes the examples of one source.
        describer: Computes descriptors.
        length: Regions that every view is padded to.
        size: Sources per chunk.
        folder: Folder of the chunks; it must belong to exactly these arguments.
        title: Title of the progress bar.

    Raises:
        CheckpointError: A chunk is damaged.
    """
    chunks = []
    with track(title, len(sources)) as bar:
        for first in range(0, len(sources), size):
            chunk = sources[first : first + size]
            path = folder / f"{first:06d}.safetensors"
            if not path.is_file():
                examples = [example for source in chunk for example in make(source)]
                save_tensors(path, describe_examples(examples, describer, length).tensors())
            chunks.append(Examples.from_tensors(load_tensors(path, fix=f"delete {path}")[0]))
            bar.advance(len(chunk))
    return Examples.cat(chunks)


class MaskedImages(Protocol):
    """Images with their masks, by number."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, number: int) -> MaskedImage:
        """Return the image of this number."""


def view_examples(
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
    """Make `settings.per_image` examples of two augmented views of each image, or read those that `folder` holds.

    Every example is seeded with `seed`, its image's number and its own, so an interruption changes nothing.

    Args:
        images: Images with masks.
        numbers: Which of them to use, also to paste regions from.
        describer: Computes descriptors.
        settings: How examples are made.
        length: Regions that every view is padded to.
        seed: See above.
        folder: Folder of the chunks; it must belong to exactly these arguments.
        title: Title of the progress bar.

    Raises:
        DataError: No image holds a region.
        CheckpointError: A chunk is damaged.
    """
    cached = lru_cache(maxsize=256)(images.__getitem__)

    def make(number: int) -> Iterator[Example]:
        source = cached(number)
        draw_donor = _DonorSampler(cached, numbers, source)
        for index in range(settings.per_image):
            rng = np.random.default_rng([seed, number, index])
            yield make_example(source, draw_donor, settings, length, rng)

    examples = examples_in_chunks(numbers, make, describer, length, size=_IMAGES_PER_CHUNK, folder=folder, title=title)
    if not bool(examples.pairs.valid.any()):
        raise DataError("no image of the data set holds a region", fix="look at masks.h5 with `sagecc inspect`")
    return examples


class _DonorSampler:
    """Draws images of the same size as the one that regions are pasted into."""

    def __init__(self, images: Callable[[int], MaskedImage], numbers: Sequence[int], target: MaskedImage) -> None:
        self._images, self._numbers, self._target = images, numbers, target

    def __call__(self, rng: np.random.Generator) -> MaskedImage:
        for _ in range(_DONOR_TRIES):
            donor = self._images(self._numbers[int(rng.integers(len(self._numbers)))])
            if donor.image.shape == self._target.image.shape:
                return donor
        return self._target


def date_examples(
    images: PreparedImages,
    split: Literal["train", "val"],
    describer: Describer,
    length: int,
    *,
    folder: Path,
    title: str,
) -> Examples:
    """Make an example of the two dates of every pair of a split, or read those that `folder` holds.

    Args:
        images: A generated world and its masks.
        split: Which of its splits; none of its images may have been skipped.
        describer: Computes descriptors.
        length: Regions that every date is padded to.
        folder: Folder of the chunks; it must belong to exactly these arguments.
        title: Title of the progress bar.

    Raises:
        CheckpointError: A chunk is damaged.
        DataError: The ground truth of the world is missing or damaged.
    """
    world = images.data.root
    truth = list(read_ground_truth(world, split, images.masks).items())

    def make(source: tuple[str, GroundTruth]) -> list[Example]:
        name, pair_truth = source
        before, after = (_date_view(images, images.masks.unit(name, date), length) for date in (0, 1))
        change = read_picture(world, "change", split, f"{name}.png") > 0
        return [(before, after, counterparts_by_object(before.masks, after.masks, pair_truth, change))]

    return examples_in_chunks(truth, make, describer, length, size=_PAIRS_PER_CHUNK, folder=folder, title=title)


def _date_view(images: PreparedImages, unit: int, length: int) -> AugmentedView:
    masks, image = read_masks(images.masks, unit), images[unit]
    return AugmentedView(
        image.image, image.masks[:length], masks.boxes[:length], masks.centroids[:length], image.scores[:length]
    )


def counterparts_by_object(
    before: NDArray[np.bool_], after: NDArray[np.bool_], truth: GroundTruth, change: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the number (N1) of the counterpart after of each region before, −1 for none.

    Regions that show the same surviving object correspond, the best overlaps first if there are several. Other regions
    correspond if they overlap by IoU 0.5 on unchanged ground, unless one of them shows an object that appeared or
    disappeared.

    Args:
        before: (N1, H, W) masks.
        after: (N2, H, W) masks.
        truth: Which object each region shows; it may cover more regions than there are masks.
        change: (H, W) bool, where the content of the dates differs.
    """
    flat = [masks.reshape(len(masks), change.size).astype(np.float32) for masks in (before, after)]
    areas = [masks.sum(1) for masks in flat]
    intersection = flat[0] @ flat[1].T
    iou = intersection / np.maximum(areas[0][:, None] + areas[1][None] - intersection, 1)
    object_before, object_after = truth.before[: len(before), None], truth.after[None, : len(after)]
    same_object = (object_before == object_after) & np.isin(object_before, list(truth.corresponding))
    transient = np.isin(object_before, list(truth.disappeared)) | np.isin(object_after, list(truth.appeared))
    unchanged_shares = [
        1 - masks @ change.reshape(-1).astype(np.float32) / np.maximum(area, 1)
        for masks, area in zip(flat, areas, strict=True)
    ]
    unchanged = (unchanged_shares[0][:, None] >= _MIN_UNCHANGED) & (unchanged_shares[1][None] >= _MIN_UNCHANGED)
    # Regions of two objects never correspond, however much they overlap.
    different_objects = (object_before != object_after) & (object_before > 0) & (object_after > 0)
    same_ground = (iou >= _SAME_IOU) & unchanged & ~transient & ~different_objects
    affinity = np.where(same_object, 1 + iou, np.where(same_ground, iou, 0))
    counterpart = np.full(len(before), -1, dtype=np.int64)
    while affinity.size and affinity.max() > 0:
        row, column = np.unravel_index(int(affinity.argmax()), affinity.shape)
        counterpart[row] = column
        affinity[row], affinity[:, column] = 0, 0
    return counterpart
