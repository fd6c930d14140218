"""What training and the stages ask of a captioner."""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.captioners.generation import EncodedPairs
from pipeline.captioners.inputs import Regions
from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.vocabulary import PAD
from pipeline.errors import SettingsError

SettingsT = TypeVar("SettingsT", bound=CaptionerSettings)
MemoryT = TypeVar("MemoryT", bound=EncodedPairs)
StateT = TypeVar("StateT")


class Captioner(nn.Module, ABC, Generic[SettingsT, MemoryT, StateT]):
    """Inputs of B pairs in, captions out.

    A subclass is constructed as `Class(settings, vocabulary_size, shapes)`, with weights from torch's global generator.
    Its settings class names it, and says which input sources it reads; see `CaptionerSettings`.

    Args:
        settings: The section `train.captioner`.
        vocabulary_size: Number of words V, special tokens counted.
        shapes: Shape of each input by the name of its source; see `pipeline.training.inputs.InputSource.shape`.

    Raises:
        SettingsError: The settings do not fit the shapes.
    """

    settings: SettingsT

    def __init__(self, settings: SettingsT, vocabulary_size: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.shapes = dict(shapes)

    @abstractmethod
    def encode(self, inputs: Mapping[str, Any]) -> MemoryT:
        """Encode B pairs once for all their captions.

        Args:
            inputs: What each input source gives for these pairs, on the model's device, by the name of the source.
        """

    @abstractmethod
    def decode(self, memory: MemoryT, tokens: Tensor, rows: Tensor) -> Tensor:
        """Score every next word of given captions (teacher forcing).

        Args:
            memory: Encoded pairs, B of them.
            tokens: Word ids from the start token on, (N, T), padded behind the end.
            rows: Which pair of `memory` each caption describes, (N,).

        Returns:
            Logits (N, T, V); those at t predict token t + 1.
        """

    @abstractmethod
    def start(self, memory: MemoryT, beams: int, length: int) -> StateT:
        """Begin a search; see `pipeline.captioners.generation.StepwiseCaptioner`."""

    @abstractmethod
    def step(self, state: StateT, tokens: Tensor, position: int) -> Tensor:
        """Return the logits (B, K, V) after the beams' newest tokens (B, K), which stand at `position`."""

    @abstractmethod
    def reorder(self, state: StateT, parents: Tensor) -> None:
        """Let beam k of pair b continue beam `parents[b, k]`."""

    @abstractmethod
    def keep(self, state: StateT, pairs: Tensor) -> None:
        """Keep only the pairs at indices `pairs`, in that order."""

    def load_pretrained(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Take the pretrained weights that the input source `name` comes with.

        Raises:
            CheckpointError: They are of another model than the settings describe.
            ValueError: The captioner has no part that takes them.
        """
        raise ValueError(f"this captioner takes no pretrained weights of {name}")

    def cross_attention(self, memory: MemoryT, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return the cross-attention weights of given captions, (N, T, layers, heads, S), for attention maps.

        Raises:
            SettingsError: The captioner has none.
        """
        raise SettingsError(
            f"the captioner {self.settings.kind} gives no attention maps", fix="describe the pairs without --explain"
        )

    def attended_regions(self, inputs: Mapping[str, Any]) -> dict[str, Regions]:
        """Return the regions that attention maps refer to, in their order, by the name of the section of the memory."""
        return {}


def build_captioner(
    settings: CaptionerSettings, vocabulary_size: int, shapes: Mapping[str, tuple[int, ...]]
) -> Captioner[Any, Any, Any]:
    """Construct the captioner that `settings` names; weights come from torch's global generator.

    Raises:
        CheckpointError: See the captioner.
        SettingsError: The settings do not fit the shapes.
    """
    kind = cast("type[Captioner[Any, Any, Any]]", pkgutil.resolve_name(settings.captioner))
    return kind(settings, vocabulary_size, shapes)


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
