"""Settings of captioners and of the search for captions; free of torch, so that the command line may read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from pipeline.captioners.registry import CAPTIONERS
from pipeline.config import Section
from pipeline.graph_encoders.settings import GraphEncoderSettings

FusionKind = Literal["none", "paper", "release"]


class CaptionerSettings(Section):
    """What the settings of every captioner share. A subclass is one kind; `registry.CAPTIONERS` names it."""

    kind: str = Field(description="which captioner")

    captioner: ClassVar[str]
    """The `pipeline.captioners.base.Captioner` that these settings build, as "module:Class"."""

    def input_names(self) -> tuple[str, ...]:
        """Return the names of the input sources that the captioner reads; see `pipeline.training.inputs.SOURCES`."""
        raise NotImplementedError

    def completes(self, values: Mapping[str, Any]) -> bool:
        """Tell whether `values` are of the same kind, so that these settings may fill in what they leave out."""
        return bool(values.get("kind", self.kind) == self.kind)


class SideInputSettings(Section):
    """The inputs beside the scenes, and how they are read; for both fusions."""

    regions: bool = Field(True, description="read regions without a counterpart at the other date (MCL of Table 4)")
    semantics: bool = Field(True, description="read regions that text prompts name (SCA of Table 4)")
    graph: bool = Field(True, description="read the graph of the training captions (CGR of Table 4)")
    max_masks: int | None = Field(
        None,
        ge=1,
        description="use only so many masks of each image, those of the largest predicted IoU; null: all of masks.h5. "
        "Confidences are those that `matches` computed among all (Table 5)",
    )
    match_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="τ of equation (10), applied to the stored confidences; null: what `matches` decided (Table 6)",
    )
    descriptor_width: int | None = Field(
        None,
        ge=8,
        le=2048,
        description="null: descriptors of motion regions are those that `regions` computed; a number: the head g of "
        "equation (8) is trained with the captioner, to that width, on the 7×7 grids that regions.store: grids keeps "
        "(paper silent on whether g is trained, and how)",
    )
    top_q: int | None = Field(
        None,
        ge=1,
        description="of a pair's semantic regions take the q most similar to a prompt, equation (12), both dates "
        "together; null: all that are given, which are already those that the stage `semantics` selected",
    )
    date_embedding: bool = Field(
        True, description="a learned vector per date is added to every region (paper silent; release: false)"
    )
    drop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the regions that is left out of each training step, drawn anew for every pair: what a "
        "detector misses, the captioner then learns to do without (paper and release: 0)",
    )
    graph_encoder: GraphEncoderSettings = Field(
        default_factory=GraphEncoderSettings, description="graph encoder, equation (15), and its readout, (16)"
    )
    pretrained_graph: bool = Field(
        True,
        description="the graph encoder starts with the weights that the stage `graph` pretrained; false: with random "
        "ones (release; the paper pretrains the text encoder of the nodes and says nothing of this one)",
    )
    frozen_graph: bool = Field(
        False,
        description="the graph encoder keeps the weights it is given, without dropout (paper silent; release: false)",
    )


class ConditionVectorSettings(Section):
    """The vector r of equation (17), added to every word of the decoder."""

    region_width: int | None = Field(
        128,
        ge=1,
        description="descriptors and embeddings are projected to this width before they are pooled; null: not "
        "projected (paper silent)",
    )
    region_feedforward: int = Field(
        0,
        ge=0,
        description="residual feed-forward layer on every region before pooling, as a multiple of its width; 0: none, "
        "as in the paper",
    )
    centroid_width: int = Field(
        64, ge=4, description="channels of the positional encoding of a motion region's centroid (paper silent)"
    )
    centroid_waves: int = Field(
        64,
        ge=1,
        description="half periods of the encoding's shortest wave across the image; the longest has one (paper silent)",
    )
    dates_apart: bool = Field(
        False,
        description="pool the regions of each date by themselves and join the two vectors, the nearest to the paper, "
        "which concatenates them within each image and does not say how their number comes to one width; false: both "
        "dates' regions are one set, whose mean tells by date_embedding alone which came and which went",
    )
    pooling: Literal["mean", "attention"] = Field(
        "mean",
        description="how a set of regions becomes one vector: mean, or weights by a learned query, which start as the "
        "mean (the paper says concatenated, of however many regions there are)",
    )
    empty: Literal["learned", "zero"] = Field(
        "learned",
        description="what a set without regions is pooled to: a learned vector or zeros (paper silent; an empty "
        "concatenation would be zeros)",
    )
    condition: Literal["split", "projected"] = Field(
        "split",
        description="how r comes to the decoder's width: W_d, W_s and W_g share it among them, so that (17) stands to "
        "the letter, or each has all of it and a projection follows the norm (paper silent)",
    )

    @field_validator("centroid_width")
    @classmethod
    def _quarters(cls, width: int) -> int:
        if width % 4:
            raise ValueError("a multiple of 4: sine and cosine of x and of y")
        return width


class CrossAttentionSettings(Section):
    """Cross-attention between image tokens and those of regions and graph nodes, as in the authors' release."""

    heads: int = Field(16, ge=1, description="attention heads; release 16")
    feedforward: int = Field(4, ge=1, description="feed-forward width as a multiple of that of the tokens; release 4")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="dropout of both residual branches; release 0.1")
    shared_norm: bool = Field(
        False,
        description="one layer norm for the tokens that attend and for those attended to, as in the release; false: "
        "one for each, as they differ in kind",
    )


