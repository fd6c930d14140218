from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cache.reader import Cache
from pipeline.captioners.attention_maps import AttentionMap
from pipeline.captioners.fusion import keep_best
from pipeline.captioners.generation import Hypothesis, generate
from pipeline.captioners.inputs import Regions
from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.no_change import ChangeRule, no_change_sentences
from pipeline.datasets.records import read_prepared
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import END, START, Vocabulary, build_vocabulary
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.training.checkpoints import ModelCard, Trained
from pipeline.training.inference import (
    SCHEMA,
    AttentionRecorder,
    agreeing,
    arrays,
    caption_batches,
    no_change_mass,
    no_change_tokens,
    stored_batches,
)
from pipeline.training.inputs import open_inputs
from pipeline.training.model import PairCaptioner, build_model
from pipeline.training.stores import PairArray, store_array
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from stages import caption, train
from stages.settings import CaptionSettings
from tests.worlds import cache_world, world

CPU = torch.device("cpu")
SHAPES = {"scenes": world.SHAPE}


@torch.no_grad()
def test_the_mass_is_the_sum_of_the_sentences_probabilities() -> None:
    model = build_model(world.TINY, 9, SHAPES, seed=3).eval()
    memory = model.encode({"scenes": torch.randn(2, 2, *world.SHAPE)})
    sentences = [[START, 5, END], [START, 6, 4, 7, END]]
    expected = []
    for row in range(2):
        total = 0.0
        for sentence in sentences:
            log = 0.0
            for position in range(1, len(sentence)):
                prefix = torch.tensor([sentence[:position]])
                logits = model.captioner.decode(memory, prefix, torch.tensor([row]))[0, -1]
                log += float(torch.log_softmax(logits, -1)[sentence[position]])
            total += math.exp(log)
        expected.append(total)
    torch.testing.assert_close(no_change_mass(model, memory, sentences), torch.tensor(expected), rtol=1e-4, atol=0)


@torch.no_grad()
def test_the_search_knows_the_same_probabilities() -> None:
    model = build_model(world.TINY, 9, SHAPES, seed=3).eval()
    memory = model.encode({"scenes": torch.randn(1, 2, *world.SHAPE)})
    best = generate(model.captioner, memory, GenerationSettings(beams=3, max_length=6))[0][0]
    tokens = torch.tensor([[START, *best.tokens, 0]])
    log_probability = model.log_probability(memory, tokens, torch.tensor([0]))
    assert float(log_probability[0]) == pytest.approx(best.log_probability, abs=1e-4)


@torch.no_grad()
def test_what_label_smoothing_taught_is_undone() -> None:
    model = build_model(world.TINY, 9, SHAPES, seed=3).eval()
    memory = model.encode({"scenes": torch.randn(1, 2, *world.SHAPE)})
    logits = model.captioner.decode(memory, torch.tensor([[START, 5]]), torch.tensor([0]))[0]
    q = torch.softmax(logits, -1)[[0, 1], [5, END]]
    # What training with ε = 0.05 makes of p is taken back to p.
    p = (q - 0.05 / 8) / (0.95 - 0.05 / 8)
    torch.testing.assert_close(0.95 * p + 0.05 * (1 - p) / 8, q)
    mass = no_change_mass(model, memory, [[START, 5, END]], 0.05)
    torch.testing.assert_close(mass[0], p.clamp(0, 1).prod(), rtol=1e-4, atol=0)


def test_sentences_of_unknown_words_cannot_be_said() -> None:
    texts = ["there is no difference", "a house is built"]
    vocabulary = build_vocabulary(texts, VocabularySettings(min_count=1), "levir-cc")
    sentences = no_change_tokens("levir-cc", vocabulary, no_change_sentences()["levir-cc"])
    assert [vocabulary.decode(tokens[1:]) for tokens in sentences] == ["there is no difference"]
    for dataset in ("folder", "dubai-cc"):
        own = build_vocabulary(texts[1:], VocabularySettings(min_count=1), dataset)
        with pytest.raises(SettingsError, match=r"no-change sentences of the data set \w+") as caught:
            no_change_tokens(dataset, own, no_change_sentences().get(dataset, {}))
        assert "caption.change: sentence" in str(caught.value.fix)
        assert f"prepare.no_change_sentences.{dataset}" in str(caught.value.fix)


