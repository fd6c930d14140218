from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.vision.regions.descriptor import (
    DescriptorHead,
    apply_head,
    build_head,
    mask_coverage,
    region_descriptors,
    region_grids,
)
from pipeline.vision.regions.settings import GRID, HeadSettings, RoiSettings
from tests.vision.regions.plain import align, pool

CONV = HeadSettings(kind="conv", width=16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Boxes of whole pixels within a picture."""
    rng = np.random.default_rng(seed)
    left, top = rng.integers(0, width - 1, count), rng.integers(0, height - 1, count)
    right, bottom = rng.integers(left + 1, width + 1), rng.integers(top + 1, height + 1)
    return torch.tensor(np.stack([left, top, right, bottom], axis=1), dtype=torch.float32)


def coordinate_map(cells: int, scale: float) -> Tensor:
    """A map (1, 2, cells, cells) that holds x and y of its cells' centres in original pixels."""
    centres = (torch.arange(cells) + 0.5) / scale
    return torch.stack([centres.expand(cells, cells), centres[:, None].expand(cells, cells)])[None]


@pytest.mark.parametrize(("output", "ratio"), [(7, 0), (7, 2), (14, 0), (10, 1)])
def test_equals_a_plain_loop(output: int, ratio: int) -> None:
    feature = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    boxes = random_boxes(6, 72, 72)
    grids = region_grids(feature, [boxes], [1 / 8], [(72, 72)], RoiSettings(output_size=output, sampling_ratio=ratio))
    assert grids.shape == (6, 3, GRID, GRID)
    for box, grid in zip(boxes.double().numpy(), grids.numpy(), strict=True):
        expected = pool(align(feature[0].double().numpy(), box / 8, output, ratio), GRID)
        np.testing.assert_allclose(grid, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(128, 128, 1 / 8), (64, 128, 1 / 8), (200, 96, 16 / 200), (256, 256, 1 / 16), (90, 128, 1 / 8)],
)
def test_pooled_coordinates_are_the_boxes_centres(height: int, width: int, scale: float) -> None:
    # Away from the edges, where the outermost half cell is continued outwards.
    boxes = random_boxes(20, height, width)
    margin = 0.5 / scale
    boxes[:, :2] = boxes[:, :2].clamp(min=margin)
    boxes[:, 2] = boxes[:, 2].clamp(max=width - margin)
    boxes[:, 3] = boxes[:, 3].clamp(max=height - margin)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]
    assert len(boxes) >= 8
    grids = region_grids(coordinate_map(16, scale), [boxes], [scale], [(height, width)], RoiSettings())
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(grids.mean((2, 3)), centres, atol=1e-3, rtol=1e-4)


def test_grid_runs_right_and_down() -> None:
    box = torch.tensor([[32.0, 16.0, 88.0, 72.0]])
    x, y = region_grids(coordinate_map(16, 1 / 8), [box], [1 / 8], [(128, 128)], RoiSettings())[0]
    torch.testing.assert_close(x[0], torch.arange(36.0, 85.0, 8.0))
    torch.testing.assert_close(y[:, 0], torch.arange(20.0, 69.0, 8.0))