class SceneEncoderSettings(Section):
    """The bi-temporal scene encoder, equations (1) to (6)."""

    features: Literal["cached", "none"] = Field(
        default="cached",
        description="cached: those of the stage `scenes`; none: no scenes at all, for data sets without images: "
        "learned tokens stand in their place and regions alone tell the pairs apart (needs a fusion)",
    )
    learned_tokens: int = Field(
        default=8, ge=1, le=1024, description="with features: none, how many tokens; all else but channels is then idle"
    )
    width: int | None = Field(
        default=256,
        ge=8,
        description="features are projected to this width before the attention blocks; null: not projected, as in "
        "paper and release (attention over a ResNet's 2048 channels is dear)",
    )
    blocks: int = Field(default=2, ge=0, description="attention blocks N; the paper does not say, the release has 3")
    heads: int = Field(default=8, ge=1, description="attention heads; the paper does not say")
    positions: Literal["learned", "sinusoid"] = Field(
        default="learned",
        description="the 2-D positional embedding P: learned rows and columns, or fixed waves; paper silent",
    )
    norm: Literal["pre", "post", "none"] = Field(
        default="pre",
        description="layer norm before or after each residual branch; none: equations (2)-(3) to the letter",
    )
    feedforward: int = Field(
        default=0,
        ge=0,
        description="feed-forward width after each block as a multiple of `width`; 0: none, as in the paper",
    )
    head_layers: int = Field(
        default=1, ge=1, description="Conv-BN-ReLU layers of the shallow head; the paper gives no number"
    )
    head_norm: Literal["batch", "group"] = Field(
        default="batch", description="norm of the head: batch as in the paper; group where batches are of a few pairs"
    )
    channels: int | None = Field(
        default=None, ge=8, description="channels C_e of the scene embedding; null: the decoder's width"
    )
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0, description="dropout of every residual branch; paper silent")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        _check_width("width", self.width, self.heads)
        return self

    @model_serializer(mode="wrap")
    def _without_idle(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        learned = ("features", "learned_tokens")
        if self.features == "cached":
            return {name: value for name, value in values.items() if name not in learned}
        return {name: values[name] for name in (*learned, "channels")}


class DecoderSettings(Section):
    """The caption decoder, equations (18) to (22)."""

    width: int = Field(
        default=256, ge=8, description="width d_f of the decoder; the paper does not say, the release has 2048"
    )
    layers: int = Field(default=2, ge=1, description="decoder layers L; the paper does not say, the release has 1")
    heads: int = Field(default=8, ge=1, description="attention heads; the paper does not say, the release has 8")
    feedforward: int = Field(default=4, ge=1, description="feed-forward width as a multiple of `width`; release 4")
    norm: Literal["pre", "post", "none"] = Field(
        default="pre",
        description="where norms and residuals sit: pre (trains without warm-up), post (the original Transformer), "
        "none: equations (19)-(21) to the letter, without residuals around self-attention and feed-forward",
    )
    spatial_bias: bool = Field(
        default=True,
        description="bias of equation (18) on the cross-attention logits; the paper has it, the release has not",
    )
    bias_scope: Literal["shared", "layer"] = Field(
        default="shared",
        description="one pair (alpha, beta) for all layers, as the paper writes it, or one for each layer",
    )
    alpha: float = Field(
        default=1.0, description="value of alpha, the weight of the change map, before training; paper silent"
    )
    beta: float = Field(
        default=0.0, description="value of beta, the weight of the consistency map, before training; paper silent"
    )
    tied: bool = Field(
        default=False, description="the word embedding serves as output projection W_o too; the paper names W_o apart"
    )
    dropout: float = Field(
        default=0.1, ge=0.0, lt=1.0, description="dropout of words and residual branches; release 0.1"
    )

    @model_validator(mode="after")
    def _divides(self) -> Self:
        _check_width("width", self.width, self.heads)
        return self


class SageCCSettings(CaptionerSettings):
    """The SAGE-CC captioner."""

    captioner: ClassVar[str] = "pipeline.captioners.sage_cc:SageCC"

    kind: Literal["sage-cc"] = Field("sage-cc", description=f"which captioner: {CAPTIONERS.describe()}")
    scene: SceneEncoderSettings = Field(
        default_factory=SceneEncoderSettings, description="bi-temporal scene encoder, equations (1)-(6)"
    )
    decoder: DecoderSettings = Field(
        default_factory=DecoderSettings, description="caption decoder, equations (18)-(22)"
    )
    fusion: FusionKind = Field(
        default="none",
        description="how regions and caption graph join the scenes: none, paper (one vector r, equation (17)) or "
        "release (cross-attention between tokens; its decoder has spatial_bias: false)",
    )
    inputs: SideInputSettings = Field(
        default_factory=SideInputSettings, description="what is read beside the scenes; idle with fusion: none"
    )
    paper: ConditionVectorSettings = Field(
        default_factory=ConditionVectorSettings, description="with fusion: paper, how r is made"
    )
    release: CrossAttentionSettings = Field(
        default_factory=CrossAttentionSettings, description="with fusion: release, how tokens attend to each other"
    )

    _idle: ClassVar[dict[FusionKind, tuple[str, ...]]] = {
        "none": ("fusion", "inputs", "paper", "release"),
        "paper": ("release",),
        "release": ("paper",),
    }

    @property
    def channels(self) -> int:
        """Channels C_e of the scene embedding."""
        return self.scene.channels or self.decoder.width

    def input_names(self) -> tuple[str, ...]:
        """Return `scenes` unless there are none, and with a fusion the side inputs that are switched on."""
        scenes = ("scenes",) if self.scene.features == "cached" else ()
        if self.fusion == "none":
            return scenes
        return scenes + tuple(name for name in ("regions", "semantics", "graph") if getattr(self.inputs, name))

    @model_validator(mode="after")
    def _can_fuse(self) -> Self:
        inputs = self.inputs
        if self.fusion != "none" and not (inputs.regions or inputs.semantics or inputs.graph):
            raise ValueError(f"fusion ({self.fusion}) has nothing to join: switch on one of `inputs`, or say none")
        if self.scene.features == "none" and (self.fusion == "none" or not (inputs.regions or inputs.semantics)):
            raise ValueError("scene.features: none leaves regions to tell pairs apart: set a fusion that reads some")
        if self.fusion == "release" and self.channels % self.release.heads:
            raise ValueError(
                f"channels of the scene embedding ({self.channels}) must be a multiple of release.heads "
                f"({self.release.heads})"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_idle(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What cannot show in a model is not among the settings that it is known by.
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name not in self._idle[self.fusion]}


class GenerationSettings(Section):
    """How captions are searched for."""

    beams: int = Field(default=3, ge=1, description="beams kept for each pair; 1: greedy, as in the release")
    max_length: int = Field(
        default=41, ge=3, description="longest caption in tokens, start and end counted, as the vocabulary counts them"
    )
    min_length: int = Field(default=0, ge=0, description="fewest words of a caption")
    length_penalty: float = Field(
        default=0.0, ge=0.0, le=10.0, description="alpha in score = log-probability / length^alpha; 0: no preference"
    )
    n_best: int = Field(default=1, ge=1, description="captions returned for each pair, best first; at most `beams`")
    early_stop: bool = Field(
        default=True, description="stop once no unfinished caption can still be among the best; never changes a result"
    )
    allow_unknown: bool = Field(default=False, description="may the unknown word be generated; paper silent")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.n_best > self.beams:
            raise ValueError(f"n_best ({self.n_best}) must not exceed beams ({self.beams})")
        if self.min_length > self.max_length - 2:
            raise ValueError(
                f"min_length ({self.min_length}) must leave room for start and end in max_length ({self.max_length})"
            )
        return self


def _check_width(name: str, width: int | None, heads: int) -> None:
    if width is not None and (width % heads or width % 4):
        raise ValueError(f"{name} ({width}) must be a multiple of heads ({heads}) and of 4")
