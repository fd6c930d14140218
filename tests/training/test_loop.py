from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.training.batches import BatchLoader, caption_table, plan_in_order
from pipeline.training.checkpoints import Progress
from pipeline.training.distributed import DivergedError, Interrupted, SingleProcess
from pipeline.training.loop import Loop, Validator, WeightAverage, improves
from pipeline.training.model import PairCaptioner, build_model
from pipeline.training.stores import PairArray, store_array
from tests.worlds import world


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_the_average_against_a_plain_loop() -> None:
    average, expected = WeightAverage(0.5), None
    for step in range(12):
        now = model(step)
        now[1].num_batches_tracked.fill_(step)
        average.update(now, step)
        weight = now[0].weight.detach().clone()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.values["0.weight"], expected)
    assert int(average.values["1.num_batches_tracked"]) == 11


def test_a_model_has_its_own_weights_again() -> None:
    average, trained = WeightAverage(0.9), model(1)
    average.update(model(0), 0)
    own = trained[0].weight.detach().clone()
    with pytest.raises(KeyError), average.applied_to(trained):
        assert torch.equal(trained[0].weight, average.values["0.weight"])
        raise KeyError
    assert torch.equal(trained[0].weight, own)


def test_no_decay_is_no_average() -> None:
    average, trained = WeightAverage(0.0), model(1)
    average.update(trained, 0)
    own = trained[0].weight.detach().clone()
    with average.applied_to(trained):
        assert torch.equal(trained[0].weight, own)
    assert not average.values


CPU = torch.device("cpu")
VOCABULARY = build_vocabulary(
    [text for texts in world.CAPTIONS for text in texts], VocabularySettings(min_count=1, max_length=12), "folder"
)


def loader_of(pairs: slice = slice(0, 4), captions: tuple[tuple[str, ...], ...] = world.CAPTIONS) -> BatchLoader:
    array = np.random.default_rng(0).normal(size=(len(world.CAPTIONS), 2, *world.SHAPE)).astype(np.float16)
    rows = np.arange(len(array))[pairs]
    scenes = PairArray(array, rows, [f"p{row}" for row in rows], "scenes.h5")
    return BatchLoader({"scenes": store_array(scenes, CPU)}, caption_table(captions[pairs], VOCABULARY), CPU)


def validator_of(loader: BatchLoader, metric: str = "bleu_4", pairs: slice = slice(0, 4)) -> Validator:
    references = {f"p{index}": list(texts) for index, texts in list(enumerate(world.CAPTIONS))[pairs]}
    return Validator(loader, plan_in_order(loader.captions, 3), references, VOCABULARY, metric)


def model_of(seed: int = 1, **options: object) -> PairCaptioner:
    return build_model(world.TINY, VOCABULARY.size, {"scenes": world.SHAPE}, seed=seed, **options)


def loop_of(state: Path, *, model: PairCaptioner | None = None, **changes: object) -> Loop:
    stop = changes.pop("stop", lambda: False)
    settings = world.train_settings(**changes)
    loader = loader_of()
    return Loop(
        model or model_of(),
        settings,
        1,
        loader,
        validator_of(loader, settings.select),
        state,
        SingleProcess(CPU),
        stop,
        save_every=0,
    )


