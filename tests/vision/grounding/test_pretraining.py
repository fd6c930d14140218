from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.datasets.world.files import generate_world
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.vision.grounding import pretraining
from pipeline.vision.grounding.model import build_grounding_dino
from pipeline.vision.grounding.oracle import box_iou
from pipeline.vision.grounding.pretraining import (
    GroundingPretraining,
    _assign,
    _giou,
    _hungarian,
    _iou,
    _quality_focal,
    layer_losses,
)
from pipeline.vision.grounding.prompts import KINDS, PHRASES, load_text_encoder
from pipeline.vision.grounding.scenes import Scenes, grounding_batches, read_scenes, sampling_weights
from pipeline.vision.grounding.settings import GroundingSettings
from stages.pretrain import grounding_dino
from stages.settings import PretrainGroundingSettings
from tests.training.resuming import check_resumed
from tests.vision.grounding.grounding_data import PRETRAINED, TEXT_ENCODER

GOLD = torch.tensor([[[0.25, 0.25, 0.2, 0.2], [0.7, 0.6, 0.3, 0.5], [0.0, 0.0, 0.0, 0.0]]])
NAMES = torch.tensor([[[True, False], [False, True], [False, False]]])


def corners(boxes: torch.Tensor) -> np.ndarray:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1).numpy()


def test_overlaps_against_an_independent_one() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(1, 6, 4, generator=generator) + 0.05, torch.rand(1, 6, 4, generator=generator) + 0.05
    table = box_iou(corners(one[0]), corners(other[0]))
    np.testing.assert_allclose(_iou(one, other)[0], np.diag(table), atol=1e-5)
    a, b = corners(one[0])[:, None], corners(other[0])[None]
    hull = (np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])).prod(-1)
    area = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    union = (area[0] + area[1]) / (1 + table)
    np.testing.assert_allclose(_giou(one, other)[0], table - (hull - union) / hull, atol=1e-5)


