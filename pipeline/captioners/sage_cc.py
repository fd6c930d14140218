"""The SAGE-CC captioner: scenes of two dates and what is known beside them in, sentences on their difference out.

The training loss of a captioner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.captioners.decoder import Decoder, DecoderState
from pipeline.captioners.fusion import LearnedDescriptors, PaperFusion, ReleaseFusion
from pipeline.captioners.inputs import Evidence, EvidenceWidths, Memory, check_widths, checked_evidence
from pipeline.captioners.scene_encoder import LearnedScene, SceneEncoder
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.vocabulary import PAD


def caption_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of equation (23), averaged over the words of the batch.

    Label smoothing is the paper's: the true word gets 1 − ε, each of the V − 1 others ε / (V − 1). PyTorch gives
    every word, the true one included, ε' / V of its own ε'; both agree for ε' = ε V / (V − 1).

    Args:
        logits: (N, T, V), as `decode` returns them for tokens 0…T−1 of each caption.
        targets: Tokens 1…T of the captions, (N, T); padding does not count. The start token is no target, since
            nothing predicts it.
        smoothing: ε in [0, (V − 1) / V).

    Returns:
        Scalar in float32.
    """
    size = logits.shape[-1]
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=PAD,
        label_smoothing=smoothing * size / (size - 1),
    )


class SageCC(nn.Module):
    """Scene encoder, fusion and decoder of SAGE-CC; `pipeline.captioners.generation.generate` searches with it.

    Weights are drawn from torch's global generator (Xavier-uniform linear layers, He-normal convolutions, normal
    word vectors): construct it inside `torch.random.fork_rng` after `torch.manual_seed`. Those of scene encoder and
    decoder are the same with every fusion and without.

    Args:
        settings: Scene encoder, decoder, and how regions and graph join them.
        vocabulary_size: Number of words V, specials counted.
        scene_shape: (C, h, w) of one date's backbone features; not looked at with `scene.features: none`.
        widths: Widths of what is taken beside the scenes; needed with a fusion only.

    Raises:
        CheckpointError: A head is to be trained on the regions' grids, and `widths` is not that of grids.
        SettingsError: The settings do not go with the shape of the scenes, or ask for regions or a graph of which
            `widths` knows nothing.
    """

    def __init__(
        self,
        settings: CaptionerSettings,
        vocabulary_size: int,
        scene_shape: tuple[int, int, int],
        widths: EvidenceWidths | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.widths = widths or EvidenceWidths()
        self.scene: SceneEncoder | LearnedScene
        if settings.scene.features == "none":
            self.scene = LearnedScene(settings.scene, settings.channels)
        else:
            self.scene = SceneEncoder(settings.scene, scene_shape, settings.channels)
        self.decoder = Decoder(settings.decoder, vocabulary_size, settings.channels)
        self.descriptors: LearnedDescriptors | None = None
        joined, wanted = self.widths, settings.evidence.descriptor_width
        if settings.fusion != "none" and settings.evidence.motion and wanted and joined.motion is not None:
            self.descriptors = LearnedDescriptors(joined.motion, wanted)
            joined = replace(joined, motion=wanted)
        self.fusion = _fusion(settings, joined)

    def encode(self, scenes: Tensor, evidence: Evidence | None = None) -> Memory:
        """Encode pairs once for all their captions, equations (1) to (6) and (15) to (17).

        Args:
            scenes: Backbone features of both dates, (B, 2, C, h, w), any floating type; (B, 2, 0, 0, 0) without.
            evidence: What is known of the B pairs beside them, on the same device; what the settings do not take is
                not looked at.

        Returns:
            Memory of B pairs.

        Raises:
            CheckpointError: Scenes or evidence are of another shape than the model was built for.
            DataError: Evidence that the settings ask for is missing or of other pairs, or holds what is no number.
        """
        memory: Memory = self.scene(scenes)
        if self.fusion is None:
            return memory
        checked = checked_evidence(self.settings, self.widths, evidence, len(memory))
        if self.training and self.settings.evidence.drop:
            checked = checked.thinned(self.settings.evidence.drop)
        if self.descriptors is not None and checked.motion is not None:
            checked = replace(checked, motion=self.descriptors(checked.motion))
        fused: Memory = self.fusion(memory, checked)
        return fused

    def load_graph_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a pretrained graph encoder, those in the graph stage's encoder.safetensors.

        Raises:
            CheckpointError: They are of another encoder than the settings say.
            ValueError: The captioner has no graph encoder.
        """
        if self.fusion is None or self.fusion.graph is None:
            raise ValueError("this captioner has no graph encoder")
        self.fusion.graph.load_encoder(weights)

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
        """Return the cross-attention weights of given captions, (N, T, layers, heads, S); see `decode`.

        S is h·w; with fusion: release it is what `Memory.sections` tells.
        """
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


def _fusion(settings: CaptionerSettings, widths: EvidenceWidths) -> PaperFusion | ReleaseFusion | None:
    if settings.fusion == "none":
        return None
    check_widths(settings, widths)
    if settings.fusion == "paper":
        return PaperFusion(settings.evidence, settings.paper, widths, settings.decoder.width)
    return ReleaseFusion(settings.evidence, settings.release, widths, settings.channels)
