"""What is trained: the captioner, and in front of it the scene backbone where that is trained as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.captioners.base import Captioner, build_captioner, caption_loss
from pipeline.captioners.generation import Hypothesis, generate
from pipeline.captioners.inputs import Shapes
from pipeline.captioners.settings import CaptionerSettings, GenerationSettings
from pipeline.datasets.vocabulary import PAD
from pipeline.vision.scenes.backbones import build_backbone, normalise
from pipeline.vision.scenes.settings import BackboneSettings


class ImageFront(nn.Module):
    """The scene backbone, its early modules frozen: images of both dates → features of both dates.

    Args:
        settings: Backbone and normalisation, those of the scenes cache.
        weights: Its published weights; None where others are loaded afterwards.
        batch_norm: Whose statistics follow the data: frozen (none), trained (those of the layers that are trained)
            or all.
    """

    def __init__(
        self, settings: BackboneSettings, weights: Path | None, batch_norm: Literal["frozen", "trained", "all"]
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(settings.backbone, weights)
        self.backbone.freeze_early()
        self._settings = settings
        self._batch_norm = batch_norm

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 2, 3, H, W) uint8 to features (B, 2, C, h, w)."""
        features: Tensor = self.backbone(normalise(images.flatten(0, 1), self._settings))
        return features.view(len(images), 2, *features.shape[1:])

    def train(self, mode: bool = True) -> ImageFront:
        """Switch between training and evaluation; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        frozen = {inner for module in self.backbone.frozen_modules() for inner in module.modules()}
        for module in self.backbone.modules():
            trained = self._batch_norm == "all" or (self._batch_norm == "trained" and module not in frozen)
            if isinstance(module, nn.BatchNorm2d) and mode and not trained:
                module.eval()
        return self


class PairCaptioner(nn.Module):
    """A captioner with what stands in front of it; `forward` is the training loss.

    Args:
        captioner: Inputs of pairs in, captions out.
        front: Turns images into scene features; None where the inputs are features already.
        smoothing: Label smoothing ε of the loss in training mode.
        bf16: Compute under bfloat16 autocast.
    """

    def __init__(
        self,
        captioner: Captioner[Any, Any, Any],
        front: ImageFront | None = None,
        *,
        smoothing: float = 0.0,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.captioner = captioner
        self.front = front
        self._smoothing = smoothing
        self._bf16 = bf16

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(self, inputs: Mapping[str, Any]) -> Any:
        """Encode B pairs to the captioner's memory.

        Args:
            inputs: By the name of their source; where there is a front, `images` (B, 2, 3, H, W) become `scenes`.
        """
        with self._autocast():
            if self.front is not None:
                inputs = {**inputs, "scenes": self.front(inputs["images"])}
            return self.captioner.encode(inputs)

    def loss(self, memory: Any, tokens: Tensor, owners: Tensor) -> Tensor:
        """Return the mean cross-entropy per word, equation (23), under teacher forcing.

        Args:
            memory: Encoded pairs.
            tokens: (N, T) from the start to the end token, padded with 0.
            owners: (N,) which pair of `memory` each caption describes.
        """
        with self._autocast():
            logits = self.captioner.decode(memory, tokens[:, :-1], owners)
            return caption_loss(logits, tokens[:, 1:], self._smoothing if self.training else 0.0)

    def log_probability(self, memory: Any, tokens: Tensor, owners: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return the natural logarithm of the probability of whole captions, (N,) float32.

        Args:
            memory: Encoded pairs.
            tokens: (N, T) from the start to the end token, padded with 0.
            owners: (N,) which pair of `memory` each caption describes.
            smoothing: The ε of the training, which taught q = (1 − ε) p + ε (1 − p) / (V − 1) instead of p. Given ε, p
                is returned; else every word would cost a caption a factor of 1 − ε.
        """
        with self._autocast():
            logits = self.captioner.decode(memory, tokens[:, :-1], owners)
        words = tokens[:, 1:]
        chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, words.unsqueeze(-1)).squeeze(-1)
        if smoothing:
            other = smoothing / (logits.shape[-1] - 1)
            meant = (chosen.exp() - other) / (1 - smoothing - other)
            chosen = meant.clamp(torch.finfo(meant.dtype).tiny, 1.0).log()
        return chosen.masked_fill(words == PAD, 0.0).sum(1)

    def generate(self, memory: Any, settings: GenerationSettings) -> list[list[Hypothesis]]:
        """Search for captions; see `pipeline.captioners.generation.generate`."""
        with self._autocast():
            return generate(self.captioner, memory, settings)

    def forward(self, inputs: Mapping[str, Any], tokens: Tensor, owners: Tensor) -> Tensor:
        """Return the loss of a batch; see `encode` and `loss`."""
        return self.loss(self.encode(inputs), tokens, owners)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)


def build_model(
    captioner: CaptionerSettings,
    vocabulary_size: int,
    shapes: Shapes,
    *,
    seed: int,
    front: ImageFront | None = None,
    smoothing: float = 0.0,
    bf16: bool = False,
) -> PairCaptioner:
    """Build a captioner with weights drawn from `seed`; the global generator is left as it was.

    Args:
        captioner: The captioner's settings.
        vocabulary_size: Number of words.
        shapes: Shape of each input; see `pipeline.training.inputs.Inputs.shapes`.
        seed: Decides the initial weights.
        front: See `PairCaptioner`.
        smoothing: See `PairCaptioner`.
        bf16: See `PairCaptioner`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_captioner(captioner, vocabulary_size, shapes)
        return PairCaptioner(model, front, smoothing=smoothing, bf16=bf16)
