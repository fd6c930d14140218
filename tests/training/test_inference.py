from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cache.reader import Cache
from pipeline.captioners.fusion import keep_best
from pipeline.captioners.generation import Hypothesis, generate
from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.records import read_prepared
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import END, START, Vocabulary, build_vocabulary
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import read_json
from pipeline.training.checkpoints import ModelCard, Trained
from pipeline.training.inference import SCHEMA, agreeing, describe, no_change_mass, no_change_tokens
from pipeline.training.model import PairCaptioner, build_model
from pipeline.training.region_inputs import open_evidence, read_evidence
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from stages import caption, train
from stages.settings import CaptionSettings
from tests.training import evidence_world, world


@torch.no_grad()
def test_the_mass_is_the_sum_of_the_sentences_probabilities() -> None:
    model = build_model(world.TINY, 9, world.SHAPE, seed=3).eval()
    memory = model.encode(torch.randn(2, 2, *world.SHAPE))
    sentences = [[START, 5, END], [START, 6, 4, 7, END]]
    expected = []
    for row in range(2):
        total = 0.0
        for sentence in sentences:
            log = 0.0
            for place in range(1, len(sentence)):
                given = torch.tensor([sentence[:place]])
                logits = model.captioner.decode(memory, given, torch.tensor([row]))[0, -1]
                log += float(torch.log_softmax(logits, -1)[sentence[place]])
            total += math.exp(log)
        expected.append(total)
    torch.testing.assert_close(no_change_mass(model, memory, sentences), torch.tensor(expected), rtol=1e-4, atol=0)


@torch.no_grad()
def test_the_search_knows_the_same_probabilities() -> None:
    model = build_model(world.TINY, 9, world.SHAPE, seed=3).eval()
    memory = model.encode(torch.randn(1, 2, *world.SHAPE))
    best = generate(model.captioner, memory, GenerationSettings(beams=3, max_length=6))[0][0]
    tokens = torch.tensor([[START, *best.tokens, 0]])
    found = model.log_probability(memory, tokens, torch.tensor([0]))
    assert float(found[0]) == pytest.approx(best.log_probability, abs=1e-4)


@torch.no_grad()
def test_what_label_smoothing_taught_is_undone() -> None:
    model = build_model(world.TINY, 9, world.SHAPE, seed=3).eval()
    memory = model.encode(torch.randn(1, 2, *world.SHAPE))
    logits = model.captioner.decode(memory, torch.tensor([[START, 5]]), torch.tensor([0]))[0]
    q = torch.softmax(logits, -1)[[0, 1], [5, END]]
    # What training with ε = 0.05 makes of p is taken back to p.
    p = (q - 0.05 / 8) / (0.95 - 0.05 / 8)
    torch.testing.assert_close(0.95 * p + 0.05 * (1 - p) / 8, q)
    found = no_change_mass(model, memory, [[START, 5, END]], 0.05)
    torch.testing.assert_close(found[0], p.clamp(0, 1).prod(), rtol=1e-4, atol=0)


def test_sentences_of_unknown_words_cannot_be_said() -> None:
    texts = ["there is no difference", "a house is built"]
    vocabulary = build_vocabulary(texts, VocabularySettings(min_count=1), "levir-cc")
    found = no_change_tokens("levir-cc", vocabulary)
    assert [vocabulary.decode(tokens[1:]) for tokens in found] == ["there is no difference"]
    for dataset in ("folder", "dubai-cc"):
        own = build_vocabulary(texts[1:], VocabularySettings(min_count=1), dataset)
        with pytest.raises(SettingsError, match=r"no-change sentences of the data set \w+") as caught:
            no_change_tokens(dataset, own)
        assert "caption.change: sentence" in str(caught.value.fix)


def test_sentences_that_agree_come_first_in_their_order() -> None:
    texts = ["there is no difference", "a house is built", "no change has occurred", "a road appears"]
    assert agreeing(texts, [0, 1, 2, 3], True) == [1, 3, 0, 2]
    assert agreeing(texts, [0, 1, 2, 3], False) == [0, 2, 1, 3]
    assert agreeing(texts[:1], [0], True) == [0]


def test_the_threshold_decides_which_sentences_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = ["there is no difference", "a house is built"]
    vocabulary = build_vocabulary(texts, VocabularySettings(min_count=1), "levir-cc")
    model = build_model(world.TINY, vocabulary.size, world.SHAPE, seed=3).eval()
    unused = {"seed": 3, "key": "", "pairs_sha256": "", "vocabulary_sha256": "", "weights_sha256": ""}
    card = ModelCard(dataset="levir-cc", train={"label_smoothing": 0.0}, **unused)
    said = [Hypothesis(tuple(vocabulary.encode(text)[1:]), -1.0, -1.0) for text in texts]
    monkeypatch.setattr(PairCaptioner, "generate", lambda self, memory, settings: [said] * len(memory))
    inputs = torch.randn(1, 2, *world.SHAPE)
    [mass] = no_change_mass(model, model.encode(inputs), no_change_tokens("levir-cc", vocabulary)).tolist()

    def first(threshold: float | None) -> str:
        trained = Trained(model, vocabulary, card, tmp_path)
        [[sentences]] = describe(trained, [(inputs, None)], GenerationSettings(), mass=threshold)
        return sentences[0].text

    assert first(None) == texts[0]
    assert first(mass * 1.01) == texts[1]
    assert first(mass * 0.99) == texts[0]


