from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from benchmarks.decoding import Recomputing
from pipeline.captioners.generation import generate, stable_topk
from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.vocabulary import END, PAD, START, UNK
from tests.captioners.mock import Pairs, TableCaptioner, all_sentences, check_same, log_softmax, random_table
from tests.captioners.plain_search import plain_generate
from tests.captioners.small import make_model


def test_values_and_indices_of_a_stable_sort():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-4, 4, (50, 40), generator=generator) / 3  # many ties
    values[:, ::7] = -torch.inf
    expected = values.sort(dim=1, descending=True, stable=True)
    largest, indices = stable_topk(values, 25)
    assert torch.equal(largest, expected.values[:, :25])
    assert torch.equal(indices, expected.indices[:, :25])


def test_extremes_and_signed_zeros():
    values = torch.tensor([[-0.0, 0.0, torch.inf, -1e-38, 1e-38, -torch.inf, -3e38, 3e38]])
    _, indices = stable_topk(values, 8)
    assert indices.tolist() == [[2, 7, 4, 0, 1, 3, 6, 5]]


SIZE = 8
WORDS = [4, 5, 6, 7]


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.6])
def test_wide_enough_beams_find_the_true_optima(penalty):
    table = random_table(SIZE)
    settings = GenerationSettings(beams=len(WORDS) ** 4, max_length=6, n_best=12, length_penalty=penalty)
    hypotheses = generate(TableCaptioner(table), Pairs([3, 1, 4]), settings)
    for pair, best in zip([3, 1, 4], hypotheses, strict=True):
        check_same(best, all_sentences(table, pair, WORDS, 5, penalty)[:12])


