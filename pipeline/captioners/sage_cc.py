"""The SAGE-CC captioner: scenes of two dates in, sentences on their difference out."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.captioners.decoder import Decoder
from pipeline.captioners.decoder_state import DecoderState
from pipeline.captioners.memory import Memory
from pipeline.captioners.scene_encoder import SceneEncoder
from pipeline.captioners.settings import CaptionerSettings


class SageCC(nn.Module):
    """Scene encoder and decoder of SAGE-CC; `pipeline.captioners.generation.generate` searches with it.

    Weights are drawn from torch's global generator (Xavier-uniform linear layers, He-normal convolutions, normal
    word vectors): construct it inside `torch.random.fork_rng` after `torch.manual_seed`.

    Args:
        settings: Scene encoder and decoder.
        vocabulary_size: Number of words V, specials counted.
        scene_shape: (C, h, w) of one date's backbone features.
    """

    def __init__(self, settings: CaptionerSettings, vocabulary_size: int, scene_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels = settings.scene.channels or settings.decoder.width
        self.scene = SceneEncoder(settings.scene, scene_shape, channels)
        self.decoder = Decoder(settings.decoder, vocabulary_size, channels)

    def encode(self, scenes: Tensor) -> Memory:
        """Encode pairs once for all their captions, equations (1) to (6).

        Args:
            scenes: Backbone features of both dates, (B, 2, C, h, w), any floating type.

        Returns:
            Memory of B pairs.

        Raises:
            CheckpointError: The features are of another shape than the model was built for.
        """
        memory: Memory = self.scene(scenes)
        return memory

    def decode(self, memory: Memory, tokens: Tensor, rows: Tensor) -> Tensor:
        """Score every next word of given captions, equations (18) to (22).

        Args:
            memory: Encoded pairs, B of them.
            tokens: Word ids from the start token on, (N, T), padded behind the end.
            rows: Which pair of `memory` each caption describes, (N,).

        Returns:
            Logits (N, T, V); those at t predict token t + 1.
        """
        logits: Tensor = self.decoder(memory, tokens, rows)
        return logits

    def cross_attention(self, memory: Memory, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the cross-attention weights of given captions, (N, T, layers, heads, h·w); see `decode`."""
        return self.decoder.cross_attention(memory, tokens, rows)

    def start(self, memory: Memory, beams: int, length: int) -> DecoderState:
        """Begin a search; with `step`, `reorder` and `keep` this is what `generate` asks of a captioner."""
        return self.decoder.start(memory, beams, length)

    def step(self, state: DecoderState, tokens: Tensor, position: int) -> Tensor:
        """Return the logits (B, K, V) after the beams' newest tokens (B, K), which stand at `position`."""
        return self.decoder.step(state, tokens, position)

    def reorder(self, state: DecoderState, parents: Tensor) -> None:
        """Let beam k of pair b continue beam `parents[b, k]`."""
        state.reorder(parents)

    def keep(self, state: DecoderState, pairs: Tensor) -> None:
        """Go on with the pairs at indices `pairs` alone."""
        state.keep(pairs)
