from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import CheckpointError
from pipeline.vision.regions.descriptor import build_head, describe, region_descriptors
from pipeline.vision.regions.head import DescriptorHead
from pipeline.vision.regions.roi import region_grids
from pipeline.vision.regions.settings import GRID, HeadSettings, RoiSettings

CONV = HeadSettings(kind="conv", width=16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_mean_is_the_average_of_the_grid() -> None:
    grids = torch.randn(5, 12, GRID, GRID)
    head = build_head(12, HeadSettings())
    assert head.width == 12
    assert not list(head.parameters())
    torch.testing.assert_close(describe(head, grids), grids.mean((2, 3)))


def test_conv_against_its_definition() -> None:
    grids = torch.randn(3, 8, GRID, GRID)
    head = build_head(8, CONV)
    state = head.state_dict()
    hidden = torch.nn.functional.conv2d(grids, state["convolution.0.weight"], padding=1)
    mean = torch.nn.functional.gelu(hidden).mean((2, 3))
    torch.testing.assert_close(describe(head, grids), mean @ state["projection.weight"].T)
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
        norms = describe(build_head(8, settings), grids).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(4))
    zero = describe(build_head(8, HeadSettings(normalise=True)), torch.zeros(1, 8, GRID, GRID))
    assert torch.equal(zero, torch.zeros(1, 8))


@pytest.mark.parametrize("settings", [HeadSettings(), CONV])
def test_bits_do_not_depend_on_how_many_regions_there_are(settings: HeadSettings) -> None:
    head = build_head(8, settings)
    grids = torch.randn(70, 8, GRID, GRID)
    whole = describe(head, grids)
    assert whole.shape == (70, head.width)
    for start, stop in ((0, 1), (3, 50), (69, 70), (5, 5)):
        assert torch.equal(describe(head, grids[start:stop]), whole[start:stop])


def test_trained_weights_load_and_others_are_refused(tmp_path: Path) -> None:
    trained = DescriptorHead(8, CONV)
    path = tmp_path / "head.safetensors"
    save_file(trained.state_dict(), path)
    settings = CONV.model_copy(update={"weights": str(path)})
    grids = torch.randn(2, 8, GRID, GRID)
    torch.testing.assert_close(describe(build_head(8, settings), grids), describe(trained, grids))
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
    assert torch.equal(vectors, describe(head, region_grids(features, boxes, scales, sizes, RoiSettings())))