def weights(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_same_seed_same_weights_and_no_trace_in_torch(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (loop_of(tmp_path / f"{name}.safetensors") for name in "ab")
    histories = [loop.run().history for loop in (first, second)]
    assert histories[0] == histories[1] and [record["epoch"] for record in histories[0]] == [1, 2, 3]
    assert weights(first.model) == weights(second.model)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    other = loop_of(tmp_path / "c.safetensors")
    other.seed = 2
    other.run()
    assert weights(other.model) != weights(first.model)


@pytest.mark.parametrize(
    ("changes", "stops_after"),
    [
        # `stop` is called after each of two steps and before each of two validation batches, in two epochs.
        *((changes, after) for after in range(8) for changes in ({}, {"captions_per_pair": "one"}, {"average": 0.9})),
        # Eight captions of four pairs are three steps.
        *(({"captions_per_pair": "each"}, after) for after in (0, 1, 2, 3, 6, 8)),
    ],
    ids=str,
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, stops_after, changes):
    whole = loop_of(tmp_path / "whole.safetensors", epochs=2, **changes)
    progress = whole.run()
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == stops_after + 1

    state = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted) as caught:
        loop_of(state, epochs=2, **changes, stop=stop).run()
    assert caught.value.exit_code == 130 and "again" in caught.value.fix and state.is_file()
    resumed = loop_of(state, epochs=2, **changes, model=model_of(seed=9))
    assert resumed.run() == progress
    assert weights(resumed.model) == weights(whole.model)


def test_the_average_is_validated_and_kept_in_the_weights_place(tmp_path):
    averaged = loop_of(tmp_path / "a.safetensors", epochs=2, average=0.9)
    best_epoch = averaged.run().best_epoch
    assert best_epoch is not None
    plain, average, done = loop_of(tmp_path / "b.safetensors", epochs=2), WeightAverage(0.9), [0]

    def tick(steps: int) -> None:
        # Called once at the start, with no step done.
        if steps and done[0] < best_epoch * plain.steps_per_epoch:
            average.update(plain.model, done[0])
            done[0] += 1

    plain.tick = tick
    plain.run()
    for name, tensor in averaged.model.state_dict().items():
        assert torch.equal(tensor, average.values[name]), name


def test_the_learning_rate_follows_the_formula(tmp_path):
    history = loop_of(tmp_path / "s", epochs=5, decay_every=2, decay_factor=0.1, learning_rate=1e-2).run().history
    assert [record["learning_rate"] for record in history] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])


def test_the_rate_reaches_the_optimizer(tmp_path):
    rates: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(note)
    history = loop_of(tmp_path / "s", epochs=3, decay_every=1).run().history
    handle.remove()
    assert rates == [record["learning_rate"] for record in history for _ in range(2)]
    assert len(set(rates)) == 3


def test_the_best_weights_are_kept(tmp_path):
    loop = loop_of(tmp_path / "s", epochs=8, learning_rate=0.05, decay_every=100, select="val_loss")
    seen: list[dict[str, bytes]] = []
    loop.observe = lambda record, speed: seen.append(weights(loop.model))
    progress = loop.run()
    losses = [record["val_loss"] for record in progress.history]
    assert progress.best_epoch == 1 + losses.index(min(losses))
    assert progress.best == {"val_loss": min(losses)}
    assert weights(loop.model) == seen[progress.best_epoch - 1]
    assert "bleu_4" not in progress.history[0]


def test_validation_comes_when_it_is_due_and_patience_ends(tmp_path):
    history = loop_of(tmp_path / "a", epochs=5, validate_every=2).run().history
    assert [record["epoch"] for record in history if "val_loss" in record] == [2, 4, 5]
    # A rate so small that nothing moves: the first validation stays the best.
    stuck = loop_of(tmp_path / "b", epochs=9, learning_rate=1e-30, patience=2, select="val_loss").run()
    assert len(stuck.history) == 3 and stuck.best_epoch == 1


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    state = tmp_path / "state.safetensors"
    loop = loop_of(state, epochs=6)

    def poison(record: dict, speed: object) -> None:
        if record["epoch"] == 2:
            with torch.no_grad():
                next(iter(loop.model.parameters())).fill_(math.nan)

    loop.observe = poison
    with pytest.raises(DivergedError, match="epoch 3") as caught:
        loop.run()
    assert "learning_rate" in caught.value.fix and str(state) in caught.value.what
    resumed = loop_of(state, epochs=6)
    assert len(resumed.run().history) == 6


def test_a_gradient_that_is_no_number_is_noticed_at_once(tmp_path):
    loop = loop_of(tmp_path / "s")
    next(iter(loop.model.parameters())).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(DivergedError, match="epoch 1"):
        loop.run()
    assert not (tmp_path / "s").exists()