def test_listed_sentences_of_any_language_are_those_of_no_change() -> None:
    texts = ["कोई बदलाव नहीं", "没有变化。", "एक इमारत बनाई गई है"]
    vocabulary = build_vocabulary(texts, VocabularySettings(min_count=1), "folder")
    listed = {"hi": ["कोई बदलाव नहीं।", "कोई बदलाव नहीं"], "zh": ["没有变化"]}
    sentences = no_change_tokens("folder", vocabulary, listed)
    assert [vocabulary.decode(tokens[1:]) for tokens in sentences] == ["कोई बदलाव नहीं", "没有变化"]
    assert agreeing(texts, [0, 1, 2], True, ChangeRule(listed)) == [2, 0, 1]


def test_sentences_that_agree_come_first_in_their_order() -> None:
    texts = ["there is no difference", "a house is built", "no change has occurred", "a road appears"]
    assert agreeing(texts, [0, 1, 2, 3], True) == [1, 3, 0, 2]
    assert agreeing(texts, [0, 1, 2, 3], False) == [0, 2, 1, 3]
    assert agreeing(texts[:1], [0], True) == [0]


def test_the_threshold_decides_which_sentences_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = ["there is no difference", "a house is built"]
    vocabulary = build_vocabulary(texts, VocabularySettings(min_count=1), "levir-cc")
    model = build_model(world.TINY, vocabulary.size, SHAPES, seed=3).eval()
    unused = {"seed": 3, "key": "", "pairs_sha256": "", "vocabulary_sha256": "", "weights_sha256": ""}
    card = ModelCard(dataset="levir-cc", inputs={}, train={"label_smoothing": 0.0}, **unused)
    said = [Hypothesis(tuple(vocabulary.encode(text)[1:]), -1.0, -1.0) for text in texts]
    monkeypatch.setattr(PairCaptioner, "generate", lambda self, memory, settings: [said] * len(memory))
    inputs = {"scenes": torch.randn(1, 2, *world.SHAPE)}
    listed = no_change_tokens("levir-cc", vocabulary, no_change_sentences()["levir-cc"])
    [mass] = no_change_mass(model, model.encode(inputs), listed).tolist()

    def first(threshold: float | None) -> str:
        trained = Trained(model, vocabulary, card, tmp_path)
        [[sentences]] = caption_batches(trained, [inputs], GenerationSettings(), change_threshold=threshold)
        return sentences[0].text

    assert first(None) == texts[0]
    assert first(mass * 1.01) == texts[1]
    assert first(mass * 0.99) == texts[0]


LAYERS, GRID = 1, world.SHAPE[1:]
CAPTIONED = CaptionSettings(max_length=8, split="train", batch_size=3)


@pytest.fixture
def explained(paths: Paths, engine: EngineSettings):
    """Train with a fusion for an epoch, caption and explain; return the folder of captions."""

    def run(fusion: str, *, explain: bool = True, **inputs: Any) -> Path:
        settings = world.train_settings(epochs=1, captioner=cache_world.captioner(fusion, **inputs))
        train.run(settings, paths, engine=engine)
        return caption.run(CAPTIONED, paths, engine=engine, explain=explain)

    return run


def rows(cache: Cache, pair: int) -> dict[str, np.ndarray]:
    """What the file holds of a pair, shares as (words, regions, layers)."""
    stored = {field.name: cache.rows(field.name, np.array([pair]))[0] for field in SCHEMA.fields}
    stored["change"] = stored["change"][0]
    for name in ("motion", "semantics"):
        count, layers = len(stored[f"{name}_row"]), stored["cells"].shape[1]
        stored[f"{name}_share"] = stored[f"{name}_share"].reshape(len(stored["word"]), count, layers)
    return stored


@pytest.mark.parametrize("fusion", ["none", "paper", "release"])
def test_all_attention_is_accounted_for(explained, prepared, fusion):
    folder = explained(fusion)
    data = read_prepared(prepared)
    vocabulary = Vocabulary.load(prepared / "vocabulary.json")
    captions = {row["image_id"]: row["caption"] for row in read_json(folder / "seed-1.json")}
    with Cache.open(folder / "seed-1.explanation.h5", SCHEMA) as cache:
        assert cache.ids == tuple(pair.id for pair in data.split("train"))
        for number, name in enumerate(cache.ids):
            stored = rows(cache, number)
            assert vocabulary.decode(stored["word"].tolist()) == captions[name]
            assert stored["word"][-1] == END or len(stored["word"]) == CAPTIONED.max_length - 1
            assert stored["cells"].shape[1:] == (LAYERS, *GRID) and stored["change"].shape == GRID
            total = stored["cells"].astype(float).sum((2, 3))
            if fusion == "release":
                total = total + sum(stored[f"{part}_share"].astype(float).sum(1) for part in ("motion", "semantics"))
                total = total + stored["nodes"].astype(float).sum(2)
            np.testing.assert_allclose(total, 1, atol=5e-3)
            for part in ("motion", "semantics"):
                if fusion == "paper" and len(stored[f"{part}_row"]):
                    np.testing.assert_allclose(stored[f"{part}_share"].astype(float).sum(1), 1, atol=5e-3)
            if fusion != "none":
                assert stored["nodes"].shape[2] == 4