@pytest.mark.parametrize(("height", "width"), [(48, 128), (128, 40), (100, 128), (1, 128)])
def test_padding_never_shows(height: int, width: int) -> None:
    rows, columns = -(-height // 8), -(-width // 8)
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    dirty = clean.clone()
    dirty[:, :, rows:] = 1e6
    dirty[:, :, :, columns:] = -1e6
    boxes = torch.cat([torch.tensor([[0.0, 0.0, width, height]]), random_boxes(8, max(height, 2), width)])
    boxes[:, 3] = boxes[:, 3].clamp(max=height)
    boxes[:, 1] = boxes[:, 1].clamp(max=height - 1)
    settings = RoiSettings()
    grids = region_grids(dirty, [boxes], [1 / 8], [(height, width)], settings)
    assert grids.abs().max() < 100
    # As if the map ended where the picture does.
    for box, grid in zip(boxes.double().numpy(), grids.numpy(), strict=True):
        cut = clean[0, :, :rows, :columns].double().numpy()
        np.testing.assert_allclose(grid, pool(align(cut, box / 8, 14, 0), GRID), atol=1e-5)


def test_a_sliver_of_rounding_is_padding() -> None:
    # 48.4 pixels of 8: the picture was resized to 48 rows, six cells, and the seventh shows none of it.
    feature = torch.zeros(1, 1, 16, 16)
    feature[:, :, 6:] = 1.0
    whole = torch.tensor([[0.0, 0.0, 256.0, 96.8]])
    assert region_grids(feature, [whole], [1 / 16], [(97, 256)], RoiSettings()).max() == 0.0
    assert region_grids(feature, [whole], [1 / 16], [(99, 256)], RoiSettings()).max() > 0.0


def test_permuted_regions_give_permuted_grids() -> None:
    feature = torch.randn(1, 5, 16, 16)
    boxes = random_boxes(40, 128, 128)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    grids = region_grids(feature, [boxes], [1 / 8], [(128, 128)], RoiSettings())
    permuted = region_grids(feature, [boxes[order]], [1 / 8], [(128, 128)], RoiSettings())
    assert torch.equal(permuted, grids[order])


@pytest.mark.parametrize("mask_pooling", [False, True])
def test_batches_equal_one_by_one(mask_pooling: bool) -> None:
    settings = RoiSettings(mask_pooling=mask_pooling)
    features = torch.randn(4, 5, 16, 16)
    sizes = [(128, 128), (64, 128), (256, 192), (128, 128)]
    scales = [16 / max(size) for size in sizes]
    boxes = [random_boxes(n, *size) for n, size in zip((40, 0, 7, 1), sizes, strict=True)]
    masks = [torch.rand(len(b), *size) < 0.5 for b, size in zip(boxes, sizes, strict=True)]
    together = region_grids(features, boxes, scales, sizes, settings, masks=masks)
    alone = [
        region_grids(features[i : i + 1], [boxes[i]], [scales[i]], [sizes[i]], settings, masks=[masks[i]])
        for i in range(4)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_no_images_and_no_regions() -> None:
    assert region_grids(torch.zeros(0, 8, 4, 4), [], [], [], RoiSettings()).shape == (0, 8, GRID, GRID)
    none = torch.zeros(0, 4)
    assert region_grids(torch.zeros(1, 8, 4, 4), [none], [1.0], [(4, 4)], RoiSettings()).shape == (0, 8, GRID, GRID)


def test_half_precision_embeddings_are_pooled_in_single() -> None:
    features = torch.randn(1, 3, 16, 16)
    boxes = random_boxes(5, 128, 128)
    full = region_grids(features, [boxes], [1 / 8], [(128, 128)], RoiSettings())
    half = region_grids(features.half(), [boxes], [1 / 8], [(128, 128)], RoiSettings())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=2e-3, rtol=2e-3)


def test_arguments_must_agree() -> None:
    with pytest.raises(ValueError, match="1 feature maps, 2 sets of boxes"):
        region_grids(torch.zeros(1, 1, 4, 4), [torch.zeros(0, 4)] * 2, [1.0], [(4, 4)], RoiSettings())
    with pytest.raises(ValueError, match="one mask per box"):
        region_grids(torch.zeros(1, 1, 4, 4), [torch.zeros(0, 4)], [1.0], [(4, 4)], RoiSettings(mask_pooling=True))


def test_mask_coverage_are_covered_parts_of_bins() -> None:
    # A box of 28 × 28 pixels in 14 bins of 2 × 2; the mask is its left 10 columns.
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 4:32, 6:16] = True
    shares = mask_coverage(mask, torch.tensor([[6.0, 4.0, 34.0, 32.0]]), 14)[0]
    assert torch.all(shares[1:-1, 1:4] == 1.0)
    assert torch.all(shares[:, 6:] == 0.0)
    # RoIAlign samples between pixel centres, which blurs by half a pixel; the sum stays.
    assert float(shares.sum() * 4) == pytest.approx(280, rel=0.06)


def test_mask_pooling_averages_over_the_mask() -> None:
    # The map holds 1 where the mask is, in whole cells, and -5 elsewhere.
    mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    mask[0, 32:96, 32:64] = True
    mask[0, 72:96, 64:96] = True
    feature = torch.full((1, 1, 128, 128), -5.0)
    feature[0, 0][mask[0]] = 1.0
    box = torch.tensor([[32.0, 32.0, 96.0, 96.0]])
    plain, weighted = (
        region_grids(feature, [box], [1.0], [(128, 128)], RoiSettings(mask_pooling=m), masks=[mask]).mean()
        for m in (False, True)
    )
    share = float(mask[0, 32:96, 32:96].float().mean())
    assert float(plain) == pytest.approx(share - 5 * (1 - share), abs=0.1)
    assert float(weighted) == pytest.approx(1.0, abs=0.2)


def test_a_mask_without_samples_counts_as_its_box() -> None:
    settings = RoiSettings(mask_pooling=True)
    feature, box = torch.randn(1, 2, 16, 16), torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    empty = torch.zeros(1, 128, 128, dtype=torch.bool)
    weighted = region_grids(feature, [box], [1 / 8], [(128, 128)], settings, masks=[empty])
    assert torch.equal(weighted, region_grids(feature, [box], [1 / 8], [(128, 128)], RoiSettings()))


def test_boxes_of_one_pixel() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [127.0, 127.0, 128.0, 128.0]])
    grids = region_grids(coordinate_map(16, 1 / 8), [boxes], [1 / 8], [(128, 128)], RoiSettings())
    # Nearer to the edge than half a cell, the outermost cells' own value.
    torch.testing.assert_close(grids.mean((2, 3)), torch.tensor([[4.0, 4.0], [124.0, 124.0]]))