def test_clipping_limits_the_step(tmp_path):
    norms: dict[float, list[float]] = {0.0: [], 1e-3: []}
    for clip, seen in norms.items():
        loop = loop_of(tmp_path / f"{clip}", epochs=1, gradient_clip=clip)
        parameters = list(loop.model.parameters())

        def note(optimizer: object, *arguments: object, parameters=parameters, seen=seen) -> None:
            seen.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])))

        handle = register_optimizer_step_pre_hook(note)
        loop.run()
        handle.remove()
    assert min(norms[0.0]) > 1e-2
    assert max(norms[1e-3]) <= 1.001e-3


def test_label_smoothing_is_for_training_only():
    batch = next(loader_of().batches(plan_in_order(loader_of().captions, 4)))
    plain, smooth = model_of(), model_of(smoothing=0.2)
    for model in (plain, smooth):
        model.eval()
    arguments = (batch.inputs, batch.tokens, batch.owners)
    assert torch.equal(plain(*arguments), smooth(*arguments))
    plain_loss, smooth_loss = (_without_dropout(model)(*arguments) for model in (plain, smooth))
    assert not torch.isclose(plain_loss, smooth_loss)


def _without_dropout(model: PairCaptioner) -> PairCaptioner:
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    return model


def test_the_order_of_a_pairs_captions_does_not_matter():
    turned = tuple(tuple(reversed(texts)) for texts in world.CAPTIONS)
    losses = []
    for captions in (world.CAPTIONS, turned):
        loader = loader_of(captions=captions)
        batch = next(loader.batches(plan_in_order(loader.captions, 4)))
        losses.append(model_of().eval()(batch.inputs, batch.tokens, batch.owners))
    assert torch.isclose(*losses, rtol=1e-6)


def test_one_encoder_pass_serves_all_captions_of_a_pair():
    loader = loader_of()
    model = model_of().eval()
    batch = next(loader.batches(plan_in_order(loader.captions, 4)))
    assert len(batch.inputs["scenes"]) == batch.pairs == 4 and len(batch.tokens) == 8
    together = model(batch.inputs, batch.tokens, batch.owners)
    words, total = 0, 0.0
    for caption, owner in zip(batch.tokens, batch.owners, strict=True):
        count = int((caption[1:] != 0).sum())
        inputs = {"scenes": batch.inputs["scenes"][owner : owner + 1]}
        alone = model(inputs, caption[None], torch.zeros(1, dtype=torch.long))
        total, words = total + alone.item() * count, words + count
    assert together.item() == pytest.approx(total / words, rel=1e-5)