@pytest.mark.parametrize("fusion", ["paper", "release"])
@pytest.mark.parametrize("top_q", [None, 2])
def test_regions_are_those_of_the_caches(explained, paths, fusion, top_q):
    folder = explained(fusion, top_q=top_q)
    with (
        Cache.open(folder / "seed-1.explanation.h5", SCHEMA) as cache,
        Cache.open(paths.regions, REGIONS) as regions,
        Cache.open(paths.semantics, SEMANTICS) as semantics,
    ):
        inputs = open_inputs(paths, cache_world.captioner(fusion, top_q=top_q), training=False)
        unmatched, named = (inputs.sources[name].read(cache.ids).padded() for name in ("regions", "semantics"))
        for kind, source, field, given in (
            ("motion", regions, "descriptors", unmatched),
            ("semantics", semantics, "embeddings", keep_best(named, top_q)),
        ):
            for number, name in enumerate(cache.ids):
                stored, pair = rows(cache, number), inputs.data.index[name]
                starts = source.offsets(field_offsets(source, field))[2 * pair : 2 * pair + 2]
                at = starts[stored[f"{kind}_date"]] + stored[f"{kind}_row"]
                features = given.features[number][given.mask[number]].numpy()
                np.testing.assert_array_equal(source.memory_map(field)[at], features)


def field_offsets(cache: Cache, field: str) -> str:
    name = cache.schema.field(field).offsets
    assert name is not None
    return name


def test_explaining_changes_no_caption_and_is_left_out_unless_asked_for(explained):
    folder = explained("release", explain=False)
    plain = (folder / "seed-1.json").read_bytes()
    assert not list(folder.glob("*.h5"))
    folder = explained("release")
    assert (folder / "seed-1.json").read_bytes() == plain
    first = (folder / "seed-1.explanation.h5").read_bytes()
    assert (explained("release") / "seed-1.explanation.h5").read_bytes() == first


def trained_on_scenes(folder: Path) -> Trained:
    vocabulary = build_vocabulary(
        [text for texts in world.CAPTIONS for text in texts], VocabularySettings(min_count=1, max_length=12), "folder"
    )
    model = build_model(world.TINY, vocabulary.size, SHAPES, seed=3).eval()
    unused = {"seed": 3, "key": "", "pairs_sha256": "", "vocabulary_sha256": "", "weights_sha256": "0" * 64}
    card = ModelCard(dataset="folder", inputs={}, train={"label_smoothing": 0.0}, **unused)
    return Trained(model, vocabulary, card, folder)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_stored_batches_are_all_pairs_in_order_whatever_their_size(batch_size: int) -> None:
    array = np.arange(7 * 2 * 3, dtype=np.float16).reshape(7, 2, 3, 1, 1)
    stores = {
        name: store_array(PairArray(array * factor, np.arange(7), [str(row) for row in range(7)], name), CPU)
        for name, factor in (("scenes", 1), ("maps", 2))
    }
    batches = list(stored_batches(stores, 7, batch_size))
    assert all(batch.keys() == {"scenes", "maps"} for batch in batches)
    for name, factor in (("scenes", 1), ("maps", 2)):
        assert torch.equal(torch.cat([batch[name] for batch in batches]), torch.from_numpy(array * factor))
    assert [len(batch["maps"]) for batch in batches][:-1] == [batch_size] * (len(batches) - 1)


def test_tensors_at_hand_are_described_like_stored_ones(tmp_path: Path) -> None:
    trained, settings = trained_on_scenes(tmp_path), GenerationSettings(max_length=8)
    array = np.random.default_rng(0).normal(size=(5, 2, *world.SHAPE)).astype(np.float16)
    store = store_array(PairArray(array, np.arange(5), [str(row) for row in range(5)], "scenes.h5"), CPU)
    whole = next(caption_batches(trained, [{"scenes": torch.from_numpy(array.astype(np.float32))}], settings))
    split = [
        pair for batch in caption_batches(trained, stored_batches({"scenes": store}, 5, 2), settings) for pair in batch
    ]
    assert [best.text for best, *_ in split] == [best.text for best, *_ in whole]
    assert all(best.text == trained.vocabulary.decode(best.hypothesis.tokens) for best, *_ in whole)


