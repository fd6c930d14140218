"""Cached batched beam search against the same search that decodes every prefix anew.

Both sides are the generation engine on the same random model and memory; they differ in the key and value cache alone.
All captions are made to run to their greatest length, 40 tokens, and both sides have to give the same tokens.
On a CPU one thread is used: the cached side is thousands of small operations, and where neighbours use the cores,
threads that wait for each other at the end of every one of them measure the neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks._plain_search import Recomputing
from benchmarks.harness import Figures, interleaved, rate
from pipeline.captioners.generation import Hypothesis, generate
from pipeline.captioners.settings import CaptionerSettings, DecoderSettings, GenerationSettings, SceneEncoderSettings

Search = Callable[[], list[list[Hypothesis]]]

BARS = {"vs_recompute": 8.0, "equal_captions": 1.0}

WORDS, VOCABULARY, SCENE = 40, 500, (512, 8, 8)


def run(quick: bool) -> Figures:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(*((8, 3) if quick else (32, 5)))
    finally:
        torch.set_num_threads(threads)


def _measure(pairs: int, rounds: int) -> Figures:
    from pipeline.captioners.sage_cc import SageCC

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = CaptionerSettings(
        scene=SceneEncoderSettings(width=512, blocks=1), decoder=DecoderSettings(width=512, layers=3)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(settings, VOCABULARY, SCENE).to(device).eval()
        scenes = torch.randn((pairs, 2, *SCENE)).to(device)
    with torch.inference_mode():
        memory = model.encode(scenes)
    plain = Recomputing(model)

    beam = GenerationSettings(beams=3, max_length=WORDS + 1, min_length=WORDS - 1)
    greedy = GenerationSettings(beams=1, max_length=WORDS + 1, min_length=WORDS - 1)
    searches: dict[str, Search] = {
        "beam_cached": partial(generate, model, memory, beam),
        "beam_recomputed": partial(generate, plain, memory, beam),
        "greedy_cached": partial(generate, model, memory, greedy),
        "greedy_recomputed": partial(generate, plain, memory, greedy),
    }
    found: dict[str, list[list[tuple[int, ...]]]] = {}

    def search(name: str) -> None:
        # The results are Python lists, so a GPU has been waited for.
        found[name] = [[best.tokens for best in pair] for pair in searches[name]()]

    search("greedy_cached")  # wakes the libraries; one of the cheap sides is enough
    measured = interleaved({name: rate(partial(search, name), pairs) for name in searches}, rounds, warm_up=False)
    equal = found["beam_cached"] == found["beam_recomputed"] and found["greedy_cached"] == found["greedy_recomputed"]
    lengths = [len(tokens) for pair in found["beam_cached"] for tokens in pair]
    return {
        **measured.ratio("beam_cached", "beam_recomputed").figures("vs_recompute"),
        **measured.ratio("greedy_cached", "greedy_recomputed").figures("vs_recompute_greedy"),
        **{f"{name}_pairs_per_s": measured.median(name) for name in searches},
        "equal_captions": float(equal),
        "tokens_per_caption": sum(lengths) / len(lengths),
    }