def test_coverage_of_large_masks_is_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, boxes = torch.rand(7, 40, 50) < 0.5, random_boxes(7, 40, 50)
    whole = mask_coverage(masks, boxes, 14)
    monkeypatch.setattr("pipeline.vision.regions.descriptor._PIXELS", 3 * 40 * 50)
    assert torch.equal(mask_coverage(masks, boxes, 14), whole)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mask_pooling", [False, True])
def test_a_gpu_gives_the_same_numbers(mask_pooling: bool) -> None:
    settings = RoiSettings(mask_pooling=mask_pooling)
    features, sizes, scales = torch.randn(2, 8, 16, 16), [(128, 128), (64, 128)], [1 / 8, 1 / 8]
    boxes = [random_boxes(40, *size) for size in sizes]
    masks = [torch.rand(40, *size) < 0.5 for size in sizes]
    on_cpu = region_grids(features, boxes, scales, sizes, settings, masks=masks)
    on_gpu = region_grids(features.cuda(), boxes, scales, sizes, settings, masks=[mask.cuda() for mask in masks])
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=1e-4)


def test_mean_is_the_average_of_the_grid() -> None:
    grids = torch.randn(5, 12, GRID, GRID)
    head = build_head(12, HeadSettings())
    assert head.width == 12
    assert not list(head.parameters())
    torch.testing.assert_close(apply_head(head, grids), grids.mean((2, 3)))


def test_conv_against_its_definition() -> None:
    grids = torch.randn(3, 8, GRID, GRID)
    head = build_head(8, CONV)
    state = head.state_dict()
    hidden = torch.nn.functional.conv2d(grids, state["convolution.0.weight"], padding=1)
    mean = torch.nn.functional.gelu(hidden).mean((2, 3))
    torch.testing.assert_close(apply_head(head, grids), mean @ state["projection.weight"].T)
    assert head.width == 16


def test_random_weights_are_orthogonal_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, two, other = (build_head(8, CONV.model_copy(update={"seed": seed})) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    weight = one.state_dict()["convolution.0.weight"].flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(16), atol=1e-5, rtol=0)
    assert not torch.equal(weight, other.state_dict()["convolution.0.weight"].flatten(1))


def test_normalised_descriptors_have_unit_length() -> None:
    grids = torch.randn(4, 8, GRID, GRID)
    for settings in (HeadSettings(normalise=True), CONV.model_copy(update={"normalise": True})):
        norms = apply_head(build_head(8, settings), grids).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(4))
    zero = apply_head(build_head(8, HeadSettings(normalise=True)), torch.zeros(1, 8, GRID, GRID))
    assert torch.equal(zero, torch.zeros(1, 8))


@pytest.mark.parametrize("settings", [HeadSettings(), CONV])
def test_bits_do_not_depend_on_how_many_regions_there_are(settings: HeadSettings) -> None:
    head = build_head(8, settings)
    grids = torch.randn(70, 8, GRID, GRID)
    whole = apply_head(head, grids)
    assert whole.shape == (70, head.width)
    for start, stop in ((0, 1), (3, 50), (69, 70), (5, 5)):
        assert torch.equal(apply_head(head, grids[start:stop]), whole[start:stop])


def test_trained_weights_load_and_others_are_refused(tmp_path: Path) -> None:
    trained = DescriptorHead(8, CONV)
    path = tmp_path / "head.safetensors"
    save_file(trained.state_dict(), path)
    settings = CONV.model_copy(update={"weights": str(path)})
    grids = torch.randn(2, 8, GRID, GRID)
    torch.testing.assert_close(apply_head(build_head(8, settings), grids), apply_head(trained, grids))
    with pytest.raises(CheckpointError, match="from 4 to 16 channels"):
        build_head(4, settings)
    with pytest.raises(CheckpointError, match="from 8 to 32 channels"):
        build_head(8, settings.model_copy(update={"width": 32}))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        build_head(8, settings)
    with pytest.raises(CheckpointError, match="not there"):
        build_head(8, settings.model_copy(update={"weights": str(tmp_path / "none.safetensors")}))


def test_gradients_reach_the_head() -> None:
    head = build_head(8, CONV).train()
    head(torch.randn(2, 8, GRID, GRID)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_from_map_to_descriptor() -> None:
    features = torch.randn(2, 8, 16, 16)
    boxes = [torch.tensor([[0.0, 0.0, 64.0, 64.0]]), torch.tensor([[8.0, 8.0, 100.0, 50.0], [1.0, 2.0, 3.0, 4.0]])]
    sizes, scales, head = [(128, 128)] * 2, [1 / 8] * 2, build_head(8, CONV)
    vectors = region_descriptors(features, boxes, scales, sizes, head, RoiSettings())
    assert vectors.shape == (3, 16)
    assert torch.equal(vectors, apply_head(head, region_grids(features, boxes, scales, sizes, RoiSettings())))
