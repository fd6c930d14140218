from __future__ import annotations

import pytest
import torch
from transformers import SuperGlueConfig, SuperGlueForKeypointMatching
from transformers.models.superglue import modeling_superglue

from pipeline.vision.matching.pairs import RegionPairs
from pipeline.vision.matching.settings import PUBLISHED, SuperGlueSettings
from pipeline.vision.matching.superglue import SuperGlue
from tests.vision.matching.published import load_into, to_transformers
from tests.vision.matching.region_data import SUPERGLUE, WIDTH

SMALL = PUBLISHED.model_copy(update={"width": 32, "layers": 2, "keypoint_encoder": (8, 16), "sinkhorn_iterations": 25})


def points(count: int, width: int, *, pairs: int = 2) -> RegionPairs:
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([[90.0, 160.0]]).expand(pairs, 2, 2)
    centroids = torch.rand(pairs, 2, count, 2, generator=generator) * sizes.flip(-1)[:, :, None]
    return RegionPairs(
        centroids=centroids,
        boxes=torch.cat([centroids - 2, centroids + 2], dim=-1),
        descriptors=torch.nn.functional.normalize(torch.randn(pairs, 2, count, width, generator=generator), dim=-1),
        scores=torch.rand(pairs, 2, count, generator=generator),
        valid=torch.ones(pairs, 2, count, dtype=torch.bool),
        sizes=sizes,
    )


@pytest.mark.parametrize("layout", [SMALL, PUBLISHED], ids=["small", "published"])
def test_equals_transformers_with_the_same_weights(layout: SuperGlueSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    ours = SuperGlue(layout, layout.width).eval()
    with torch.no_grad():
        for name, tensor in ours.named_buffers():
            if name.endswith("running_mean"):
                tensor.normal_(0.0, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.1, 0.5)
        # Larger than at the start of a training: scores of regions are to differ.
        ours.final_proj.weight.mul_(6.0 if layout is SMALL else 2.0)
        ours.final_proj.bias.zero_()
        ours.bin_score.fill_(-1.0)
    config = SuperGlueConfig(
        hidden_size=layout.width,
        keypoint_encoder_sizes=list(layout.keypoint_encoder),
        gnn_layers_types=["self", "cross"] * layout.layers,
        num_attention_heads=layout.heads,
        sinkhorn_iterations=layout.sinkhorn_iterations,
    )
    theirs = SuperGlueForKeypointMatching(config).eval()
    load_into(theirs, to_transformers(ours.state_dict(), layout.heads))
    recorded = []
    transport = modeling_superglue.log_optimal_transport

    def recording(*arguments: object, **named: object) -> torch.Tensor:
        recorded.append(transport(*arguments, **named))
        return recorded[-1]

    monkeypatch.setattr(modeling_superglue, "log_optimal_transport", recording)
    pairs = points(12, layout.width)
    with torch.inference_mode():
        found = ours.log_assignment(pairs)
        matches, confidence, *_ = theirs._match_image_pair(
            pairs.centroids, pairs.descriptors, pairs.scores, 90, 160, mask=pairs.valid.int()
        )
    torch.testing.assert_close(found, recorded[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.exp(), recorded[0].exp(), rtol=0, atol=1e-4)
    # A comparison of tables that say nothing would be worth nothing.
    assert found[:, :-1, :-1].exp().max() > 0.1
    best = found[:, :-1, :-1].exp().max(2)
    mutual = matches[:, 0] >= 0
    assert mutual.any()
    assert torch.equal(best.indices[mutual], matches[:, 0][mutual].long())
    torch.testing.assert_close(best.values[mutual], confidence[:, 0][mutual], rtol=0, atol=1e-4)


def test_names_are_those_of_the_published_files() -> None:
    names = SuperGlue(PUBLISHED, 256).state_dict()
    assert names["kenc.encoder.0.weight"].shape == (32, 3, 1)
    assert names["kenc.encoder.12.weight"].shape == (256, 256, 1)
    assert names["gnn.layers.17.attn.proj.2.weight"].shape == (256, 256, 1)
    assert names["gnn.layers.0.attn.merge.bias"].shape == (256,)
    assert names["gnn.layers.0.mlp.0.weight"].shape == (512, 512, 1)
    assert names["gnn.layers.0.mlp.1.running_var"].shape == (512,)
    assert names["gnn.layers.0.mlp.3.weight"].shape == (256, 512, 1)
    assert names["final_proj.weight"].shape == (256, 256, 1)
    assert names["bin_score"].shape == ()
    assert sum(tensor.numel() for name, tensor in names.items() if "num_batches" not in name) > 11_000_000


def test_statistics_of_training_leave_padding_out() -> None:
    torch.manual_seed(0)
    pairs = points(6, WIDTH)
    padded = RegionPairs(
        *(
            tensor if name == "sizes" else torch.cat([tensor, torch.ones_like(tensor)], dim=2)
            for name, tensor in vars(pairs).items()
        )
    )
    padded.valid[:, :, 6:] = False
    alone, wide = SuperGlue(SUPERGLUE, WIDTH).train(), SuperGlue(SUPERGLUE, WIDTH).train()
    wide.load_state_dict(alone.state_dict())
    rows = [*range(6), 12]
    torch.testing.assert_close(
        alone.log_assignment(pairs), wide.log_assignment(padded)[:, rows][:, :, rows], rtol=0, atol=1e-4
    )
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(tensor, wide.state_dict()[name], msg=name)


def test_descriptors_of_another_width_need_a_projection() -> None:
    with pytest.raises(ValueError, match="8 channels"):
        SuperGlue(SMALL, 8)
