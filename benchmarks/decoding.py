"""Cached batched beam search against the same search that decodes every prefix anew.

Both sides are the generation engine on the same random model and memory; they differ in the key and value cache alone.
All captions are made to run to their greatest length, 40 tokens, and both sides have to give the same tokens.
On a CPU one thread is used: the cached side is thousands of small operations, and where neighbours use the cores,
threads that wait for each other at the end of every one of them measure the neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from benchmarks.harness import Figures, interleaved, rate
from pipeline.captioners.generation import EncodedPairs, Hypothesis, MemoryT, generate
from pipeline.captioners.sage_cc import SageCC
from pipeline.captioners.settings import DecoderSettings, GenerationSettings, SageCCSettings, SceneEncoderSettings

Search = Callable[[], list[list[Hypothesis]]]

BARS = {"vs_recompute": 8.0, "equal_captions": 1.0}

WORDS, VOCABULARY, SCENE = 40, 500, (512, 8, 8)


class TeacherForced(Protocol[MemoryT]):
    """A captioner that scores given captions."""

    def decode(self, memory: MemoryT, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the logits (N, T, V) of captions `tokens` (N, T) on pairs `rows` (N,)."""
        ...


AnyMemory = TypeVar("AnyMemory", bound=EncodedPairs)


@dataclass
class Prefixes(Generic[AnyMemory]):
    """The state of a search without a cache: everything written so far, (B, K, t), and the pairs it belongs to."""

    memory: AnyMemory
    rows: Tensor
    tokens: Tensor


class Recomputing(Generic[AnyMemory]):
    """A captioner that takes each step by decoding the whole prefix of every beam again.

    Args:
        model: The captioner whose `decode` does it.
    """

    def __init__(self, model: TeacherForced[AnyMemory]) -> None:
        self.model = model

    def start(self, memory: AnyMemory, beams: int, length: int) -> Prefixes[AnyMemory]:
        """Begin with nothing written."""
        pairs, device = len(memory), memory.device
        empty = torch.zeros((pairs, beams, 0), dtype=torch.long, device=device)
        return Prefixes(memory, torch.arange(pairs, device=device), empty)

    def step(self, state: Prefixes[AnyMemory], tokens: Tensor, position: int) -> Tensor:
        """Append the newest tokens (B, K) and return the logits behind them, (B, K, V)."""
        state.tokens = torch.cat([state.tokens, tokens.unsqueeze(-1)], dim=-1)
        beams = tokens.shape[1]
        logits = self.model.decode(state.memory, state.tokens.flatten(0, 1), state.rows.repeat_interleave(beams))
        return logits[:, -1].view(*tokens.shape, -1)

    def reorder(self, state: Prefixes[AnyMemory], parents: Tensor) -> None:
        """Permute the prefixes of each pair."""
        state.tokens = state.tokens.gather(1, parents.unsqueeze(-1).expand_as(state.tokens))

    def keep(self, state: Prefixes[AnyMemory], pairs: Tensor) -> None:
        """Drop the prefixes of all other pairs."""
        state.tokens, state.rows = state.tokens[pairs], state.rows[pairs]


def run(quick: bool) -> Figures:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(*((8, 3) if quick else (32, 5)))
    finally:
        torch.set_num_threads(threads)


def _measure(pairs: int, rounds: int) -> Figures:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = SageCCSettings(
        scene=SceneEncoderSettings(width=512, blocks=1), decoder=DecoderSettings(width=512, layers=3)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SageCC(settings, VOCABULARY, {"scenes": SCENE}).to(device).eval()
        scenes = torch.randn((pairs, 2, *SCENE)).to(device)
    with torch.inference_mode():
        memory = model.encode({"scenes": scenes})
    plain = Recomputing(model)

    beam = GenerationSettings(beams=3, max_length=WORDS + 1, min_length=WORDS - 1)
    greedy = GenerationSettings(beams=1, max_length=WORDS + 1, min_length=WORDS - 1)
    searches: dict[str, Search] = {
        "beam_cached": partial(generate, model, memory, beam),
        "beam_recomputed": partial(generate, plain, memory, beam),
        "greedy_cached": partial(generate, model, memory, greedy),
        "greedy_recomputed": partial(generate, plain, memory, greedy),
    }
    captions: dict[str, list[list[tuple[int, ...]]]] = {}

    def search(name: str) -> None:
        # The results are Python lists, so a GPU has been waited for.
        captions[name] = [[best.tokens for best in pair] for pair in searches[name]()]

    search("greedy_cached")  # wakes the libraries; one of the cheap sides is enough
    measured = interleaved({name: rate(partial(search, name), pairs) for name in searches}, rounds, warm_up=False)
    equal = (
        captions["beam_cached"] == captions["beam_recomputed"]
        and captions["greedy_cached"] == captions["greedy_recomputed"]
    )
    lengths = [len(tokens) for pair in captions["beam_cached"] for tokens in pair]
    return {
        **measured.ratio("beam_cached", "beam_recomputed").figures("vs_recompute"),
        **measured.ratio("greedy_cached", "greedy_recomputed").figures("vs_recompute_greedy"),
        **{f"{name}_pairs_per_s": measured.median(name) for name in searches},
        "equal_captions": float(equal),
        "tokens_per_caption": sum(lengths) / len(lengths),
    }