LAYERS, GRID = 1, world.SHAPE[1:]
CAPTIONED = CaptionSettings(max_length=8, split="train", batch_size=3)


@pytest.fixture
def where(project: Path, prepared: Path):
    return evidence_world.write_all(project, prepared)


@pytest.fixture
def explained(prepared: Path, scenes: Path, engine: EngineSettings, where):
    """Train with a fusion for an epoch, caption and explain; return the folder of captions."""

    def run(fusion: str, *, explain: bool = True, **evidence: Any) -> Path:
        settings = world.train_settings(epochs=1, captioner=evidence_world.captioner(fusion, **evidence))
        models = train.run(settings, prepared, scenes, Path("models"), engine=engine, **where.by_stage())
        options = where.by_stage()
        return caption.run(
            CAPTIONED, prepared, scenes, models, Path("captions"), engine=engine, explain=explain, **options
        )

    return run


def rows(cache: Cache, pair: int) -> dict[str, np.ndarray]:
    """What the file holds of a pair, shares as (words, regions, layers)."""
    found = {field.name: cache.rows(field.name, np.array([pair]))[0] for field in SCHEMA.fields}
    found["change"] = found["change"][0]
    for name in ("motion", "semantics"):
        count, layers = len(found[f"{name}_row"]), found["cells"].shape[1]
        found[f"{name}_share"] = found[f"{name}_share"].reshape(len(found["word"]), count, layers)
    return found


@pytest.mark.parametrize("fusion", ["none", "paper", "release"])
def test_every_look_is_accounted_for(explained, prepared, fusion):
    folder = explained(fusion)
    data = read_prepared(prepared)
    vocabulary = Vocabulary.load(prepared / "vocabulary.json")
    captions = {row["image_id"]: row["caption"] for row in read_json(folder / "seed-1.json")}
    with Cache.open(folder / "seed-1.explanation.h5", SCHEMA) as cache:
        assert cache.ids == tuple(pair.id for pair in data.split("train"))
        for number, name in enumerate(cache.ids):
            found = rows(cache, number)
            assert vocabulary.decode(found["word"].tolist()) == captions[name]
            assert found["word"][-1] == END or len(found["word"]) == CAPTIONED.max_length - 1
            assert found["cells"].shape[1:] == (LAYERS, *GRID) and found["change"].shape == GRID
            total = found["cells"].astype(float).sum((2, 3))
            if fusion == "release":
                total = total + sum(found[f"{part}_share"].astype(float).sum(1) for part in ("motion", "semantics"))
                total = total + found["nodes"].astype(float).sum(2)
            np.testing.assert_allclose(total, 1, atol=5e-3)
            for part in ("motion", "semantics"):
                if fusion == "paper" and len(found[f"{part}_row"]):
                    np.testing.assert_allclose(found[f"{part}_share"].astype(float).sum(1), 1, atol=5e-3)
            if fusion != "none":
                assert found["nodes"].shape[2] == 4


@pytest.mark.parametrize("fusion", ["paper", "release"])
@pytest.mark.parametrize("top_q", [None, 2])
def test_regions_are_those_of_the_caches(explained, prepared, where, fusion, top_q):
    folder = explained(fusion, top_q=top_q)
    with (
        Cache.open(folder / "seed-1.explanation.h5", SCHEMA) as cache,
        Cache.open(where.regions, REGIONS) as regions,
        Cache.open(where.semantics, SEMANTICS) as semantics,
    ):
        data = read_prepared(prepared)
        caches = open_evidence(evidence_world.captioner(fusion, top_q=top_q), where, data, training=False)
        assert caches is not None
        evidence = read_evidence(caches, cache.ids, places=True)
        assert evidence.motion is not None and evidence.semantics is not None
        for kind, source, field, given in (
            ("motion", regions, "descriptors", evidence.motion),
            ("semantics", semantics, "embeddings", keep_best(evidence.semantics, top_q)),
        ):
            for number, name in enumerate(cache.ids):
                found, pair = rows(cache, number), data.index[name]
                starts = source.offsets(field_offsets(source, field))[2 * pair : 2 * pair + 2]
                at = starts[found[f"{kind}_date"]] + found[f"{kind}_row"]
                features = given.features[number][given.mask[number]].numpy()
                np.testing.assert_array_equal(source.memory_map(field)[at], features)


def field_offsets(cache: Cache, field: str) -> str:
    name = cache.schema.field(field).offsets
    assert name is not None
    return name


def test_explaining_changes_no_caption_and_is_left_out_unless_asked_for(explained):
    plain = (explained("release", explain=False) / "seed-1.json").read_bytes()
    assert not list(Path("captions").glob("*.h5"))
    folder = explained("release")
    assert (folder / "seed-1.json").read_bytes() == plain
    first = (folder / "seed-1.explanation.h5").read_bytes()
    assert (explained("release") / "seed-1.explanation.h5").read_bytes() == first
