from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam

from pipeline.errors import CheckpointError, SettingsError
from pipeline.vision.sam.model import LAYOUTS, build_sam, embedding_shape, encoder_size
from pipeline.vision.sam.settings import SamSettings, SamVariant


@pytest.fixture
def mini() -> Sam:
    return build_sam(SamSettings(), random_weights=True, seed=1)


@pytest.mark.parametrize(("variant", "millions"), [("mini", 1.5), ("vit_b", 93.7), ("vit_l", 312.3), ("vit_h", 641.1)])
def test_sizes_are_the_published_ones(variant: SamVariant, millions: float) -> None:
    with torch.device("meta"):
        sam = build_sam(SamSettings(variant=variant), random_weights=True)
    assert sum(parameter.numel() for parameter in sam.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    layout = LAYOUTS[variant]
    assert embedding_shape(SamSettings(variant=variant)) == (layout.channels, *[layout.size // layout.patch] * 2)


def test_embeddings_have_the_shape_of_embedding_shape(mini: Sam) -> None:
    small = SamSettings(encoder_size=64)
    for sam, settings in ((mini, SamSettings()), (build_sam(small, random_weights=True), small)):
        size = encoder_size(settings)
        with torch.inference_mode():
            assert sam.image_encoder(torch.zeros(2, 3, size, size)).shape == (2, *embedding_shape(settings))


def test_random_weights_are_seeded_and_leave_the_global_generator_alone(mini: Sam) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    same, other = (build_sam(SamSettings(), random_weights=True, seed=seed) for seed in (1, 2))
    assert torch.equal(torch.rand(1), expected)
    weights = mini.mask_decoder.iou_token.weight
    assert torch.equal(same.mask_decoder.iou_token.weight, weights)
    assert not torch.equal(other.mask_decoder.iou_token.weight, weights)


def test_encoder_sizes_are_multiples_of_the_patch() -> None:
    with pytest.raises(SettingsError, match="no multiple of 8") as caught:
        encoder_size(SamSettings(encoder_size=100))
    assert "96" in str(caught.value.fix)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_read_in_both_formats(tmp_path: Path, mini: Sam, suffix: str) -> None:
    path = _saved(mini.state_dict(), tmp_path / f"sam{suffix}")
    sam = build_sam(SamSettings(weights=str(path)))
    assert not sam.training
    for name, tensor in mini.state_dict().items():
        assert torch.equal(sam.state_dict()[name], tensor), name


def test_half_precision_and_the_normalisation_of_older_files_are_taken(tmp_path: Path, mini: Sam) -> None:
    state = {name: tensor.half() for name, tensor in mini.state_dict().items()}
    path = _saved({**state, "pixel_mean": torch.zeros(3, 1, 1)}, tmp_path / "sam.pth")
    sam = build_sam(SamSettings(weights=str(path)))
    weights = sam.mask_decoder.iou_token.weight
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, mini.mask_decoder.iou_token.weight, atol=1e-3, rtol=1e-3)
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_position_embeddings_follow_the_encoder_size(tmp_path: Path, mini: Sam) -> None:
    encoder = mini.image_encoder
    with torch.no_grad():
        # A slope along the width stays one; its ends lie half a token further out or in.
        encoder.pos_embed.copy_(torch.arange(16.0).view(1, 1, 16, 1).expand_as(encoder.pos_embed))
        for table in (encoder.blocks[2].attn.rel_pos_h, encoder.blocks[1].attn.rel_pos_h):
            table.copy_(torch.arange(float(len(table)))[:, None].expand_as(table))
    path = _saved(mini.state_dict(), tmp_path / "sam.safetensors")
    small = build_sam(SamSettings(weights=str(path), encoder_size=64)).image_encoder
    torch.testing.assert_close(small.pos_embed[0, 3, 2:6, 0], torch.arange(4.5, 12, 2), atol=0.05, rtol=0)
    whole, window = small.blocks[2].attn.rel_pos_h[:, 0], small.blocks[1].attn.rel_pos_h[:, 0]
    assert (len(whole), len(window)) == (15, 15)
    assert whole[7].item() == pytest.approx(15)
    assert torch.equal(window, torch.arange(15.0))
    # Back at its own size, what was saved at 64 pixels loads too, though all its tables are equally long.
    back = _saved(
        build_sam(SamSettings(weights=str(path), encoder_size=64)).state_dict(), tmp_path / "small.safetensors"
    )
    assert build_sam(SamSettings(weights=str(back))).image_encoder.pos_embed.shape == (1, 16, 16, 128)


def test_weights_of_another_variant_are_refused(tmp_path: Path, mini: Sam) -> None:
    path = _saved(mini.state_dict(), tmp_path / "sam_vit_b.pth")
    with torch.device("meta"), pytest.raises(CheckpointError, match="not a SAM vit_b") as caught:
        build_sam(SamSettings(variant="vit_b", weights=str(path)))
    assert str(path) == caught.value.where


def test_unexpected_and_missing_keys_are_refused(tmp_path: Path, mini: Sam) -> None:
    state = mini.state_dict()
    more = _saved({**state, "adapter.weight": torch.zeros(3)}, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"1 unknown, 0 missing .*adapter\.weight"):
        build_sam(SamSettings(weights=str(more)))
    less = _saved({name: t for name, t in state.items() if "neck" not in name}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match="0 unknown, 6 missing"):
        build_sam(SamSettings(weights=str(less)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("length", [0, 100, 200_000])
def test_truncated_weights_are_refused(tmp_path: Path, mini: Sam, suffix: str, length: int) -> None:
    path = _saved(mini.state_dict(), tmp_path / f"sam{suffix}")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="cannot be read"):
        build_sam(SamSettings(weights=str(path)))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not there"):
        build_sam(SamSettings(weights=str(tmp_path / "sam.pth")))


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": _Bomb(target)}, protocol=2))
    torch.save({"weight": _Bomb(target)}, tmp_path / "zipped.pth")
    for name in ("plain.pth", "zipped.pth"):
        with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
            build_sam(SamSettings(weights=str(tmp_path / name)))
    assert not target.exists()


@pytest.mark.parametrize("content", [[1, 2], {"weight": 3}, {4: torch.zeros(1)}, torch.zeros(3)])
def test_pickles_of_other_things_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match="not a state dict"):
        build_sam(SamSettings(weights=str(tmp_path / "sam.pth")))


def _saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path
