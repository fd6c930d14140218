from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import SuperGlueConfig, SuperGlueForKeypointMatching
from transformers.models.superglue import modeling_superglue

from pipeline.vision.matching.matcher import RegionPairs
from pipeline.vision.matching.settings import PUBLISHED, SuperGlueSettings
from pipeline.vision.matching.superglue import LOG_ZERO, SuperGlue, log_optimal_transport
from tests.vision.matching.published import load_into, to_transformers
from tests.vision.matching.region_data import SUPERGLUE, WIDTH


def plain(scores: NDArray[np.float64], bin_score: float, iterations: int) -> NDArray[np.float64]:
    """Sinkhorn's iterations on probabilities, one row and one column after the other."""
    rows, columns = scores.shape
    table = np.full((rows + 1, columns + 1), np.exp(bin_score))
    table[:rows, :columns] = np.exp(scores)
    row_mass = [1.0] * rows + [float(columns)]
    column_mass = [1.0] * columns + [float(rows)]
    for _ in range(iterations):
        for row in range(rows + 1):
            table[row] *= row_mass[row] / table[row].sum()
        for column in range(columns + 1):
            table[:, column] *= column_mass[column] / table[:, column].sum()
    return table


def full(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.ones(len(scores), length, dtype=torch.bool) for length in scores.shape[1:])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (7, 2)])
def test_against_a_plain_loop(rows: int, columns: int) -> None:
    scores = np.random.default_rng(0).normal(size=(rows, columns)) * 3
    table = torch.from_numpy(scores).float()[None]
    log_assignment = log_optimal_transport(table, torch.tensor(0.7), *full(table), 15)
    np.testing.assert_allclose(log_assignment[0].exp().numpy(), plain(scores, 0.7, 15), rtol=1e-5, atol=1e-6)


def test_columns_carry_their_mass_and_rows_come_to_it() -> None:
    table = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)) * 2
    log_assignment = log_optimal_transport(table, torch.tensor(1.0), *full(table), 100).exp()
    torch.testing.assert_close(log_assignment.sum(1), torch.tensor([[1.0, 1, 1, 1, 6]]).expand(2, -1))
    torch.testing.assert_close(
        log_assignment.sum(2), torch.tensor([[1.0] * 6 + [4]]).expand(2, -1), rtol=1e-3, atol=1e-3
    )


def test_scores_of_any_size_stay_finite() -> None:
    table = torch.tensor([[[300.0, -300.0], [-300.0, 300.0]]], requires_grad=True)
    log_assignment = log_optimal_transport(table, torch.tensor(1.0), *full(table), 50)
    log_assignment.diagonal(dim1=1, dim2=2)[:, :2].sum().backward()
    torch.testing.assert_close(log_assignment.exp()[0, :2, :2], torch.eye(2), rtol=0, atol=0.02)
    assert table.grad is not None
    assert table.grad.isfinite().all()


def test_padding_changes_nothing_and_gets_no_gradient() -> None:
    small = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(2))
    large = torch.full((1, 6, 5), 50.0)
    large[:, :3, :2] = small
    large.requires_grad_()
    before, after = (torch.arange(length)[None] < count for length, count in ((6, 3), (5, 2)))
    bin_score = torch.tensor(0.2)
    alone = log_optimal_transport(small, bin_score, *full(small), 30)
    log_assignment = log_optimal_transport(large, bin_score, before, after, 30)
    rows, columns = [0, 1, 2, 6], [0, 1, 5]
    torch.testing.assert_close(log_assignment[0][rows][:, columns], alone[0], rtol=0, atol=1e-6)
    assert (log_assignment[0, 3:6] == LOG_ZERO).all()
    log_assignment[0][rows][:, columns].sum().backward()
    assert large.grad is not None
    assert large.grad.isfinite().all()
    assert (large.grad[:, 3:] == 0).all()
    assert (large.grad[:, :, 2:] == 0).all()


def test_a_date_without_regions_leaves_the_dustbin() -> None:
    table = torch.zeros(2, 3, 2)
    before = torch.tensor([[True, True, False], [False] * 3])
    after = torch.tensor([[False, False], [True, False]])
    log_assignment = log_optimal_transport(table, torch.tensor(1.0), before, after, 10).exp()
    torch.testing.assert_close(log_assignment[0, :3, 2], torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(log_assignment[1, 3, :2], torch.tensor([1.0, 0.0]))
    assert log_assignment[:, :3, :2].sum() == 0


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
        log_assignment = ours.log_assignment(pairs)
        matches, confidence, *_ = theirs._match_image_pair(
            pairs.centroids, pairs.descriptors, pairs.scores, 90, 160, mask=pairs.valid.int()
        )
    torch.testing.assert_close(log_assignment, recorded[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(log_assignment.exp(), recorded[0].exp(), rtol=0, atol=1e-4)
    # A comparison of tables that say nothing would be worth nothing.
    assert log_assignment[:, :-1, :-1].exp().max() > 0.1
    best = log_assignment[:, :-1, :-1].exp().max(2)
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