CHOICES = [
    {"beams": beams, "length_penalty": penalty, "n_best": n_best, "min_length": shortest}
    for beams, penalty, n_best, shortest in itertools.product((1, 2, 3, 5), (0.0, 0.6, 1.3), (1, 3), (0, 4))
    if n_best <= beams
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_engine_equals_the_plain_search(choice):
    settings = GenerationSettings(max_length=9, allow_unknown=True, **choice)
    model = TableCaptioner(random_table(SIZE, end=0.5))
    pairs = Pairs(list(range(12)))
    for row, best in enumerate(generate(model, pairs, settings)):
        check_same(best, plain_generate(model, pairs, row, settings))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_early_stop_changes_nothing_but_the_work(choice):
    eager = TableCaptioner(random_table(SIZE, end=2.0))
    patient = TableCaptioner(eager.table)
    pairs = Pairs(list(range(20)))
    early = generate(eager, pairs, GenerationSettings(max_length=20, early_stop=True, **choice))
    late = generate(patient, pairs, GenerationSettings(max_length=20, early_stop=False, **choice))
    assert early == late
    assert sum(eager.batches) <= sum(patient.batches)


def test_early_stop_saves_steps_and_lets_pairs_go():
    model = TableCaptioner(random_table(SIZE, end=2.0))
    generate(model, Pairs(list(range(20))), GenerationSettings(beams=3, max_length=41))
    assert model.steps < 40
    assert model.batches[0] == 20
    assert model.batches[-1] < 20
    assert model.batches == sorted(model.batches, reverse=True)


@pytest.mark.parametrize("beams", [1, 3])
def test_all_at_once_equals_one_by_one(beams):
    model = TableCaptioner(random_table(SIZE, end=1.0))
    settings = GenerationSettings(beams=beams, max_length=12, n_best=beams, length_penalty=0.8)
    together = generate(model, Pairs(list(range(15))), settings)
    assert together == [generate(model, Pairs([pair]), settings)[0] for pair in range(15)]


def test_one_beam_is_greedy_whatever_the_penalty():
    table = random_table(SIZE)
    for penalty in (0.0, 2.0):
        settings = GenerationSettings(beams=1, max_length=10, length_penalty=penalty)
        for pair, (best,) in enumerate(generate(TableCaptioner(table), Pairs(list(range(10))), settings)):
            words: tuple[int, ...] = ()
            while END not in words:
                log_probabilities = log_softmax(table(pair, words))
                choices = [END] if len(words) == 8 else [END, *WORDS]
                words = (*words, max(choices, key=lambda word: log_probabilities[word]))
            assert best.tokens == words


def test_the_penalty_prefers_longer_sentences():
    def table(pair, words):
        # "4 END" has probability 0.55 · 0.9, "5 5 5 END" 0.45 · 0.9³.
        probabilities = np.full(SIZE, 1e-6)
        probabilities[6] = 0.1 if words else 1e-6
        if not words:
            probabilities[[4, 5]] = 0.55, 0.45
        elif words[0] == 4:
            probabilities[END] = 0.9
        else:
            probabilities[END if len(words) == 3 else 5] = 0.9
        return np.log(probabilities / probabilities.sum()).tolist()

    def best(penalty):
        settings = GenerationSettings(beams=2, max_length=8, length_penalty=penalty)
        return generate(TableCaptioner(table), Pairs([0]), settings)[0][0]

    assert best(0.0).tokens == (4, END)
    assert best(1.0).tokens == (5, 5, 5, END)
    assert best(0.0).score == pytest.approx(math.log(0.55 * 0.9), abs=1e-4)
    assert best(1.0).score == pytest.approx(math.log(0.45 * 0.9**3) / 4, abs=1e-4)


def test_a_sentence_that_is_best_at_last_is_not_cut_off_by_shorter_finished_ones():
    def table(pair, words):
        probabilities = np.full(SIZE, 1e-6)
        if not words:
            probabilities[[END, 4]] = 0.4, 0.6
        else:
            probabilities[END if len(words) == 6 else 4] = 0.99
        return np.log(probabilities / probabilities.sum()).tolist()

    settings = GenerationSettings(beams=2, max_length=12)
    assert generate(TableCaptioner(table), Pairs([0]), settings)[0][0].tokens == (4,) * 6 + (END,)


def test_ties_go_to_the_earlier_word_and_sentence():
    model = TableCaptioner(lambda pair, words: [0.0] * SIZE)
    settings = GenerationSettings(beams=3, max_length=4, n_best=3, length_penalty=0.0)
    (best,) = generate(model, Pairs([0]), settings)
    assert [hypothesis.tokens for hypothesis in best] == [(END,), (4, END), (4, 4, END)]
    longer = GenerationSettings(beams=3, max_length=4, n_best=3, min_length=2)
    (best,) = generate(model, Pairs([0]), longer)
    assert [hypothesis.tokens for hypothesis in best] == [(4, 4, END), (4, 5, END), (4, 6, END)]


def test_specials_are_not_words_even_if_the_model_loves_them():
    def table(pair, words):
        return [9.0, 8.0, 7.0, 0.0, 1.0, 0.5, 0.2, 0.1]

    def words(**choice):
        settings = GenerationSettings(beams=4, max_length=6, n_best=4, **choice)
        return {word for best in generate(TableCaptioner(table), Pairs([0]), settings)[0] for word in best.tokens}

    assert words().isdisjoint({PAD, UNK, START})
    assert UNK in words(allow_unknown=True)
    assert words(allow_unknown=True).isdisjoint({PAD, START})


@pytest.mark.parametrize("beams", [1, 3])
def test_lengths_are_kept(beams):
    never = TableCaptioner(random_table(SIZE, end=-50.0))
    settings = GenerationSettings(beams=beams, max_length=7)
    for best in generate(never, Pairs([0, 1]), settings):
        assert len(best[0].tokens) == 6
        assert best[0].tokens[-1] == END
    always = TableCaptioner(random_table(SIZE, end=50.0))
    settings = GenerationSettings(beams=beams, max_length=9, min_length=3)
    for best in generate(always, Pairs([0, 1]), settings):
        assert len(best[0].tokens) == 4


def test_best_come_first_and_once():
    model = TableCaptioner(random_table(SIZE, end=1.0))
    settings = GenerationSettings(beams=5, max_length=12, n_best=5, length_penalty=0.5)
    for best in generate(model, Pairs(list(range(10))), settings):
        assert len({hypothesis.tokens for hypothesis in best}) == 5
        scores = [hypothesis.score for hypothesis in best]
        assert scores == sorted(scores, reverse=True)


def test_impossible_sentences_are_not_returned():
    def table(pair, words):
        return (
            [-math.inf] * 3 + [0.0, 0.0] + [-math.inf] * 3 if not words else [-math.inf] * 3 + [0.0] + [-math.inf] * 4
        )

    settings = GenerationSettings(beams=4, max_length=6, n_best=4)
    (best,) = generate(TableCaptioner(table), Pairs([0]), settings)
    assert [hypothesis.tokens for hypothesis in best] == [(END,), (4, END)]


def test_no_pairs_no_captions():
    assert generate(TableCaptioner(random_table(SIZE)), Pairs([]), GenerationSettings()) == []


MODELS = [{}, {"norm": "post", "bias_scope": "layer"}, {"norm": "none", "spatial_bias": False, "tied": True}]


@pytest.mark.parametrize("decoder", MODELS, ids=str)
@pytest.mark.parametrize(("beams", "shortest"), [(1, 0), (3, 0), (4, 10)])
def test_cached_search_equals_recomputing_searches(decoder, beams, shortest):
    model = make_model(decoder=decoder, vocabulary=30)
    with torch.no_grad():
        model.decoder.logits.bias[END] += 1.0
        scenes = torch.randn(9, 2, 6, 2, 3, generator=torch.Generator().manual_seed(2))
        memory = model.encode({"scenes": scenes})
    settings = GenerationSettings(
        beams=beams, max_length=14, min_length=shortest, n_best=min(beams, 2), length_penalty=0.7
    )
    cached = generate(model, memory, settings)
    recomputed = generate(Recomputing(model), memory, settings)
    for row in range(9):
        check_same(cached[row], recomputed[row])
        check_same(cached[row], plain_generate(model, memory, row, settings))


def test_scores_are_the_models_own_log_probabilities(model, memory):
    settings = GenerationSettings(beams=3, max_length=12, n_best=3, length_penalty=0.9)
    for row, best in enumerate(generate(model, memory, settings)):
        for hypothesis in best:
            given = torch.tensor([[START, *hypothesis.tokens[:-1]]])
            logits = model.decode(memory, given, torch.tensor([row]))[0]
            steps = torch.log_softmax(logits, dim=-1)[range(len(hypothesis.tokens)), list(hypothesis.tokens)]
            assert hypothesis.log_probability == pytest.approx(steps.sum().item(), abs=1e-4)
            expected = hypothesis.log_probability / len(hypothesis.tokens) ** 0.9
            assert hypothesis.score == pytest.approx(expected, abs=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_captions(model, memory):
    settings = GenerationSettings(beams=3, max_length=12, n_best=3)
    expected = generate(model, memory, settings)
    moved = model.cuda()
    with torch.no_grad():
        scenes = torch.randn((3, 2, 6, 2, 3), generator=torch.Generator().manual_seed(1)).cuda()
        moved_memory = moved.encode({"scenes": scenes})
    for hypotheses, best in zip(generate(moved, moved_memory, settings), expected, strict=True):
        check_same(hypotheses, best, tolerance=1e-3)