def test_each_caption_is_a_sample_as_in_a_plain_loop(tmp_path):
    changes = {"captions_per_pair": "each", "epochs": 2, "learning_rate": 1e-2, "gradient_clip": 0.0}
    loop = loop_of(tmp_path / "s", **changes, model=_without_dropout(model_of()), select="val_loss")
    loop.model.train = lambda mode=True: loop.model  # dropout stays off
    assert loop.steps_per_epoch == 3
    ticks: list[int] = []
    loop.tick = ticks.append
    history = loop.run().history
    assert sum(ticks) == 6 and loop.speed.pairs == 16

    model = _without_dropout(model_of())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pairs = loop.loader.batches(plan_in_order(loop.loader.captions, 4))
    scenes = next(pairs).inputs["scenes"]
    samples = [(pair, text) for pair, texts in enumerate(world.CAPTIONS[:4]) for text in texts]
    for epoch, record in enumerate(history):
        order = np.random.default_rng([1, epoch]).permutation(len(samples))
        losses = []
        for start in range(0, len(samples), 3):
            chosen = [samples[i] for i in order[start : start + 3]]
            captions = [torch.tensor(VOCABULARY.encode(text)) for _, text in chosen]
            tokens = torch.nn.utils.rnn.pad_sequence(captions, batch_first=True)
            inputs = {"scenes": torch.stack([scenes[pair] for pair, _ in chosen])}
            loss = model(inputs, tokens, torch.arange(len(chosen)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert record["loss"] == pytest.approx(sum(losses) / 3, abs=2e-6)
        scores = loop.validator(model, lambda: False)
        assert scores is not None and scores["val_loss"] == pytest.approx(record["val_loss"], abs=1e-4)


def test_validation_loss_is_the_mean_over_words_whatever_the_batches():
    loader = loader_of()
    model = model_of()
    losses = []
    for batch in (1, 3, 4):
        validator = Validator(loader, plan_in_order(loader.captions, batch), {}, VOCABULARY, "val_loss")
        losses.append(validator(model, lambda: False))
    assert losses[0] == pytest.approx(losses[1], abs=2e-6) and losses[0] == pytest.approx(losses[2], abs=2e-6)


def test_generated_captions_score_the_same_whatever_the_batches(tmp_path):
    loop = loop_of(tmp_path / "s", epochs=8, learning_rate=2e-2)
    loop.run()
    references = {f"p{index}": list(texts) for index, texts in enumerate(world.CAPTIONS[:4])}
    scores = []
    for batch in (1, 3, 4):
        validator = Validator(loop.loader, plan_in_order(loop.loader.captions, batch), references, VOCABULARY, "bleu_4")
        scores.append(validator(loop.model, lambda: False))
    assert scores[0]["cider_d"] > 1
    for other in scores[1:]:
        assert (other["bleu_4"], other["cider_d"]) == (scores[0]["bleu_4"], scores[0]["cider_d"])


def test_bf16_runs_on_the_cpu_too(tmp_path):
    loop = loop_of(tmp_path / "s", model=model_of(bf16=True), epochs=1)
    (record,) = loop.run().history
    plain = loop_of(tmp_path / "t", epochs=1).run().history[0]
    assert record["val_loss"] == pytest.approx(plain["val_loss"], rel=0.05) and record != plain
    assert {tensor.dtype for tensor in loop.model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("metric", "scores", "better"),
    [
        ("bleu_4", {"bleu_4": 2.0, "val_loss": 9.0}, True),
        ("bleu_4", {"bleu_4": 0.5, "val_loss": 0.1}, False),
        ("bleu_4", {"bleu_4": 1.0, "val_loss": 0.9}, True),
        ("bleu_4", {"bleu_4": 1.0, "val_loss": 1.0}, False),
        ("val_loss", {"val_loss": 0.9}, True),
        ("val_loss", {"val_loss": 1.1}, False),
    ],
)
def test_selection(metric, scores, better):
    assert improves(metric, scores, {"bleu_4": 1.0, "val_loss": 1.0}) is better
    assert improves(metric, scores, None)


def test_a_tiny_model_learns_its_pairs_word_for_word(tmp_path):
    captions = tuple((texts[0],) for texts in world.CAPTIONS)
    loader = loader_of(captions=captions)
    references = {f"p{index}": list(texts) for index, texts in enumerate(captions[:4])}
    validator = Validator(loader, plan_in_order(loader.captions, 4), references, VOCABULARY, "bleu_4")
    settings = world.train_settings(
        epochs=120,
        batch_size=4,
        learning_rate=1e-2,
        decay_every=60,
        validate_every=20,
        captioner=world.TINY.model_copy(
            update={
                "scene": world.TINY.scene.model_copy(update={"dropout": 0.0}),
                "decoder": world.TINY.decoder.model_copy(update={"dropout": 0.0}),
            }
        ),
    )
    model = build_model(settings.captioner, VOCABULARY.size, {"scenes": world.SHAPE}, seed=1)
    loop = Loop(model, settings, 1, loader, validator, tmp_path / "s", SingleProcess(CPU), lambda: False)
    progress: Progress = loop.run()
    assert progress.best is not None and progress.best["bleu_4"] == pytest.approx(100, abs=1e-3)
    assert loop.speed.pairs == 4 * 120 and 0 < loop.speed.data_wait_share < 1
