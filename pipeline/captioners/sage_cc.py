"""The SAGE-CC captioner: scenes, regions and caption graph of two dates in, sentences about the change out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from pipeline.captioners.base import Captioner
from pipeline.captioners.decoder import Decoder, DecoderState
from pipeline.captioners.fusion import ConditionVectorFusion, CrossAttentionFusion, LearnedDescriptors, keep_best
from pipeline.captioners.inputs import Memory, Regions, Shapes, check_shapes, validate_inputs
from pipeline.captioners.scene_encoder import LearnedScene, SceneEncoder
from pipeline.captioners.settings import SageCCSettings
from pipeline.errors import DataError


class SageCC(Captioner[SageCCSettings, Memory, DecoderState]):
    """Scene encoder, fusion and decoder of SAGE-CC; `pipeline.captioners.generation.generate` searches with it.

    Weights are drawn from torch's global generator (Xavier-uniform linear layers, He-normal convolutions, normal
    word vectors): construct it inside `torch.random.fork_rng` after `torch.manual_seed`. Those of scene encoder and
    decoder are the same with every fusion and without.

    Args:
        settings: Scene encoder, decoder, and how regions and graph join them.
        vocabulary_size: Number of words V, specials counted.
        shapes: `scenes`: (C, h, w) of one date's backbone features; with a fusion `regions`: (d,), `semantics`: (e,),
            `graph`: (g, R), as far as the settings read them.

    Raises:
        CheckpointError: A head is to be trained on the regions' grids, and `shapes` is not that of grids.
        SettingsError: The settings do not fit the shape of the scenes, or read an input that `shapes` does not hold.
    """

    def __init__(self, settings: SageCCSettings, vocabulary_size: int, shapes: Shapes) -> None:
        super().__init__(settings, vocabulary_size, shapes)
        check_shapes(settings, shapes)
        self.scene: SceneEncoder | LearnedScene
        if settings.scene.features == "none":
            self.scene = LearnedScene(settings.scene, settings.channels)
        else:
            channels, height, width = shapes["scenes"]
            self.scene = SceneEncoder(settings.scene, (channels, height, width), settings.channels)
        self.decoder = Decoder(settings.decoder, vocabulary_size, settings.channels)
        self.descriptors: LearnedDescriptors | None = None
        descriptor_width = settings.inputs.descriptor_width
        if "regions" in settings.input_names() and descriptor_width:
            self.descriptors = LearnedDescriptors(shapes["regions"][0], descriptor_width)
            shapes = {**shapes, "regions": (descriptor_width,)}
        self.fusion = _fusion(settings, shapes)

    def encode(self, inputs: Mapping[str, Any]) -> Memory:
        """Encode pairs once for all their captions, equations (1) to (6) and (15) to (17).

        Args:
            inputs: On one device: `scenes`, backbone features of both dates (B, 2, C, h, w) of any floating type; with
                a fusion `regions` and `semantics` (`Regions` of B pairs) and `graph` (`GraphTensors`). Inputs that the
                settings do not read are ignored.

        Returns:
            Memory of B pairs.

        Raises:
            CheckpointError: An input is of another shape than the model was built for.
            DataError: An input that the settings read is missing, of other pairs, or not finite.
        """
        memory: Memory
        if isinstance(self.scene, LearnedScene):
            memory = self.scene(next(len(inputs[name]) for name in ("regions", "semantics") if name in inputs))
        elif "scenes" in inputs:
            memory = self.scene(inputs["scenes"])
        else:
            raise DataError("the captioner reads scenes, and none are given", where="inputs.scenes")
        if self.fusion is None:
            return memory
        side_inputs = validate_inputs(self.settings, self.shapes, inputs, len(memory))
        if self.training and self.settings.inputs.drop:
            side_inputs = side_inputs.drop_regions(self.settings.inputs.drop)
        if self.descriptors is not None and side_inputs.regions is not None:
            side_inputs = replace(side_inputs, regions=self.descriptors(side_inputs.regions))
        fused: Memory = self.fusion(memory, side_inputs)
        return fused

    def load_pretrained(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a pretrained graph encoder, those in the graph stage's encoder.safetensors.

        Raises:
            CheckpointError: They are of another encoder than the settings say.
            ValueError: The captioner has no graph encoder, or `name` is not `graph`.
        """
        if name != "graph" or self.fusion is None or self.fusion.graph is None:
            raise ValueError(f"this captioner takes no pretrained weights of {name}")
        self.fusion.graph.load_encoder(weights)

    def attended_regions(self, inputs: Mapping[str, Any]) -> dict[str, Regions]:
        """Return the regions that the fusion reads: all unmatched ones, and the best semantic ones."""
        names, regions = self.settings.input_names(), {}
        if "regions" in names:
            regions["motion"] = inputs["regions"]
        if "semantics" in names:
            regions["semantics"] = keep_best(inputs["semantics"], self.settings.inputs.top_q)
        return regions

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


def _fusion(settings: SageCCSettings, shapes: Shapes) -> ConditionVectorFusion | CrossAttentionFusion | None:
    if settings.fusion == "none":
        return None
    if settings.fusion == "paper":
        return ConditionVectorFusion(settings.inputs, settings.paper, shapes, settings.decoder.width)
    return CrossAttentionFusion(settings.inputs, settings.release, shapes, settings.channels)