def test_an_observer_sees_each_batch_as_it_is_described(tmp_path: Path) -> None:
    trained = trained_on_scenes(tmp_path)
    batches = [{"scenes": torch.randn(count, 2, *world.SHAPE)} for count in (2, 1)]
    seen = []
    settings = GenerationSettings(beams=2, n_best=2, max_length=6)
    described = list(caption_batches(trained, batches, settings, observer=lambda *batch: seen.append(batch)))
    assert [inputs for _, inputs, _ in seen] == batches and [sentences for *_, sentences in seen] == described
    assert [len(memory) for memory, *_ in seen] == [2, 1] and all(len(pair) == 2 for pair in described[0])


def region_arrays_of(mask: list[bool], *, rows: bool = True) -> Regions:
    count = len(mask)
    return Regions(
        torch.zeros(1, count, 3),
        torch.tensor([mask]),
        dates=torch.tensor([[0, 1, 1]])[:, :count],
        rows=torch.tensor([[4, 0, 9]])[:, :count] if rows else None,
    )


def attention_of(**parts: torch.Tensor) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    return AttentionMap(torch.rand(2, 3, 2, 4, generator=generator), torch.rand(2, 4, generator=generator), parts)


def test_arrays_of_a_pair_leave_padding_out() -> None:
    shares = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1))
    attention = attention_of(motion=shares, nodes=shares + 1)
    values = arrays(attention, (7, END), {"motion": region_arrays_of([True, False, True])}, 0)
    assert values.keys() == {field.name for field in SCHEMA.fields}
    assert values["word"].tolist() == [7, END] and values["word"].dtype == np.int32
    np.testing.assert_array_equal(values["cells"], attention.cells.half().numpy())
    np.testing.assert_array_equal(values["change"], attention.change.half().numpy())
    np.testing.assert_array_equal(values["nodes"], (shares + 1).half().numpy())
    assert values["motion_date"].tolist() == [0, 1] and values["motion_row"].tolist() == [4, 9]
    # Word after word, and of each word region after region, a share for each layer.
    expected = shares[..., [0, 2]].transpose(1, 2).reshape(4, 3)
    np.testing.assert_array_equal(values["motion_share"], expected.half().numpy())
    assert values["semantics_row"].size == 0 and values["semantics_share"].shape == (0, 3)


def test_arrays_of_a_captioner_without_a_fusion_hold_cells_alone() -> None:
    values = arrays(attention_of(), (7, END), {}, 0)
    assert values["nodes"].shape == (2, 3, 0)
    assert values["motion_share"].shape == values["semantics_share"].shape == (0, 3)


def test_regions_that_do_not_tell_their_rows_are_refused() -> None:
    attention = attention_of(semantics=torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match="semantics regions do not tell where they come from"):
        arrays(attention, (7, END), {"semantics": region_arrays_of([True, True], rows=False)}, 0)


def test_a_recorder_writes_the_attention_of_the_best_sentences(tmp_path: Path, prepared: Path) -> None:
    trained, settings = trained_on_scenes(tmp_path), CaptionSettings(max_length=8)
    recorder = AttentionRecorder(trained)
    batches = [{"scenes": torch.randn(count, 2, *world.SHAPE)} for count in (2, 1)]
    described = [pair for batch in caption_batches(trained, batches, settings, observer=recorder) for pair in batch]
    data = read_prepared(prepared)
    path = recorder.write(tmp_path / "seed-3.explanation.h5", ["p0", "p3", "p5"], data, settings)
    with Cache.open(path, SCHEMA) as cache:
        assert cache.ids == ("p0", "p3", "p5")
        assert cache.provenance.weights == {"model": "0" * 64}
        assert cache.provenance.upstream == {"pairs.jsonl": data.card.pairs_sha256}
        for number, (best, *_) in enumerate(described):
            stored = rows(cache, number)
            assert stored["word"].tolist() == list(best.hypothesis.tokens)
            np.testing.assert_allclose(stored["cells"].astype(float).sum((2, 3)), 1, atol=5e-3)