def test_matching_is_the_cheapest_one_to_one() -> None:
    boxes = torch.tensor(
        [[[0.71, 0.6, 0.3, 0.5], [0.25, 0.26, 0.2, 0.2], [0.9, 0.1, 0.1, 0.1], [0.25, 0.25, 0.3, 0.3]]]
    )
    logits = torch.tensor([[[-3.0, 2.0], [2.0, -3.0], [0.0, 0.0], [1.0, -3.0]]])
    rows, columns, images = _hungarian(logits, boxes, GOLD, NAMES)
    assert sorted(zip(columns.tolist(), rows.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert images.tolist() == [0, 0]


def test_perfect_boxes_and_names_cost_next_to_nothing() -> None:
    boxes = torch.cat([GOLD[:, :2], torch.full((1, 2, 4), 0.1)], dim=1)
    logits = torch.full((1, 4, 2), -12.0)
    logits[0, 0, 0] = logits[0, 1, 1] = 12.0
    losses = layer_losses(logits, boxes, GOLD, NAMES)
    assert losses["class"] < 1e-3
    assert losses["box"] < 1e-4
    wrong = layer_losses(-logits, boxes, GOLD, NAMES)
    assert wrong["class"] > 1


def test_no_box_at_all_still_teaches_silence() -> None:
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    losses = layer_losses(logits, torch.full((1, 3, 4), 0.5), torch.zeros(1, 1, 4), torch.zeros(1, 1, 2).bool())
    assert losses["box"] == 0
    losses["class"].backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_padded_tokens_cost_nothing() -> None:
    logits = torch.tensor([[[1.0, -2.0]]])
    padded = torch.tensor([[[1.0, -2.0, float("-inf")]]], requires_grad=True)
    loss = _quality_focal(padded, torch.tensor([[[0.5, 0.0, 0.0]]]))
    torch.testing.assert_close(loss, _quality_focal(logits, torch.tensor([[[0.5, 0.0]]])))
    loss.backward()
    assert padded.grad is not None
    assert torch.isfinite(padded.grad).all()


def test_proposals_belong_to_the_box_they_fit() -> None:
    centres = torch.tensor([[0.25, 0.25], [0.7, 0.6], [0.9, 0.1], [0.3, 0.3]])
    boxes = torch.cat([centres, torch.tensor([[0.2, 0.2], [0.3, 0.4], [0.2, 0.2], [0.2, 0.2]])], dim=1)[None]
    owner, quality = _assign(torch.zeros(1, 4, 2), boxes, centres, GOLD, NAMES, NAMES.any(-1))
    assert owner[0, :2].tolist() == [0, 1]
    # The best proposal of a box is wanted to score as well as it fits.
    np.testing.assert_allclose(quality[0, :2], [1.0, 0.8], atol=1e-4)
    assert quality[0, 2] == 0
    assert 0 < quality[0, 3] < 1


WORLD = WorldSettings(train=4, val=2, test=0, size=96, seed=3)
ENGINE = EngineSettings(device="cpu", workers=1)
SHIPPED = PRETRAINED / "grounding-dino-mini.safetensors"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    folder = tmp_path_factory.mktemp("world")
    generate_world(WORLD, folder, engine=ENGINE)
    return read_scenes(folder, "train")


def test_boxes_turn_with_their_images(scenes: Scenes) -> None:
    marked = torch.zeros_like(scenes.images)
    for image, boxes, kinds in zip(marked, scenes.boxes, scenes.kinds, strict=True):
        for number in np.flatnonzero(kinds == KINDS.index("house"))[:1]:
            left, top, right, bottom = boxes[number].astype(int)
            image[:, top:bottom, left:right] = 255
    only = Scenes(
        marked,
        [boxes[kinds == KINDS.index("house")][:1] for boxes, kinds in zip(scenes.boxes, scenes.kinds, strict=True)],
        [kinds[kinds == KINDS.index("house")][:1] for kinds in scenes.kinds],
        scenes.areas,
        scenes.land,
    )
    tokenizer = load_text_encoder(str(TEXT_ENCODER))[0]
    checked = 0
    for seed in range(4):
        for batch in grounding_batches(only, tokenizer, 2, np.random.default_rng(seed), phrases=["house"] * 4):
            for image, boxes in zip(batch.images, batch.boxes, strict=True):
                if not image.any():
                    continue
                rows, columns = torch.nonzero(image[0], as_tuple=True)
                found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 96
                middle, extent = boxes[0, :2], boxes[0, 2:]
                torch.testing.assert_close(torch.cat([middle - extent / 2, middle + extent / 2]), found)
                checked += 1
    assert checked > 8


def test_tokens_name_the_objects(scenes: Scenes) -> None:
    tokenizer = load_text_encoder(str(TEXT_ENCODER))[0]
    batch = next(iter(grounding_batches(scenes, tokenizer, 4, np.random.default_rng(1))))
    ids = tokenizer(batch.captions, padding="longest")["input_ids"]
    assert batch.tokens.shape[2] == len(ids[0])
    for row, caption in enumerate(batch.captions):
        phrases = set(caption.removesuffix(" .").split(" . "))
        assert phrases <= set(PHRASES)
        assert len(phrases) == len(caption.removesuffix(" .").split(" . "))
        words = tokenizer.convert_ids_to_tokens(ids[row])
        for tokens in batch.tokens[row][batch.tokens[row].any(1)]:
            named = {word for word, mine in zip(words, tokens.tolist(), strict=True) if mine}
            assert "." not in named
            # Of one object: there is a kind that all phrases of these words mean.
            meant = [kinds for phrase, kinds in PHRASES.items() if phrase in phrases and set(phrase.split()) <= named]
            assert frozenset.intersection(*meant)


def test_rare_kinds_are_drawn_more_often() -> None:
    # Of ten images all show kind 0, five kind 1, two kind 2, one kind 3 (and 2); the last shows nothing else.
    shown = [[0, 2, 3], [0, 2], [0, 1, 1], *[[0, 1]] * 4, *[[0]] * 3]
    kinds = [np.array(numbers) for numbers in shown]
    boxes = [np.zeros((len(numbers), 4), np.float32) for numbers in shown]
    weights = sampling_weights(Scenes(torch.zeros(10, 3, 8, 8), boxes, kinds, kinds, torch.zeros(10, 8, 8)))
    assert weights.sum() == pytest.approx(1)
    # By the root of 0.3 over the share of the rarest kind; kinds that are not rare, and their number, do not count.
    repeats = np.array([np.sqrt(0.3 / 0.1), np.sqrt(0.3 / 0.2), *[1.0] * 8])
    np.testing.assert_allclose(weights, repeats / repeats.sum())


def test_a_few_steps_lower_the_loss(scenes: Scenes) -> None:
    model = build_grounding_dino(GroundingSettings(text_encoder=str(TEXT_ENCODER)), random_weights=True)
    training = GroundingPretraining(model).train()
    batch = next(iter(grounding_batches(scenes, model.tokenizer, 2, np.random.default_rng(0))))
    optimizer = torch.optim.AdamW(training.parameters(), lr=5e-4)
    totals = []
    for _ in range(12):
        parts = training.losses(batch)
        assert set(parts) == {"proposal_class", "proposal_box", "query_class", "query_box", "land"}
        total = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]
    for name, parameter in model.named_parameters():
        # BERT's pooler is not used by Grounding DINO.
        if "pooler" not in name:
            assert parameter.grad is not None, name


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = PretrainGroundingSettings(world=WORLD, epochs=2, batch_size=4)
    run = partial(grounding_dino.run, settings, engine=ENGINE)
    whole = run(tmp_path / "whole.safetensors")
    history = json.loads((tmp_path / "whole.json").read_text())["validation"]
    assert [record["epoch"] for record in history] == [1, 2]
    build_grounding_dino(GroundingSettings(weights=str(whole), text_encoder=str(tmp_path / "whole")))

    check_resumed(run, whole, tmp_path / ".work" / "pretrain-grounding-dino", pretraining, monkeypatch)


@pytest.mark.skipif(not SHIPPED.is_file(), reason="the weights of `sagecc pretrain grounding-dino` are not there")
def test_the_model_that_ships_is_small_and_loads() -> None:
    path = SHIPPED
    assert path.stat().st_size <= 8_000_000
    settings = GroundingSettings(weights=str(path), text_encoder=str(TEXT_ENCODER))
    assert build_grounding_dino(settings).num_queries == 80
